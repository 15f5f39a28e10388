"""Write examples to a file in the shape in which they came in: texts, chats, completions, tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from attrstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

    from attrstore.store import Store

BATCH = 1_000  # examples in memory at once


def example_lines(store: Store, chosen: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """Yield a JSON object for each example whose id is in the column `example`, in the order of ingest.

    `attrstore ingest corpus` reads it back equal: id, text or what the example was instead, source and metadata.

    Raises `InputError` where there is no such column, or an id in it that the store does not have.
    """
    if "example" not in chosen.columns:
        raise InputError(
            f"examples are chosen by a column `example` with their ids, and there is: {', '.join(chosen.columns)}."
        )
    ids = chosen.select("example").distinct().to_arrow_table()
    with store.registered(chosen=ids):
        unknown = store.named("export", "unknown_examples").fetchall()
        if unknown:
            raise InputError(f"{store.path}: no example is called {unknown[0][0]!r}.")
        last = -1
        while True:
            rows = store.named("export", "originals", {"after": last, "limit": BATCH}).fetchall()
            if not rows:
                return
            for row in rows:
                yield json.dumps(_record(*row[1:]), ensure_ascii=False)
            last = rows[-1][0]


def _record(
    name: str, text: str, source: str | None, metadata: str | None, shape: str | None, original: str | None
) -> dict[str, object]:
    record: dict[str, object] = {"id": name}
    if shape in (None, "tokens"):
        record["text"] = text
    if original is not None:
        record |= json.loads(original)
    if source is not None:
        record["source"] = source
    return record | (json.loads(metadata) if metadata is not None else {})
