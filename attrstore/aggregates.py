"""Sums, means and quantiles of the scores of all examples by query and group, taken while a method scans."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from attrstore.errors import InputError, flag
from attrstore.statements import statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow
    from torch import Tensor

    from attrstore.store import Store

QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
AT_ONCE = 2**24  # scores held in memory when they are put together


class Aggregates:
    """Sees every score once and keeps them in a file beside the store, so that memory does not grow with the corpus.

    Args:
        by: `source`, or a key of the examples' metadata. Those of `selected_examples` are grouped.

    Raises `InputError` where no example has a value.
    """

    def __init__(self, store: Store, by: str) -> None:
        import numpy as np

        self.by = by
        table: pyarrow.Table = store.sql(statement("aggregates", "values"), {"by": by}).to_arrow_table()
        coded = table["value"].combine_chunks().dictionary_encode()
        self.values: list[str | None] = [*coded.dictionary.to_pylist(), None]
        if len(self.values) == 1:
            raise InputError(
                f"{flag('group_by')} {by}: no example has a value of it. Give source, or a key of their metadata."
            )
        ids = table["example_id"].to_numpy()
        self._group = np.full(int(ids.max()) + 1, -1, np.int64)
        self._group[ids] = coded.indices.fill_null(len(self.values) - 1).to_numpy()
        self._seen: list[np.ndarray] = []
        self._file = tempfile.TemporaryFile(dir=store.path.absolute().parent)  # noqa: SIM115  # closed with the scan

    def __call__(self, ids: Tensor, scores: Tensor) -> None:
        """Take the scores [queries, n] of the examples `ids` [n]."""
        self._seen.append(self._group[ids.cpu().numpy()])
        scores.T.float().contiguous().cpu().numpy().tofile(self._file)

    def table(self, query_ids: Sequence[int]) -> pyarrow.Table:
        """Return one row for each query, in the order of the scores' rows, and group that has examples."""
        import numpy as np
        import pyarrow as pa

        groups = np.concatenate(self._seen)
        order = np.argsort(groups, kind="stable")
        present, starts = np.unique(groups[order], return_index=True)
        ends = [*starts[1:], len(groups)]
        self._file.flush()
        scores = np.memmap(self._file, np.float32, "r", shape=(len(groups), len(query_ids)))
        columns: dict[str, list[object]] = {}
        width = max(1, AT_ONCE // len(groups))
        for first in range(0, len(query_ids), width):
            part = scores[:, first : first + width].astype(np.float64)[order]
            for group, start, end in zip(present, starts, ends, strict=True):
                found: dict[str, list[object]] = {
                    "query_id": list(query_ids[first : first + width]),
                    "grouped_by": [self.by] * part.shape[1],
                    "value": [self.values[group]] * part.shape[1],
                    "examples": [int(end - start)] * part.shape[1],
                    **_described(part[start:end]),
                }
                for name, column in found.items():
                    columns.setdefault(name, []).extend(column)
        return pa.table(columns | {"value": pa.array(columns["value"], pa.string())})

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def _described(scores: np.ndarray) -> dict[str, list[object]]:
    """Describe the columns of scores [n, queries]."""
    import numpy as np

    quantiles = np.quantile(scores, list(QUANTILES.values()), axis=0)
    return {
        "total": scores.sum(axis=0).tolist(),
        "mean": scores.mean(axis=0).tolist(),
        **{name: row.tolist() for name, row in zip(QUANTILES, quantiles, strict=True)},
    }
