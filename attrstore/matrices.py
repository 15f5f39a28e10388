"""A scoring as a matrix, queries by examples in the order of their ingest: numpy's file, or bergson's score store."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

from attrstore.chosen import no_scoring, scoring_names
from attrstore.errors import InputError, flag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from attrstore.store import Store

CELLS = 2**22  # in memory at once


class Scores:
    """The kept scores of a scoring."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.scoring: str | None = store.value(
            "SELECT scoring_id FROM scorings WHERE name = $name", {"name": name}
        )
        if self.scoring is None:
            raise no_scoring(name, scoring_names(store))
        self.queries = store.rows("SELECT query_id, external_id FROM queries ORDER BY query_id")
        self.examples = [id for (id,) in store.rows("SELECT example_id FROM examples ORDER BY example_id")]  # noqa: A001

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the rows of some queries after another, float64 [rows, examples]; NaN where no score is kept."""
        import numpy as np

        at_once = max(1, CELLS // max(1, len(self.examples)))
        for start in range(0, len(self.queries), at_once):
            ids = [query for query, _ in self.queries[start : start + at_once]]
            kept = self.store.named("export", "kept", {"scoring": self.scoring, "queries": ids}).fetchnumpy()
            block = np.full((len(ids), len(self.examples)), np.nan)
            rows = np.searchsorted(ids, kept["query_id"])
            block[rows, np.searchsorted(self.examples, kept["example_id"])] = kept["score"]
            yield block


def write_matrix(store: Store, name: str, out: Path, file_format: str) -> int:
    """Write the scoring and return how many queries it has a row for; `bergson` makes a folder.

    Raises `InputError` where there is no such scoring, or one of `npy` lacks a score, for which numpy has no word that
    a reader would not take for one.
    """
    scores = Scores(store, name)
    return _write_npy(scores, out) if file_format == "npy" else _write_bergson(scores, out)


def _write_npy(scores: Scores, out: Path) -> int:
    import numpy as np

    shape = (len(scores.queries), len(scores.examples))
    matrix = np.lib.format.open_memmap(out, "w+", np.float64, shape)
    done = 0
    for block in scores.blocks():
        lacking = np.isnan(block).sum(axis=1)
        if lacking.any():
            row = int(lacking.argmax())
            raise InputError(
                f"{scores.name}: keeps {shape[1] - lacking[row]:,} of {shape[1]:,} scores for query "
                f"{scores.queries[done + row][1]!r}, and a matrix has all. Score again with {flag('top_k')} "
                f"{shape[1]}, or export as bergson, which says of each whether it is there."
            )
        matrix[done : done + len(block)] = block
        done += len(block)
    matrix.flush()
    return done


def _write_bergson(scores: Scores, out: Path) -> int:
    """A record for each example: of each query a score, and whether it was written."""
    import numpy as np

    if out.exists():
        raise InputError(f"{out}: is there already. Name a new folder.")
    n = len(scores.queries)
    described = {
        "names": [f"{what}_{i}" for i in range(n) for what in ("score", "written")],
        "formats": ["float32", "bool"] * n,
        "offsets": [offset for i in range(n) for offset in (8 * i, 8 * i + 4)],
        "itemsize": 8 * n,
    }
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        record: np.dtype[np.void] = np.dtype(described)  # type: ignore[call-overload]
        records = np.memmap(temporary / "scores.bin", record, "w+", shape=(len(scores.examples),))
        query = 0
        for block in scores.blocks():
            for row in block:
                records[f"written_{query}"] = ~np.isnan(row)
                records[f"score_{query}"] = np.nan_to_num(row)
                query += 1
        records.flush()
        about = {
            "attribute_tokens": False,
            "num_items": len(records),
            "num_rows": len(records),
            "num_scores": n,
        }
        (temporary / "info.json").write_text(
            json.dumps({**about, "dtype": described}, indent=2), encoding="utf-8"
        )
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return n
