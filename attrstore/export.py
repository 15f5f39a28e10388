"""Write query results to files and streams, a batch at a time: tables, TREC and PAIR viewer files."""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from attrstore.errors import AttrstoreError, InputError, flag
from attrstore.formats import write_cells, write_json
from attrstore.originals import example_lines
from attrstore.statements import statement
from attrstore.store import translated_errors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import TextIO

    from attrstore.store import Parameters, Store

SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".json": "json", ".arrow": "arrow"}
RECORDS = ("trec-run", "trec-qrels", "pair", "examples")  # formats that fix the columns themselves
BATCH = 10_000  # rows in memory at once
QUERY_BATCH = 50  # queries of a PAIR file in memory at once; each carries its examples' texts
_OURS = (duckdb.FatalException, duckdb.InternalException, duckdb.OutOfMemoryException)


def export(store: Store, what: str, out: Path, *, file_format: str | None = None) -> int:
    """Write a table, view, scoring or query result to `out` and return the number of rows.

    The file appears when it is complete, never half written.

    Args:
        store: an open store.
        what: the name of a table, view or scoring, or SQL. `labels` for `trec-qrels`; a scoring for
            `trec-run` and `pair`.
        out: the file; its ending chooses the format unless `file_format` does.
        file_format: parquet, csv, jsonl, json, arrow, trec-run, trec-qrels, pair, or examples: those whose ids are
            in the column `example`, as JSON lines in the shape in which they came in.

    Raises:
        InputError: an unknown name, format or folder, or SQL that fails.
    """
    file_format = file_format or SUFFIXES.get(out.suffix.lower())
    if file_format is None:
        raise InputError(
            f"{out}: unknown ending. Use {', '.join(SUFFIXES)}, or {flag('format', 'file_format')}."
        )
    with replacing(out, beside=store) as temporary:
        if file_format in RECORDS:
            return _write_lines(temporary, _record_lines(store, what, file_format))
        return write_file(store, relation_of(store, what), temporary, file_format)


def relation_of(store: Store, what: str) -> duckdb.DuckDBPyRelation:
    """Return the table, view or scoring called `what`, or the result of `what` as SQL."""
    kinds = {name: kind for name, kind in store.named("export", "relations").fetchall()}  # noqa: C416
    kind = kinds.get(what)
    with caller_sql(store.path):
        if kind == "scoring":
            return store.sql(
                "SELECT * EXCLUDE (family) FROM ranked_pairs WHERE scoring = $name ORDER BY query, rank < 0, abs(rank)",
                {"name": what},
            )
        if kind == "view":
            return store.connection.view(what)
        if kind == "table":
            return store.connection.table(what)
        if what.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise InputError(
                f"{store.path}: no table, view or scoring is called {what}. There are: {', '.join(kinds)}."
            )
        return query(store, what)


def query(store: Store, sql: str) -> duckdb.DuckDBPyRelation:
    """Return the rows of somebody's SQL; every fault in it is an InputError."""
    with caller_sql(store.path):
        relation: duckdb.DuckDBPyRelation | None = store.sql(sql)
    if relation is None:
        raise InputError("the query is empty.")
    names = [name.lower() for name in relation.columns]
    if len(set(names)) < len(names):  # SELECT 1 AS a, 2 AS a: DuckDB numbers them when it selects once more
        return relation.query("exported", "FROM exported") or relation
    return relation


def write_file(store: Store, relation: duckdb.DuckDBPyRelation, out: Path, file_format: str) -> int:
    """Stream a relation into a file and return the number of rows."""
    if file_format == "parquet":
        return _write_parquet(store, _portable(relation), out)
    if file_format == "arrow":
        return _write_arrow(store, _portable(relation), out)
    with out.open("w", encoding="utf-8", newline="\n") as stream:
        return write_stream(store, relation, stream, file_format)


def write_stream(store: Store, relation: duckdb.DuckDBPyRelation, stream: TextIO, file_format: str) -> int:
    """Stream a relation as text in one of the formats for programs and return the number of rows."""
    if file_format in ("json", "jsonl"):
        nested = any(_holds_floats(str(kind)) for kind in relation.types)
        with closing(batches(store, _finite(relation), sql=statement("export", "json_lines"))) as found:
            records = (str(record) for batch in found for (record,) in batch)
            return write_json(stream, file_format, map(_without_nan, records) if nested else records)
    with closing(batches(store, relation, as_text=True)) as found:
        first = next(found, [])  # before the header: a query that fails prints nothing
        rows = (row for batch in chain([first], found) for row in batch)
        return write_cells(stream, file_format, relation.columns, rows)


def batches(
    store: Store, relation: duckdb.DuckDBPyRelation, *, sql: str = "FROM exported", as_text: bool = False
) -> Generator[list[tuple[object, ...]], None, None]:
    """Yield the rows of a relation, a batch at a time; times with a zone come as text."""
    columns = zip(relation.columns, relation.types, strict=True)
    relation = relation.select(*(
        duckdb.ColumnExpression(name).cast("VARCHAR").alias(name)
        # Python cannot hold a zoned time without a package that only this would need.
        if as_text or "TIME ZONE" in str(kind)
        else duckdb.ColumnExpression(name)
        for name, kind in columns
    ))  # fmt: skip
    with _visible(store, relation):
        yield from _fetched(store, sql)


@contextmanager
def caller_sql(path: Path) -> Iterator[None]:
    """Count whatever is wrong with SQL that the caller wrote as wrong input."""
    try:
        with translated_errors(path):
            yield
    except InputError:
        raise
    except AttrstoreError as error:
        cause = error.__cause__
        if isinstance(cause, duckdb.Error) and not isinstance(cause, _OURS) and "no space" not in str(error):
            raise InputError(str(cause)) from cause
        raise


@contextmanager
def replacing(out: Path, *, beside: Store) -> Iterator[Path]:
    """Give a temporary path beside `out`, which takes its name when the block succeeds.

    A link stays, and the file that it names is replaced. What is no file (a pipe, a device) is written straight to.
    """
    out = out.resolve()  # or the link itself would be replaced
    if out in (beside.path.resolve(), beside.log.resolve()) or (out.exists() and out.samefile(beside.path)):
        raise InputError(f"{out}: this is the store itself. Choose another file.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: the folder {out.absolute().parent} does not exist.")
    if out.is_dir():
        raise InputError(f"{out}: is a folder. Name a file.")
    if out.exists() and not out.is_file():
        yield out
        return
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


# Parts


def _fetched(store: Store, sql: str, parameters: Parameters = None) -> Iterator[list[tuple[object, ...]]]:
    """Yield batches; only the fetching is guarded, so that the reader's own errors stay what they are."""
    with caller_sql(store.path):
        cursor = store.connection.execute(sql, parameters)
    try:
        while True:
            with caller_sql(store.path):
                batch = cursor.fetchmany(BATCH)
            if not batch:
                return
            yield batch
    finally:
        cursor.abort()


@contextmanager
def _visible(store: Store, relation: duckdb.DuckDBPyRelation) -> Iterator[None]:
    store.connection.register("exported", relation)
    try:
        yield
    finally:
        store.connection.unregister("exported")


def _write_parquet(store: Store, relation: duckdb.DuckDBPyRelation, out: Path) -> int:
    """By a connection of its own: the store's may be one that opens no other file."""
    with caller_sql(store.path), duckdb.connect() as writer:
        writer.register("exported", relation.to_arrow_reader(BATCH))
        copied = writer.execute(statement("export", "copy_parquet"), {"path": str(out)}).fetchall()
    return int(copied[0][0])


def _holds_floats(kind: str) -> bool:
    """Whether it is a list, struct, map or union with fractions in it, which `_finite` does not reach."""
    return kind not in ("FLOAT", "DOUBLE") and ("FLOAT" in kind or "DOUBLE" in kind)


def _without_nan(record: str) -> str:
    return json.dumps(
        json.loads(record, parse_constant=lambda _: None), ensure_ascii=False, separators=(",", ":")
    )


def _finite(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """NaN and infinities become NULL: JSON has no word for them."""
    selected = []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        column: duckdb.Expression = duckdb.ColumnExpression(name)
        if str(kind) in ("FLOAT", "DOUBLE"):
            column = duckdb.CaseExpression(duckdb.FunctionExpression("isfinite", column), column).alias(name)
        selected.append(column)
    return relation.select(*selected)


def _portable(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Text for JSON, bytes to most readers of parquet, and for 128-bit integers, which it would round."""
    return relation.select(*(
        duckdb.ColumnExpression(name).cast("VARCHAR").alias(name)
        if str(kind) in ("JSON", "HUGEINT", "UHUGEINT")
        else duckdb.ColumnExpression(name)
        for name, kind in zip(relation.columns, relation.types, strict=True)
    ))  # fmt: skip


def _write_arrow(store: Store, relation: duckdb.DuckDBPyRelation, out: Path) -> int:
    import pyarrow

    rows = 0
    with caller_sql(store.path):
        reader = relation.to_arrow_reader(BATCH)
        with pyarrow.ipc.new_file(str(out), reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
    return rows


def _write_lines(out: Path, lines: Iterable[str]) -> int:
    n = 0
    with out.open("w", encoding="utf-8", newline="\n") as stream:
        for line in lines:
            stream.write(f"{line}\n")
            n += 1
    return n


def _record_lines(store: Store, what: str, file_format: str) -> Iterator[str]:
    if file_format == "examples":
        return example_lines(store, relation_of(store, what))
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
    for batch in _fetched(store, statement("export", name), parameters):
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
