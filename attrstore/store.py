"""Open one attrstore file: check it, bring it up to date, query it, write it in transactions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb

from attrstore.errors import AttrstoreError, HeldError, InputError, StoreError
from attrstore.locked import close_doors
from attrstore.schema import bring_up_to_date, make_file
from attrstore.statements import statement
from attrstore.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars
    import pyarrow

Parameters = Mapping[str, object] | Sequence[object] | None


def open(  # noqa: A001
    path: str | Path, *, writable: bool = False, create: bool = False, files: bool = False
) -> Store:
    """Open the store at `path`, read-only unless `writable` or `create`.

    Args:
        path: the `.duckdb` file.
        writable: allow writing; one process at a time, and no reader beside it.
        create: make the file if it is not there (implies `writable`); in one that is, set the views and macros
            right and remove those of others, whose names are then in `removed`.
        files: let SQL on a store that is opened read-only reach other files and the network. One opened for
            writing can. Views run SQL too: only for a store whose maker you trust.

    Raises:
        InputError: no such file.
        StoreError: not an attrstore file, held by another process, or written by a newer attrstore.
    """
    return Store(path, writable=writable, create=create, files=files)


class Store(Verbs):
    """One open attrstore file. Use as a context manager."""

    def __init__(
        self, path: str | Path, *, writable: bool = False, create: bool = False, files: bool = False
    ) -> None:
        self.path = Path(path)
        self.writable = writable or create
        if not create and not self.path.is_file():
            raise InputError(f"{self.path}: no such store. Make one: attrstore init {self.path}")
        if create and not self.path.absolute().parent.is_dir():
            raise StoreError(f"{self.path}: the folder {self.path.absolute().parent} does not exist.")
        made = create and not (self.path.exists() and self.path.stat().st_size)
        if made:
            with translated_errors(self.path):
                make_file(self.path, self.log)
        self.connection = self._connect()
        self._inode = self._inode_now()
        self._closed = False
        try:
            close_doors(self.connection, files=files or self.writable)
            self.removed = [] if made else bring_up_to_date(self, restore=create)
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # which says more than what closing could add
            self.connection.close()
            return
        self.close()
        if self.writable and (self._inode is None or self._inode != self._inode_now()):
            raise StoreError(
                f"{self.path}: was removed or replaced while it was open. What was written since is lost: put a copy "
                "back and run the same command again."
            )

    def _inode_now(self) -> int | None:
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Close the file. A writer checkpoints, so that the file is complete without its log.

        Raises:
            StoreError: the file cannot be completed. What was committed is in its log, from which it opens again.
        """
        try:
            if self.writable and not self._closed:  # by itself, DuckDB closes without a word where this fails
                self.execute("CHECKPOINT")
        finally:
            self._closed = True
            self.connection.close()

    @property
    def log(self) -> Path:
        """The file beside it that holds what a writer committed since its last checkpoint."""
        return self.path.with_name(f"{self.path.name}.wal")

    # Reading

    def sql(self, query: str, parameters: Parameters = None) -> duckdb.DuckDBPyRelation:
        """Return `query` as a DuckDB relation: lazy, composable."""
        with translated_errors(self.path):
            return self.connection.sql(query, params=parameters)

    def frame(self, query: str, parameters: Parameters = None) -> polars.DataFrame:
        """Return the rows of `query` as a polars frame."""
        with translated_errors(self.path):
            frame: polars.DataFrame = self.connection.sql(query, params=parameters).pl()
        return frame

    def rows(self, query: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """Return the rows of `query` as tuples."""
        with translated_errors(self.path):
            return self.connection.execute(query, parameters).fetchall()

    def value(self, query: str, parameters: Parameters = None) -> Any:
        """Return the first column of the first row of `query`, or None when there is no row."""
        with translated_errors(self.path):
            # Fetched to the end: DuckDB refuses the next relation while a result is half read.
            found = self.connection.execute(query, parameters).fetchall()
        return found[0][0] if found else None

    # Writing

    def execute(self, query: str, parameters: Parameters = None) -> None:
        """Run a statement for its effect."""
        with translated_errors(self.path):
            self.connection.execute(query, parameters)

    def require_writable(self) -> None:
        """Refuse to go on where the store is open for reading only."""
        if not self.writable:
            raise StoreError(f"{self.path}: opened read-only. Open it with writable=True to write.")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside, or nothing."""
        self.require_writable()
        with translated_errors(self.path):
            self.connection.execute("BEGIN")
            try:
                yield
            except BaseException:
                with suppress(duckdb.Error):  # beside a result that is half read; then closing rolls back
                    self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")

    @contextmanager
    def registered(
        self, **tables: pyarrow.Table | pyarrow.RecordBatchReader | duckdb.DuckDBPyRelation
    ) -> Iterator[None]:
        """Make Arrow tables and relations visible to SQL under the given names, for the length of the block."""
        for name, table in tables.items():
            self.connection.register(name, table)
        try:
            yield
        except BaseException:
            # Whatever stopped the block may have left a result half read, beside which nothing can be run.
            with suppress(duckdb.Error):
                self._unregister(tables)
            raise
        self._unregister(tables)

    def _unregister(self, names: Iterable[str]) -> None:
        for name in names:
            self.connection.unregister(name)

    @contextmanager
    def cache_of(self, n_bytes: int) -> Iterator[None]:
        """Let DuckDB hold at most this many bytes in memory inside the block, and what it could before after it."""
        before = self.value("SELECT current_setting('memory_limit')")
        self.execute("SET memory_limit = $limit", {"limit": f"{n_bytes} bytes"})
        try:
            yield
        finally:
            self.execute("SET memory_limit = $limit", {"limit": _at_least(before)})

    # Opening

    def _connect(self) -> duckdb.DuckDBPyConnection:
        try:
            return duckdb.connect(str(self.path), read_only=not self.writable)
        except duckdb.IOException as error:
            raise _cannot_open(self.path, error) from error
        except duckdb.ConnectionException as error:
            raise StoreError(
                f"{self.path}: this process has it open {'read-only' if self.writable else 'for writing'} already. "
                "Close that first: a store is open for reading or for writing, not for both."
            ) from error
        except duckdb.Error as error:
            raise StoreError(
                f"{self.path}: not a DuckDB file this version can read. {_first(error)}"
            ) from error

    def meta(self, key: str) -> str | None:
        """Return one of the store's own settings."""
        value: str | None = self.value("SELECT value FROM meta WHERE key = $key", {"key": key})
        return value

    def set_meta(self, values: Mapping[str, str]) -> None:
        """Set some of the store's own settings."""
        for key, value in values.items():
            self.connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ($key, $value)", {"key": key, "value": value}
            )

    def named(self, file: str, name: str, parameters: Parameters = None) -> duckdb.DuckDBPyConnection:
        """Execute the named statement of `sql/FILE.sql` and return the connection, ready to fetch."""
        with translated_errors(self.path):
            return self.connection.execute(statement(file, name), parameters)


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors into attrstore's, once, at the boundary."""
    try:
        yield
    except AttrstoreError:
        raise
    except RuntimeError as error:
        if str(error) == "Query interrupted":  # what the client raises when Ctrl-C comes inside a query
            raise KeyboardInterrupt from error
        raise
    except duckdb.InterruptException as error:
        if "maximum execution time" in str(error):
            raise InputError("the query ran longer than its time limit and was stopped.") from error
        raise KeyboardInterrupt from error
    except (duckdb.Error, OSError) as error:
        raise _translated(path, error) from error


def _translated(path: Path, error: duckdb.Error | OSError) -> AttrstoreError:
    # A full disk shows as one of several types, depending on what was being written.
    if re.search(r"no space left|disk full|file too large", str(error), re.IGNORECASE):
        return StoreError(
            f"{path}: no space left on the disk. Every committed row is safe: free some space and run the same "
            f"command again. ({_first(error)})"
        )
    if isinstance(error, duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException):
        return InputError(str(error))
    if isinstance(error, duckdb.IOException | duckdb.FatalException | OSError):
        return StoreError(f"{path}: {_first(error)}")
    return AttrstoreError(str(error))


def _cannot_open(path: Path, error: duckdb.IOException) -> StoreError:
    holder = re.search(r"held in (?P<program>.+?) \(PID (?P<pid>\d+)\)", str(error))
    if holder:
        return HeldError(
            f"{path}: held by another process, PID {holder['pid']} ({holder['program']}). One process writes "
            "at a time, and none reads beside it. Wait for it, or stop it."
        )
    return StoreError(f"{path}: cannot be opened. {_first(error)}")


def _at_least(shown: str) -> str:
    """Return a setting that DuckDB shows as it showed this one, "2.7 GiB": it cuts what follows one digit."""
    number, unit = shown.split()
    power = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB").index(unit)
    return f"{int((float(number) + 0.05) * 1024**power)} bytes"


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
