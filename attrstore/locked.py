"""Connections that trust nobody: what a store may do to the machine, and SQL from people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from attrstore.errors import InputError

if TYPE_CHECKING:
    from attrstore.store import Store

# A store may come from anybody: its views must not fetch an extension, and its SQL must not read our variables.
# DuckDB's bar goes to stdout, among the rows.
ALWAYS = {
    "enable_progress_bar": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
}
_ROWS = (
    duckdb.StatementType.SELECT,
    duckdb.StatementType.EXPLAIN,
    duckdb.StatementType.MULTI,
)  # PIVOT is MULTI


@dataclass(frozen=True)
class Limits:
    """What one query of somebody else's may take."""

    seconds: float = 30.0
    memory: int = 1 << 30  # bytes that DuckDB may hold
    threads: int = 2
    rows: int = 1_000  # of the answer
    answer: int = 16 << 20  # bytes of the answer as JSON


def close_doors(connection: duckdb.DuckDBPyConnection, *, files: bool) -> None:
    """Turn extensions off, and files and network too unless `files`: only the store itself can then be read.

    With SET, not in connect(): DuckDB refuses two connections to one file whose configurations at opening differ.
    """
    for setting, value in ALWAYS.items():
        connection.execute(f"SET {setting} = {value}")
    if not files:
        connection.execute("SET enable_external_access = false")


def lock(
    store: Store, *, seconds: float | None = None, limits: Limits | None = None, settings: bool = False
) -> None:
    """Let no SQL on the open store change a setting, unless `settings`; stop each query after `seconds`.

    With `limits`, also bound memory and threads and write nothing to temporary files. A limit of DuckDB's own is
    soft (one huge value outruns it): SQL from people you do not know belongs into `attrstore.child`.
    """
    if store.writable:
        raise InputError(
            f"{store.path}: opened for writing. SQL from people runs on a store opened read-only."
        )
    if limits is not None:
        seconds = limits.seconds
        store.execute(f"SET memory_limit = '{int(limits.memory)} bytes'")
        store.execute(f"SET threads = {int(limits.threads)}")
        store.execute("SET max_temp_directory_size = '0 bytes'")
    if seconds is not None:
        store.execute(f"SET max_execution_time = {max(1, round(seconds * 1000))}")
    if not settings:
        store.execute("SET lock_configuration = true")


def require_one_query(store: Store, sql: str) -> None:
    """Refuse SQL that is not one statement that gives rows."""
    try:
        statements = store.connection.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(str(error)) from error
    if not statements:
        raise InputError("the query is empty.")
    if len(statements) > 1:
        raise InputError(
            f"{len(statements)} statements, and one query is run at a time. Run them one by one."
        )
    kind = statements[0].type
    if kind not in _ROWS:
        raise InputError(
            f"this is {_article(kind.name)} statement, and the store is read-only here: SELECT, FROM, WITH, "
            "DESCRIBE, SUMMARIZE, PIVOT and EXPLAIN give rows."
        )


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name.replace('_', ' ')}"
