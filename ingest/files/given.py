"""What a caller may give for input files: names of files, or rows that are in memory already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrstore.errors import InputError
from attrstore.ingest.files.readers import InputFile, find_files

if TYPE_CHECKING:
    import pyarrow


class Arrow(Protocol):
    """A table that hands out Arrow data: of polars, pandas, pyarrow, a DuckDB relation."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


SPLITS = ("DatasetDict", "IterableDatasetDict")  # of Hugging Face datasets
Given = str | Path | InputFile | Iterable[str | Path | Mapping[str, object]] | Arrow


def find_inputs(given: Given) -> list[InputFile]:
    """Return the files of a name, glob or folder, or of several; or rows as a file that lies in memory.

    Raises `InputError` for anything else.
    """
    if isinstance(given, str | Path):
        return find_files([given])
    if isinstance(given, InputFile):
        return [given]
    if hasattr(given, "__arrow_c_stream__"):
        return [_of_table(given)]
    if type(given).__name__ in SPLITS and isinstance(given, Mapping):
        raise InputError(
            f"{type(given).__name__}: a data set of several splits. Give one: {', '.join(given)}"
        )
    if not isinstance(given, Iterable) or isinstance(given, Mapping | bytes):
        raise InputError(_wrong(given))
    items = list(given)
    names = [item for item in items if isinstance(item, str | Path)]
    if len(names) == len(items):
        return find_files(names)
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            raise InputError(f"given rows, row {number}: {_wrong(item)}")
    return [InputFile(Path("given rows"), "read_lines", "none", len(items), "row", items)]


def described(given: Given) -> list[str]:
    """Name what was given, as a run records it."""
    if isinstance(given, str | Path):
        return [str(given)]
    if isinstance(given, InputFile):
        return [str(given.path)]
    if isinstance(given, Sequence) and all(isinstance(item, str | Path) for item in given):
        return [str(item) for item in given]
    return ["given rows"]


def _of_table(given: object) -> InputFile:
    import pyarrow as pa

    table: pyarrow.Table = pa.table(given)
    return InputFile(Path("given table"), "read_arrow", "none", len(table), "row", table)


def _wrong(given: object) -> str:
    return (
        f"{type(given).__name__} is no input. Give the name of a file, glob or folder, several in a list, a table, or "
        "an iterable of dictionaries."
    )
