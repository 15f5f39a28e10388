"""Write query results to files and streams, a batch at a time: tables, TREC and PAIR viewer files."""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from attrstore.batches import BATCH, batches, caller_sql
from attrstore.errors import InputError, flag
from attrstore.formats import write_cells, write_json
from attrstore.matrices import write_matrix
from attrstore.originals import example_lines
from attrstore.records import RECORDS, record_lines
from attrstore.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

    from attrstore.store import Store

SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".json": "json", ".arrow": "arrow"}
OF_SCORINGS = {".npy": "npy"}


def export(store: Store, what: str, out: Path, *, file_format: str | None = None) -> int:
    """Write a table, view, scoring or query result to `out` and return the number of rows.

    The file appears when it is complete, never half written.

    Args:
        store: an open store.
        what: the name of a table, view or scoring, or SQL. `labels` for `trec-qrels`; a scoring for
            `trec-run`, `pair`, `npy` and `bergson`.
        out: the file; its ending chooses the format unless `file_format` does.
        file_format: parquet, csv, jsonl, json, arrow, trec-run, trec-qrels, pair; examples: those whose ids are in
            the column `example`, as JSON lines in the shape in which they came in; npy: a matrix of float64, queries by
            examples; bergson: a folder as `bergson score` writes it.

    Raises:
        InputError: an unknown name, format or folder, or SQL that fails.
    """
    endings = SUFFIXES | OF_SCORINGS
    file_format = file_format or endings.get(out.suffix.lower())
    if file_format is None:
        raise InputError(
            f"{out}: unknown ending. Use {', '.join(endings)}, or {flag('format', 'file_format')}."
        )
    if file_format == "bergson":
        return write_matrix(store, what, out, file_format)
    with replacing(out, beside=store) as temporary:
        if file_format == "npy":
            return write_matrix(store, what, temporary, file_format)
        if file_format in RECORDS:
            lines = (
                example_lines(store, relation_of(store, what))
                if file_format == "examples"
                else record_lines(store, what, file_format)
            )
            return _write_lines(temporary, lines)
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
