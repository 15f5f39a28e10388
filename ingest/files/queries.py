"""Ingest queries from files: a prompt and the target whose probability is to be explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.ingest.files.staging import Column, Counts, id_column, merge
from attrstore.progress import Progress, silent
from attrstore.runs import writes

if TYPE_CHECKING:
    from attrstore.ingest.files.given import Given
    from attrstore.store import Store


@writes
def ingest_queries(
    store: Store,
    files: Given,
    *,
    id: str = "id",  # noqa: A002
    prompt: str = "prompt",
    target: str = "target",
    skip_bad: bool = False,
    replace: bool = False,
    progress: Progress = silent,
) -> Counts:
    """Add the queries of `files` to the store; all of them or, on an error, none.

    Args:
        store: an open, writable store.
        files: a name, glob or folder of jsonl, csv, tsv, parquet or Arrow files, or several; or rows: an
            iterable of dictionaries, or a table of polars, pandas or Arrow.
        id: the column with the query's own id; `auto` makes ids of prompt and target.
        prompt: the column with the prompt.
        target: the column with the target, kept to the character: a leading space matters to a tokenizer.
            Every other column becomes metadata.
        skip_bad: leave out rows that are malformed or lack an id, a prompt or a target, and count them.
        replace: let a changed prompt or target under a known id replace the old one, and drop the
            encodings and tail-patches that were derived from it. Labels stay; scorings stay and are stale.
        progress: called with the bytes read and the bytes to read.

    Raises:
        InputError: what is wrong, by file and line; the store is as it was.
    """
    columns = [id_column(id), Column("prompt", prompt, blank=True), Column("target", target, blank=True)]
    return merge(
        store, files, columns, "queries",
        what="the prompt or target", skip_bad=skip_bad, replace=replace, progress=progress,
    )  # fmt: skip
