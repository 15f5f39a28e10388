"""Stage the rows of input files in a temporary table and refuse what is wrong with them, by file and line."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, TypedDict, cast

import duckdb

from attrstore.errors import InputError, flag
from attrstore.ingest.files.given import Given, described, find_inputs
from attrstore.ingest.files.readers import InputFile, count_lines, opened, pointer
from attrstore.runs import recorded
from attrstore.statements import statement
from attrstore.store import translated_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from attrstore.progress import Progress
    from attrstore.store import Store

SHOWN = 5  # how many bad rows a message names
AUTO = "auto"  # as the name of the column of ids: there is none, and ids are made of the rows' content
# What a job reads rows by, and the columns that are a row's shape there and not its metadata.
SHAPES = {
    "shaped_examples": (
        "messages",
        "prompt",
        "completion",
        "input_ids",
        "labels",
        "loss_mask",
        "attention_mask",
    ),
    "shaped_queries": ("messages", "completion"),
}
ONE_OF = {"examples": "example", "queries": "query"}


class Actions(TypedDict, total=False):
    """What becomes of the rows, as fields of `Counts`."""

    added: int
    unchanged: int
    updated: int
    replaced: int


@dataclass(frozen=True)
class Counts:
    """What one ingest did, in rows, and what that means for the scorings there were."""

    added: int = 0
    unchanged: int = 0
    updated: int = 0  # the same text with other metadata or another source
    replaced: int = 0
    skipped: int = 0
    repeated: int = 0  # rows of a content that another row of the input has, where ids are made of it
    scorings_older: int = 0  # they do not know the rows that are new or replaced
    shapes: Mapping[str, int] = field(default_factory=dict, compare=False)  # what the rows were recognised as


@dataclass(frozen=True)
class Column:
    """One column that a job takes from its input: its option, its name in the file, what it may lack."""

    option: str
    name: str
    required: bool = True
    optional_file: bool = False  # a file may be without it
    blank: bool = False  # white space alone is a value


@dataclass(frozen=True)
class Staged:
    """The rows of some files, in the temporary table `staged`."""

    store: Store
    files: list[InputFile]
    columns: Sequence[Column]
    absent: list[list[int]]  # for each column, the files that do not have it

    def place(self, file: int, line: int) -> str:
        """Name the place of a row."""
        return self.files[file].place(line)

    def skipped(self, *, skip_bad: bool) -> int:
        """Count the bad rows, or refuse them all."""
        rows = self.store.named("ingest", "bad_rows", {"limit": SHOWN}).fetchall()
        if rows and not skip_bad:
            raise InputError(
                listed(
                    [f"{self.place(file, line)}: {problem}" for file, line, problem, _ in rows],
                    rows[0][-1],
                    f"Nothing was ingested. Correct them, or leave such rows out with {flag('skip_bad')}.",
                )
            )
        return int(rows[0][-1]) if rows else 0

    def numbered(self, table: str) -> int:
        """Give each row an id of its content; return how many rows had the content of another, and are left out."""
        self.store.named("ingest", f"number_{table}")
        return int(self.store.named("ingest", "drop_repeated").fetchall()[0][0])

    def refuse_duplicates(self) -> None:
        """Refuse ids that the input has more than once."""
        rows = self.store.named("ingest", "duplicate_ids", {"limit": SHOWN}).fetchall()
        if rows:
            raise InputError(
                listed(
                    [
                        f"id {name!r} twice: {' and '.join(self.place(**place) for place in places)}"
                        for name, places, _ in rows
                    ],
                    rows[0][-1],
                    "Nothing was ingested. Every id must be unique.",
                )
            )

    def decide(self, name: str, *, what: str, replace: bool) -> Actions:
        """Decide what becomes of each row by the named statement of `sql/statements/ingest.sql`; see `actions`."""
        self.store.named("ingest", name)
        return self.actions(what=what, replace=replace)

    def actions(self, *, what: str, replace: bool) -> Actions:
        """Count what becomes of the rows in `decided`; refuse changes of what is known unless `replace`."""
        if not replace:
            rows = self.store.named("ingest", "changed", {"limit": SHOWN}).fetchall()
            if rows:
                raise InputError(
                    listed(
                        [
                            f"{self.place(file, line)}: {what} of {name!r} differs from the store's"
                            for name, file, line, _ in rows
                        ],
                        rows[0][-1],
                        f"Nothing was ingested. {flag('replace')} takes the new one and drops what was derived from "
                        "the old.",
                    )
                )
        return cast(Actions, dict(self.store.named("ingest", "actions").fetchall()))


@contextmanager
def staged(
    store: Store,
    files: Given,
    columns: Sequence[Column],
    progress: Progress,
    shaped: str = "plain",
) -> Iterator[Staged]:
    """Read every file into the temporary table `staged`, for the length of the block.

    Args:
        shaped: the statement of `sql/statements/ingest.sql` that says what a row may be: see `SHAPES`.
    """
    inputs = find_inputs(files)
    store.named("ingest", "staged_table")
    try:
        total, before = sum(file.size for file in inputs), 0
        for index, file in enumerate(inputs):
            _stage(store, index, file, columns, partial(_progress, progress, before, total), shaped)
            before += file.size
            progress(before, total)
        if not store.named("ingest", "count_rows").fetchall()[0][0]:
            raise InputError(f"{', '.join(str(file.path) for file in inputs)}: no rows.")
        yield Staged(store, inputs, columns, _absent(store, inputs, columns))
    finally:
        store.named("ingest", "unstage")


def _progress(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _stage(
    store: Store,
    index: int,
    file: InputFile,
    columns: Sequence[Column],
    progress: Callable[[int], None],
    shaped: str,
) -> None:
    without: dict[str, None] = {column.name: None for column in columns}
    parameters = {
        "file": index,
        "names": [column.name for column in columns],
        "required": [column.required for column in columns],
        "blank": [column.blank for column in columns],
        "pointers": [pointer(column.name) for column in columns],
        "without": json.dumps(without),
        "without_shaped": json.dumps(without | dict.fromkeys(SHAPES.get(shaped, ()))),
    }
    _read(store, file, "INSERT INTO staged ", "stage", parameters, progress, shaped)
    if file.reader == "read_delimited":
        store.named("ingest", "stage_rejected", {"file": index})
        if store.named("ingest", "open_quotes").fetchall()[0][0]:
            store.named("ingest", "stage_swallowed", {"file": index, "lines": count_lines(file) - 1})
        store.named("ingest", "drop_rejected")


def _read(
    store: Store,
    file: InputFile,
    into: str,
    name: str,
    parameters: dict[str, object],
    progress: Callable[[int], None] = lambda done: None,
    shaped: str | None = None,
) -> list[tuple[object, ...]]:
    """Run the named statement over `records`, the rows of a file, and `shaped`, those rows as the job takes them."""
    query = f"{into}WITH records AS ({statement('ingest', file.reader)})"
    if shaped is not None:
        query += f", shaped AS ({statement('ingest', shaped)})"
    query += f" {statement('ingest', name)}"
    with translated_errors(store.path), opened(store, file, progress) as source:
        try:
            rows = store.connection.execute(query, parameters | source.parameters).fetchall()
        except duckdb.Error as error:
            if source.failure:
                raise source.failure from None
            if not isinstance(error, duckdb.InvalidInputException | duckdb.ConversionException):
                raise
            kind = file.reader.removeprefix("read_")
            raise InputError(f"{file.path}: cannot be read as {kind}. {_reason(error)}") from error
    if source.failure:
        raise source.failure
    return rows


def _reason(error: duckdb.Error) -> str:
    """Return what is wrong with the file, without DuckDB's name for the rows and the trace that Arrow adds."""
    first = str(error).split("\n", 1)[0].partition(" Detail: Python exception")[0]
    return first.removeprefix("Invalid Input Error: ").rpartition("arrow_rows' failed: ")[2]


def _absent(store: Store, files: list[InputFile], columns: Sequence[Column]) -> list[list[int]]:
    """Find the files that lack a column; refuse where the column was needed or asked for."""
    absent: list[list[int]] = [[] for _ in columns]
    for index, filled in store.named("ingest", "filled").fetchall():
        if all(filled):
            continue
        present = [str(row[0]) for row in _read(store, files[index], "", "columns", {})]
        for position, column in enumerate(columns):
            if filled[position] or column.name in present:
                continue
            if not column.optional_file:
                raise InputError(_missing(files[index], column, present))
            absent[position].append(index)
    return absent


def _missing(file: InputFile, column: Column, present: list[str]) -> str:
    near = get_close_matches(column.name.lower(), [name.lower() for name in present], 1, 0.5)
    guess = next((name for name in present if near and name.lower() == near[0]), None)
    hint = (
        f"did you mean {flag(column.option)} {guess!r}?"
        if guess
        else f"name it with {flag(column.option)} NAME."
    )
    return (
        f"{file.path}: no column {column.name!r}. Its columns: {', '.join(present) or 'none'}. "
        f"Nothing was ingested; {hint}"
    )


def listed(lines: list[str], total: int, advice: str) -> str:
    """Join the first lines about bad rows, the number of the others and what to do."""
    more = [f"... and {total - len(lines)} more"] if total > len(lines) else []
    return "\n  ".join([*lines, *more]) + f"\n{advice}"


@contextmanager
def written(store: Store, job: str, counts: Counts, **parameters: object) -> Iterator[None]:
    """Commit the block as one transaction and record it as a run of `counts` rows."""
    with recorded(store, job, **parameters) as run, store.transaction():
        yield
        run.rows = counts.added + counts.updated + counts.replaced


def job_parameters(files: Given, columns: Sequence[Column], **flags: bool) -> dict[str, object]:
    """Return what a run records about its call."""
    return {"files": described(files), **{c.option: c.name for c in columns}, **flags}


def id_column(name: str) -> Column:
    """The column of ids; where ids are made, none is needed."""
    return Column("id", name, required=name != AUTO, optional_file=name == AUTO)


def merge(
    store: Store,
    files: Given,
    columns: Sequence[Column],
    table: str,
    *,
    what: str,
    skip_bad: bool,
    replace: bool,
    progress: Progress,
) -> Counts:
    """Merge files into `examples` or `queries`, whose statements in sql/statements/ingest.sql carry its name."""
    with staged(store, files, columns, progress, f"shaped_{table}") as rows:
        skipped = rows.skipped(skip_bad=skip_bad)
        repeated = rows.numbered(table) if columns[0].name == AUTO else 0
        rows.refuse_duplicates()
        actions = rows.decide(f"decide_{table}", what=what, replace=replace)
        scorings = store.named("ingest", "count_scorings").fetchall()[0][0]
        counts = Counts(
            **actions,
            skipped=skipped,
            shapes=dict(store.named("ingest", "shapes").fetchall()),
            repeated=repeated,
            scorings_older=scorings if actions.get("added") or actions.get("replaced") else 0,
        )
        if counts.added + counts.updated + counts.replaced == 0:
            return counts
        job = f"ingest {'corpus' if table == 'examples' else table}"
        parameters = job_parameters(files, columns, skip_bad=skip_bad, replace=replace)
        with written(store, job, counts, **parameters):
            if counts.replaced:
                store.named("ingest", f"forget_{table}")
            if counts.updated + counts.replaced:
                store.named("ingest", f"update_{table}")
            store.named("ingest", f"insert_{table}")
            store.named("ingest", f"insert_{ONE_OF[table]}_originals")
    return counts
