"""Find input files and read each into records(line, raw, record): a place and the row as a JSON object."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from attrstore.errors import InputError
from attrstore.ingest.files import hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow

    from attrstore.store import Store

# extension: how the file is read
KINDS = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "lines",
    ".csv": "delimited",
    ".tsv": "delimited",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
KNOWN = ", ".join(KINDS) + "; the text formats also as .gz"
CHUNK = 4 << 20  # bytes of lines handed to DuckDB at a time
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class InputFile:
    """One file to read. `reader` names its statement in sql/statements/ingest.sql."""

    path: Path
    reader: str
    compression: str  # none, gzip
    size: int  # bytes on disk
    unit: str  # what a place in the file is called: line, row
    rows: Sequence[Mapping[str, object]] | pyarrow.Table | None = (
        None  # dictionaries or an Arrow table, where there is no file: they are in memory
    )

    def place(self, line: int) -> str:
        """Name a place in the file as a person would look for it."""
        return f"{self.path}, {self.unit} {line}"

    def open(self) -> IO[bytes]:
        """Open the file for reading bytes, decompressed."""
        return gzip.open(self.path) if self.compression == "gzip" else self.path.open("rb")  # type: ignore[return-value]


@dataclass
class Source:
    """A file on its way into DuckDB: parameters of its reader, tables that it streams, what went wrong."""

    parameters: dict[str, object] = field(default_factory=dict)
    tables: dict[str, pyarrow.RecordBatchReader] = field(default_factory=dict)
    failure: BaseException | None = None


def find_files(files: Sequence[str | Path]) -> list[InputFile]:
    """Resolve names, globs and folders to files in order, each once.

    Raises:
        InputError: nothing there, or an extension that attrstore does not read.
    """
    if not files:
        raise InputError("No input file. Name a file, a glob or a folder.")
    found: dict[Path, InputFile] = {}
    for name in files:
        for path in _paths(name):
            found.setdefault(path.resolve(), _input_file(path))
    return list(found.values())


def _paths(name: str | Path) -> list[Path]:
    if str(name).startswith(hub.PREFIX):
        name = hub.local(str(name))
    path = Path(name)
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _saved_dataset(path)
        inside = sorted(entry for entry in path.iterdir() if entry.is_file() and _kind(entry))
        if not inside:
            raise InputError(f"{path}: no file in this folder has an extension that is read: {KNOWN}.")
        return inside
    if path.exists():
        return [path]
    if glob.has_magic(str(name)):
        matches = [Path(match) for match in sorted(glob.glob(str(name), recursive=True))]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise InputError(f"{name}: no file matches this pattern.")
        return matches
    raise InputError(f"{path}: no such file.")


def _saved_dataset(folder: Path) -> list[Path]:
    """Return the files of a folder that `datasets.save_to_disk` wrote, in the order of the rows."""
    if not (folder / "state.json").is_file():
        splits = ", ".join(sorted(str(file.parent) for file in folder.glob("*/state.json")))
        raise InputError(
            f"{folder}: a data set of several splits. Give those that are meant: {splits or 'none'}"
        )
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / Path(entry["filename"]).name for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: state.json is not that of a saved data set. {error!r}") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{folder}: {missing[0]}, which state.json names, is not there. Save the data set again."
        )
    if state.get("_indices_data_files"):
        raise InputError(
            f"{folder}: rows chosen by an index file, as old versions of datasets saved them. Save it again with "
            "flatten_indices()."
        )
    return files


def _kind(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        kind = KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return kind if kind in ("lines", "delimited") else None
    return KINDS.get(suffixes[-1]) if suffixes else None


def _input_file(path: Path) -> InputFile:
    kind = _kind(path)
    if kind is None:
        raise InputError(f"{path}: attrstore does not know this extension. It reads {KNOWN}.")
    compression = "gzip" if path.suffix.lower() == ".gz" else "none"
    unit = "line" if kind == "lines" else "row"
    file = InputFile(path, f"read_{kind}", compression, path.stat().st_size, unit)
    if kind == "lines" and ".json" in (suffix.lower() for suffix in path.suffixes) and _is_array(file):
        return InputFile(path, "read_array", compression, file.size, "element")
    return file


def _is_array(file: InputFile) -> bool:
    with read_errors(file), file.open() as stream:
        return stream.read(4096).removeprefix(BOM).lstrip()[:1] == b"["


@contextmanager
def opened(store: Store, file: InputFile, progress: Callable[[int], None]) -> Iterator[Source]:
    """Make a file's rows visible to its reader; `progress` gets the bytes read so far."""
    source = Source()
    if file.reader == "read_lines":
        source.tables["chunks"] = _line_reader(file, source, progress)
    elif file.reader == "read_arrow":
        source.tables["arrow_rows"] = _arrow_reader(file)
    else:
        source.parameters["file_path"] = glob.escape(str(file.path))
        if file.reader != "read_parquet":
            source.parameters["file_compression"] = file.compression
        if file.reader == "read_delimited":
            names, delimiter = _header(file)
            source.parameters["file_names"] = names
            source.parameters["file_columns"] = {f"c{i}": "VARCHAR" for i in range(len(names))}
            source.parameters["file_delimiter"] = delimiter
    with store.registered(**source.tables):
        yield source


@contextmanager
def read_errors(file: InputFile) -> Iterator[None]:
    """Turn what the file system and the decompressor raise into an error that names the file."""
    import zlib

    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file.path}: cannot be read. {error}") from error


# Lines


def _line_reader(
    file: InputFile, source: Source, progress: Callable[[int], None]
) -> pyarrow.RecordBatchReader:
    import pyarrow as pa

    schema = pa.schema([("first_line", pa.int64()), ("chunk", pa.large_string())])

    def batches() -> Iterator[pyarrow.RecordBatch]:
        try:
            for first_line, lines in _chunks(file, progress) if file.rows is None else row_lines(file.rows):
                yield pa.record_batch([pa.array([first_line]), pa.array([lines], pa.large_string())], schema)
        except BaseException as error:  # Ctrl-C too: DuckDB would report it as an error of its own
            source.failure = error
            raise

    return pa.RecordBatchReader.from_batches(schema, batches())


def _chunks(file: InputFile, progress: Callable[[int], None]) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, whole lines without the last line end)."""
    line, pending = 1, []
    with read_errors(file), file.path.open("rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if file.compression == "gzip" else raw
        block = stream.read(CHUNK).removeprefix(BOM)
        while block:
            cut = block.rfind(b"\n")
            if cut < 0:
                pending.append(block)
            else:
                chunk = b"".join([*pending, block[:cut]])
                yield line, _decoded(chunk)
                line += chunk.count(b"\n") + 1
                pending = [block[cut + 1 :]]
            progress(raw.tell())
            block = stream.read(CHUNK)
        yield line, _decoded(b"".join(pending))


def row_lines(rows: Sequence[Mapping[str, object]], at_once: int = 10_000) -> Iterator[tuple[int, str]]:
    """Yield (number of the first row, rows as lines of JSON)."""
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        yield start + 1, "\n".join(json.dumps(dict(row), ensure_ascii=False, default=str) for row in part)


def _decoded(chunk: bytes) -> str:
    try:
        return chunk.decode()
    except UnicodeDecodeError:  # rare: only then look at single lines
        return "\n".join(map(_decoded_line, chunk.split(b"\n")))


def _decoded_line(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return f"not UTF-8: {line.decode(errors='replace')}"  # no JSON, hence a malformed line


# The other formats


def _arrow_reader(file: InputFile) -> pyarrow.RecordBatchReader:
    import pyarrow as pa

    if file.rows is not None:
        table: pyarrow.Table = file.rows
        return table.to_reader()
    with read_errors(file):
        mapped = pa.memory_map(str(file.path))
        try:
            reader = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            try:
                return pa.ipc.open_stream(mapped)
            except pa.ArrowInvalid as error:
                raise InputError(f"{file.path}: cannot be read as Arrow. {error}") from error
    return pa.RecordBatchReader.from_batches(
        reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
    )


def _header(file: InputFile) -> tuple[list[str], str]:
    """Return the column names and the delimiter of a csv or tsv file."""
    delimiter = "\t" if ".tsv" in (suffix.lower() for suffix in file.path.suffixes) else ","
    try:
        with read_errors(file), file.open() as stream:
            # A byte further down that is not UTF-8 makes its own row bad.
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
            names = next(csv.reader(text, delimiter=delimiter), [])
            "".join(names).encode()
    except (UnicodeError, csv.Error) as error:
        raise InputError(f"{file.path}, row 1: the header cannot be read. {error}") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{file.path}, row 1: two columns are called {twice[0]!r}. Rename one.")
    return names or ["empty"], delimiter


def count_lines(file: InputFile) -> int:
    """Count the lines that are not blank."""
    with read_errors(file), file.open() as stream:
        return sum(not line.isspace() for line in stream)


def pointer(name: str) -> str:
    """Return the JSON pointer of a top-level column."""
    return "/" + name.replace("~", "~0").replace("/", "~1")
