"""Import relevance judgements as labels: TREC's qrels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrstore.errors import InputError
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.readers import InputFile
from attrstore.runs import writes

if TYPE_CHECKING:
    from attrstore.ingest.files.staging import Counts
    from attrstore.store import Store


@writes
def import_qrels(store: Store, file: str | Path, *, skip_bad: bool = False, replace: bool = False) -> Counts:
    """Add the judgements of a TREC qrels file as labels; all of them or, on an error, none.

    Args:
        file: a line a pair, `query 0 example relevance`, apart by spaces or tabs; the second field is not used.
        skip_bad: leave out lines that are malformed, or that name a query or an example that the store does not have.
        replace: let another relevance of a known pair replace the old one.

    Raises:
        InputError: what is wrong, by file and line; the store is as it was.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read. {error}") from error
    rows = [_row(path, number, line, skip_bad=skip_bad) for number, line in enumerate(lines, 1)]
    given = InputFile(path, "read_lines", "none", len(rows), "line", rows)
    return ingest_labels(store, given, skip_bad=skip_bad, replace=replace)


def _row(path: Path, number: int, line: str, *, skip_bad: bool) -> dict[str, object]:
    fields = line.split()
    if len(fields) != 4 and not skip_bad:
        raise InputError(
            f"{path}, line {number}: {len(fields)} fields, and a line of qrels has four: query 0 example relevance."
        )
    # A line that cannot be used is left to the check that counts it.
    query, _, example, label = fields if len(fields) == 4 else (None, None, None, None)
    return {"query_id": query, "example_id": example, "label": _number(label)}


def _number(label: str | None) -> float | str | None:
    try:
        return None if label is None else float(label)
    except ValueError:
        return label
