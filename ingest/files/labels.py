"""Ingest ground truth from files: which example states what which query asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.errors import InputError
from attrstore.ingest.files.staging import (
    SHOWN,
    Column,
    Counts,
    Staged,
    job_parameters,
    listed,
    staged,
    written,
)
from attrstore.progress import Progress, silent
from attrstore.runs import writes

if TYPE_CHECKING:
    from attrstore.ingest.files.given import Given
    from attrstore.store import Store


@writes
def ingest_labels(
    store: Store,
    files: Given,
    *,
    query: str = "query_id",
    example: str = "example_id",
    label: str = "label",
    skip_bad: bool = False,
    replace: bool = False,
    progress: Progress = silent,
) -> Counts:
    """Add the labelled pairs of `files` to the store; all of them or, on an error, none.

    Args:
        store: an open, writable store that has the queries and examples.
        files: a name, glob or folder of jsonl, csv, tsv, parquet or Arrow files, or several; or rows: an
            iterable of dictionaries, or a table of polars, pandas or Arrow.
        query: the column with the query's own id.
        example: the column with the example's own id.
        label: the column with a number, above 0 for an example that a good method ranks first; without a
            column `label`, every pair of a file is labelled 1. Other columns are ignored.
        skip_bad: leave out rows that are malformed, whose label is no number, or that name a query or an
            example that the store does not have, and count them.
        replace: let another label for a known pair replace the old one.
        progress: called with the bytes read and the bytes to read.

    Raises:
        InputError: what is wrong, by file and line; the store is as it was.
    """
    columns = [
        Column("query", query),
        Column("example", example),
        Column("label", label, required=False, optional_file=label == "label"),
    ]
    with staged(store, files, columns, progress) as rows:
        store.named("ingest", "default_labels", {"files": rows.absent[2]})
        store.named("ingest", "check_labels", {"label": label})
        skipped = rows.skipped(skip_bad=skip_bad)
        _refuse_conflicts(rows)
        actions = rows.decide("decide_labels", what="the label", replace=replace)
        if set(actions) <= {"unchanged"}:
            return Counts(**actions, skipped=skipped)
        scorings = store.named("ingest", "count_scorings").fetchall()[0][0]
        counts = Counts(**actions, skipped=skipped, scorings_older=scorings)
        origins = {"origins": [file.path.name for file in rows.files]}
        parameters = job_parameters(files, columns, skip_bad=skip_bad, replace=replace)
        with written(store, "ingest labels", counts, **parameters):
            store.named("ingest", "update_labels", origins)
            store.named("ingest", "insert_labels", origins)
    return counts


def _refuse_conflicts(rows: Staged) -> None:
    found = rows.store.named("ingest", "conflicting_labels", {"limit": SHOWN}).fetchall()
    if found:
        raise InputError(
            listed(
                [
                    f"query {query!r}, example {example!r}: "
                    + " and ".join(f"{p['label']:g} ({rows.place(p['file'], p['line'])})" for p in places)
                    for query, example, places, _ in found
                ],
                found[0][-1],
                "Nothing was ingested. A pair has one label.",
            )
        )
