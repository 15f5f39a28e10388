"""The rows of a query, a batch at a time; what is wrong with SQL that the caller wrote is wrong input."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from attrstore.errors import AttrstoreError, InputError
from attrstore.store import translated_errors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from attrstore.store import Parameters, Store

BATCH = 10_000  # rows in memory at once
_OURS = (duckdb.FatalException, duckdb.InternalException, duckdb.OutOfMemoryException)


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
    with store.registered(exported=relation):
        yield from fetched(store, sql)


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


def fetched(store: Store, sql: str, parameters: Parameters = None) -> Iterator[list[tuple[object, ...]]]:
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
