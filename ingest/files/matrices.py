"""Read a file that holds one matrix of numbers, in blocks of rows: csv, tsv, npy, parquet."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from attrstore.errors import InputError, flag
from attrstore.ingest.files import foreign

PANDAS_INDEX = "__index_level_0__"  # the column in which pandas keeps an index without a name


@dataclass(frozen=True)
class Expected:
    """What the rows and the columns of the matrix are: their ids, in order."""

    rows: Sequence[str]
    columns: Sequence[str]


@dataclass(frozen=True)
class Matrix:
    """A matrix in a file; nothing but names is in memory."""

    shape: tuple[int, int]  # of the numbers, without header and index column
    offset: tuple[int, int]  # rows and columns of the file before the first number
    row_names: list[str] | None
    column_names: list[str] | None
    blocks: Callable[[int], Iterator[np.ndarray]]  # float64 [at most so many rows, columns], in order
    lacks_some: bool = False  # NaN stands for a score that was not written, and is no mistake

    def place(self, row: int, column: int) -> str:
        """Name a cell as a person would look for it in the file."""
        return f"row {row + 1 + self.offset[0]}, column {column + 1 + self.offset[1]}"


def open_matrix(
    path: Path, expected: Expected, *, header: bool | None = None, index_column: bool | None = None
) -> Matrix:
    """Open the matrix in `path`.

    Args:
        path: .csv or .tsv (also as .gz), .npy (read through a memory map), .parquet, .safetensors as kronfluence
            saves scores, or a folder that `bergson score` wrote.
        expected: what the rows and columns should be. It settles what is a header and what an index column:
            the one row (column) too many, if it holds names, ids or consecutive numbers.
        header: whether the first row of a csv names the columns; None decides as above.
        index_column: whether the first column names the rows; None decides as above.

    Raises:
        InputError: no such file, an unknown format, or no matrix in it.
    """
    if path.is_dir():
        shape, of_folder, names = foreign.bergson(path)
        return Matrix(shape, (0, 0), None, names, of_folder, lacks_some=True)
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((s for s in reversed(suffixes) if s != ".gz"), "")
    reader = READERS.get(kind)
    if reader is None or (suffixes[-1] == ".gz" and reader is not _text):
        raise InputError(f"{path}: not a format for a matrix. Those are {', '.join(READERS)}, and .csv.gz.")
    if header is not None and reader is not _text:
        raise InputError(f"{path}: {flag('header')} and {flag('no_header')} are for csv; {kind} has its own.")
    with _read_errors(path):
        return reader(path, expected, header, index_column)


def _names_rows(names: Sequence[object], ids: Sequence[str]) -> bool:
    """Whether `names` can only be names: the ids, words, or 0, 1, 2, ... or 1, 2, 3, ..."""
    return set(map(str, names)) == set(ids) or is_counting(names) or not any(map(_is_number, names))


def is_counting(names: Sequence[object]) -> bool:
    """Whether `names` are the numbers from 0 or from 1 on."""
    try:
        numbers = [float(str(name)) for name in names]
    except ValueError:
        return False
    return bool(numbers) and numbers[0] in (0, 1) and all(n == numbers[0] + i for i, n in enumerate(numbers))


def _is_number(name: object) -> bool:
    try:
        float(str(name))
    except ValueError:
        return False
    return True


# Text


def _text(path: Path, expected: Expected, header: bool | None, index_column: bool | None) -> Matrix:
    head = list(islice(_text_rows(path), 2))
    if not head:
        raise InputError(f"{path}: empty. A matrix of scores has a row for each query.")
    first, width = head[0], len(head[-1])
    if width == len(first) + 1:  # a header with nothing over the index column
        first, header, index_column = ["", *first], True, True
    starts = []  # the first cell of every row
    for row in _text_rows(path):
        starts.append(row[0])
        if len(row) != width and (len(starts) > 1 or len(first) != width):
            raise InputError(f"{path}, row {len(starts)}: {len(row)} columns, and row 2 has {width}.")
    wide = width == len(expected.columns) + 1
    if header is None:
        named = _names_rows(first[1:] if wide or index_column else first, expected.columns)
        header = len(starts) == len(expected.rows) + 1 and named
    if index_column is None:
        index_column = wide and _names_rows(starts[header:], expected.rows)
    skipped = (int(header), int(index_column))

    def blocks(size: int) -> Iterator[np.ndarray]:
        rows = enumerate(islice(_text_rows(path), skipped[0], None), skipped[0] + 1)
        with _read_errors(path):
            numbers = (_parsed(path, number, row, skipped[1]) for number, row in rows)
            while block := list(islice(numbers, size)):
                yield np.stack(block)

    return Matrix(
        (len(starts) - skipped[0], len(first) - skipped[1]),
        skipped,
        starts[skipped[0] :] if index_column else None,
        first[skipped[1] :] if header else None,
        blocks,
    )


def _text_rows(path: Path) -> Iterator[list[str]]:
    delimiter = "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes) else ","
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        yield from (row for row in csv.reader(text, delimiter=delimiter) if row)


def _parsed(path: Path, number: int, row: list[str], skipped: int) -> np.ndarray:
    try:
        return np.array(row[skipped:], dtype=np.float64)
    except ValueError:
        column, cell = next(
            (i, cell) for i, cell in enumerate(row[skipped:], skipped + 1) if not _is_number(cell)
        )
        raise InputError(f"{path}, row {number}, column {column}: {cell!r} is not a number.") from None


# Binary


def _npy(path: Path, expected: Expected, _: bool | None, index_column: bool | None) -> Matrix:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        held = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"{path}: a matrix of numbers is expected; it holds {held}.")
    n_rows, n_columns = array.shape
    if index_column is None:
        index_column = n_columns == len(expected.columns) + 1 and is_counting(array[:, 0].tolist())
    skipped = int(index_column)

    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, n_rows, size):
            yield array[start : start + size, skipped:].astype(np.float64)

    names = [str(name) for name in array[:, 0].tolist()] if index_column else None
    return Matrix((n_rows, n_columns - skipped), (0, skipped), names, None, blocks)


def _parquet(path: Path, expected: Expected, _: bool | None, index_column: bool | None) -> Matrix:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    columns = [name for name in schema.names if name != PANDAS_INDEX]
    wide = len(columns) == len(expected.columns) + 1
    index = PANDAS_INDEX if PANDAS_INDEX in schema.names else None
    if index_column or (index_column is None and wide):
        values = file.read(columns=columns[:1]).column(0).to_pylist()
        if index_column or _names_rows(values, expected.rows):
            index = columns.pop(0)
    for name in columns:
        kind = schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise InputError(f"{path}, column {name!r}: holds {kind}, not numbers.")

    def blocks(size: int) -> Iterator[np.ndarray]:
        with _read_errors(path):
            for batch in file.iter_batches(batch_size=size, columns=columns):
                cells = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
                yield np.stack([np.asarray(column, np.float64) for column in cells], axis=1)

    names = None if index is None else list(map(str, file.read(columns=[index]).column(0).to_pylist()))
    skipped = int(bool(columns) and schema.names[0] != columns[0])
    return Matrix((file.metadata.num_rows, len(columns)), (0, skipped), names, columns, blocks)


def _safetensors(path: Path, expected: Expected, _: bool | None, index_column: bool | None) -> Matrix:
    if index_column:
        raise InputError(
            f"{path}: {flag('index_column')} is for files that can have one; safetensors cannot."
        )
    shape, blocks = foreign.safetensors(path)
    return Matrix(shape, (0, 0), None, None, blocks)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Turn what the file system and the parsers raise into an error that names the file."""
    import tokenize
    import zlib

    import pyarrow

    # numpy reads a header as Python: what is wrong there is an error of Python's own reader.
    of_parsers = (csv.Error, zlib.error, pyarrow.ArrowException, SyntaxError, tokenize.TokenError)
    try:
        yield
    except (OSError, EOFError, ValueError, *of_parsers) as error:
        raise InputError(f"{path}: cannot be read as a matrix. {error}") from error


# extension: how the file is read
READERS: dict[str, Callable[[Path, Expected, bool | None, bool | None], Matrix]] = {
    ".csv": _text,
    ".tsv": _text,
    ".npy": _npy,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
