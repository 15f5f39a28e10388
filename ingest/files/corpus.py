"""Ingest training examples from files: new ones are added, known ones checked against the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.ingest.files.staging import Column, Counts, id_column, merge
from attrstore.progress import Progress, silent
from attrstore.runs import writes

if TYPE_CHECKING:
    from attrstore.ingest.files.given import Given
    from attrstore.store import Store


@writes
def ingest_corpus(
    store: Store,
    files: Given,
    *,
    id: str = "id",  # noqa: A002
    text: str = "text",
    source: str = "source",
    skip_bad: bool = False,
    replace: bool = False,
    progress: Progress = silent,
) -> Counts:
    """Add the examples of `files` to the store; all of them or, on an error, none.

    Args:
        store: an open, writable store.
        files: a name, glob or folder of jsonl, csv, tsv, parquet or Arrow files, or several; or rows: an
            iterable of dictionaries, or a table of polars, pandas or Arrow.
        id: the column with the example's own id; `auto` makes ids of the content, which stay the same whatever the
            order of the rows and whatever is appended. Rows of equal content are then one example.
        text: the column with the text that the model was trained on.
        source: the column that says where it comes from; a file may be without a column `source`.
            Every other column becomes metadata.
        skip_bad: leave out rows that are malformed or lack an id or a text, and count them.
        replace: let a changed text under a known id replace the old one, and drop the encodings, postings and
            tail-patches that were derived from it. Labels stay; scorings stay and are stale.
        progress: called with the bytes read and the bytes to read.

    Raises:
        InputError: what is wrong, by file and line; the store is as it was.
    """
    columns = [
        id_column(id),
        Column("text", text),
        Column("source", source, required=False, optional_file=source == "source"),
    ]
    return merge(
        store, files, columns, "examples",
        what="the text", skip_bad=skip_bad, replace=replace, progress=progress,
    )  # fmt: skip
