"""A store's file from the inside: made whole, brought up to date, and cleared of what is not attrstore's."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import duckdb

from attrstore.errors import StoreError
from attrstore.statements import scripts, statement

if TYPE_CHECKING:
    from attrstore.statements import Script
    from attrstore.store import Store

FIRST_FACE = 100  # scripts below this number are migrations; the others are views and macros
_EXCLUDED = re.compile(r"(?<=EXCLUDE )\(([^)]*)\)")
STORAGE = "v1.2.0"  # the oldest DuckDB that opens a new store; a file keeps the version it was made with


def make_file(path: Path, log: Path) -> None:
    """Make a new store, in the storage version that older clients read; it appears whole or not at all."""
    if log.exists():
        raise StoreError(
            f"{log}: the log of a store that is not there. It holds what was committed last: put the store back "
            "beside it, or remove it."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with duckdb.connect(str(temporary), config={"storage_compatibility_version": STORAGE}) as connection:
            connection.begin()
            for script in scripts():
                connection.execute(script.text)
            values = [["schema_version", str(_migrations()[-1].number)], ["face", _face_digest()]]
            connection.executemany("INSERT INTO meta VALUES (?, ?)", values)
            connection.commit()
        os.replace(temporary, path)
    finally:
        for left in (temporary, temporary.with_name(f"{temporary.name}.wal")):
            left.unlink(missing_ok=True)


def bring_up_to_date(store: Store, *, restore: bool = False) -> list[str]:
    """Run the migrations and put the views and macros right where the store is writable; refuse what is too new.

    Views, macros and triggers of others stay, but for those that would act on what is written: these are refused.
    With `restore` all of them are removed. Returns what was removed.
    """
    migrations = _migrations()
    newest = migrations[-1].number
    version = _schema_version(store)
    if version > newest:
        raise StoreError(
            f"{store.path}: schema version {version}, and this attrstore knows up to {newest}. "
            "Upgrade: pip install --upgrade attrstore"
        )
    if not store.writable:
        if version < newest:
            raise StoreError(
                f"{store.path}: schema version {version}, this attrstore needs {newest}. "
                f"Bring it up to date: attrstore init {store.path}"
            )
        return []
    for script in migrations:
        if script.number > version:
            with store.transaction():
                store.connection.execute(script.text)
                store.set_meta({"schema_version": str(script.number)})
    digest = _face_digest()
    known = store.meta("face") == digest  # or another attrstore wrote it, whose views differ rightly
    removed = []
    if version and restore:
        removed = [what for what in strangers(store) if known or what not in _fresh()[0]]
        _remove_face(store)
    if acting := _acting(store):
        raise StoreError(
            f"{store.path}: has {', '.join(acting)}, which attrstore never makes and which would act on what it "
            f"writes. Remove it and set the views right: attrstore init {store.path}"
        )
    if restore or not known:
        with store.transaction():
            for script in _face():
                store.connection.execute(script.text)
            store.set_meta({"face": digest})
    return removed


def strangers(store: Store) -> list[str]:
    """Views and macros that are missing or not as attrstore makes them, and whatever it never makes."""
    found, (fresh, _) = _catalog(store), _fresh()
    return sorted(what for what in found.keys() | fresh.keys() if found.get(what) not in fresh.get(what, ()))


def missing_tables(store: Store) -> dict[str, list[str]]:
    """Tables that are not there or lack columns of attrstore's, and which. Tables of others may stand beside them."""
    found = set(store.named("face", "columns").fetchall())
    _, columns = _fresh()
    missing: dict[str, list[str]] = {}
    for table, column in columns:
        if (table, column) not in found:
            missing.setdefault(table, []).append(column)
    return missing


def own_columns() -> dict[str, list[tuple[str, str]]]:
    """The columns of each of attrstore's tables, by name: their names and types."""
    found: dict[str, list[tuple[str, str]]] = {}
    for table, column in _fresh()[1]:
        name, _, kind = column.partition(" ")
        found.setdefault(table, []).append((name, kind))
    return found


def tables_with(store: Store, column: str) -> list[str]:
    """The tables that have a column of this name, of whatever schema."""
    return [table for (table,) in store.named("face", "tables_with", {"column": column}).fetchall()]


def storage(store: Store) -> str:
    """The version of DuckDB's file format that the file was made with."""
    return str(store.named("face", "storage").fetchall()[0][0]).removesuffix("+")


def _remove_face(store: Store) -> None:
    with store.transaction():
        for (removal,) in store.named("face", "removals").fetchall():
            store.connection.execute(removal)


def _migrations() -> list[Script]:
    return [script for script in scripts() if script.number < FIRST_FACE]


def _face() -> list[Script]:
    return [script for script in scripts() if script.number >= FIRST_FACE]


def _face_digest() -> str:
    return hashlib.sha256("".join(script.text for script in _face()).encode()).hexdigest()


def _catalog(store: Store) -> dict[str, str]:
    return _canonical(store.named("face", "catalog").fetchall())


def _canonical(rows: list[tuple[str, str]]) -> dict[str, str]:
    """What is there by name; DuckDB prints the columns of an EXCLUDE in another order each time it reads them."""
    return {
        what: _EXCLUDED.sub(lambda m: f"({', '.join(sorted(m[1].split(', ')))})", made) for what, made in rows
    }


@cache
def _fresh() -> tuple[dict[str, set[str | None]], list[tuple[str, str]]]:
    """Views and macros as a store of ours may show them, and its columns.

    DuckDB prints what it read from a file otherwise than what it parsed.
    """
    with duckdb.connect() as connection:
        for script in scripts():
            connection.execute(script.text)
        parsed = _canonical(connection.execute(statement("face", "catalog")).fetchall())
    with TemporaryDirectory() as folder:
        file = Path(folder, "fresh.duckdb")
        make_file(file, file.with_suffix(".wal"))
        with duckdb.connect(str(file), read_only=True) as connection:
            read = _canonical(connection.execute(statement("face", "catalog")).fetchall())
            columns = connection.execute(statement("face", "columns")).fetchall()
    return {what: {parsed.get(what), read.get(what)} for what in parsed.keys() | read.keys()}, columns


def _acting(store: Store) -> list[str]:
    """Triggers, and macros that stand in for one of DuckDB's own functions."""
    own = [what for (what,) in store.named("face", "own").fetchall()]
    return [what for what in own if what.startswith("trigger ") or what in _built_in()]


@cache
def _built_in() -> frozenset[str]:
    with duckdb.connect() as connection:
        return frozenset(what for (what,) in connection.execute(statement("face", "built_in")).fetchall())


def _schema_version(store: Store) -> int:
    tables = {row[0] for row in store.named("face", "tables").fetchall()}
    if tables >= {"meta", "encodings"}:
        version = store.meta("schema_version") or "0"
        if not version.isdigit():
            raise StoreError(
                f"{store.path}: its schema version is {version!r}, not a number. Restore a copy."
            )
        return int(version)
    if tables or not store.writable:
        raise StoreError(f"{store.path}: a DuckDB file, but not an attrstore. Choose another path.")
    return 0
