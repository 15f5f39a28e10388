"""Formats that fix their records themselves: TREC runs and qrels, PAIR viewer records, examples as they came in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from attrstore.batches import fetched
from attrstore.errors import InputError
from attrstore.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attrstore.store import Parameters, Store

RECORDS = ("trec-run", "trec-qrels", "pair", "examples")
QUERY_BATCH = 50  # queries of a PAIR file in memory at once; each carries its examples' texts


def record_lines(store: Store, what: str, file_format: str) -> Iterator[str]:
    """Yield the lines of a TREC or PAIR file; raises `InputError` where `what` has none of them."""
    if file_format == "trec-qrels":
        if what != "labels":
            raise InputError(
                f"{what}: trec-qrels writes the labels. Say: attrstore export STORE labels OUT ..."
            )
        _require_solid_ids(store)
        return _trec(store, "trec_qrels", None)
    scoring = store.value("SELECT scoring_id FROM scorings WHERE name = $name", {"name": what})
    if scoring is None:
        names = (
            ", ".join(row[0] for row in store.rows("SELECT name FROM scorings ORDER BY name")) or "none yet"
        )
        raise InputError(f"{what}: {file_format} needs a scoring, and none is called so. There are: {names}.")
    if file_format == "pair":
        return _pair(store, scoring)
    _require_solid_ids(store)
    return _trec(store, "trec_run", {"scoring": scoring})


def _require_solid_ids(store: Store) -> None:
    blank = store.named("export", "blank_ids").fetchall()
    if blank:
        raise InputError(
            f"the id {blank[0][0]!r} contains white space, which separates the columns of a TREC file. "
            "Export with SQL instead: attrstore export STORE \"SELECT replace(query, ' ', '_') ...\" OUT.csv"
        )


def _trec(store: Store, name: str, parameters: Parameters) -> Iterator[str]:
    for batch in fetched(store, statement("export", name), parameters):
        for (line,) in batch:
            yield str(line)


def _pair(store: Store, scoring: str) -> Iterator[str]:
    ids = [row[0] for row in store.named("export", "scored_queries", {"scoring": scoring}).fetchall()]
    for start in range(0, len(ids), QUERY_BATCH):
        chosen = ids[start : start + QUERY_BATCH]
        cursor = store.named("export", "pair", {"scoring": scoring, "queries": chosen})
        columns = [column[0] for column in cursor.description or ()]
        for row in cursor.fetchall():
            record = {k: v for k, v in zip(columns, row, strict=True) if v is not None}
            yield json.dumps(record, ensure_ascii=False)
