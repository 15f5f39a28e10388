"""Copy a store: into the file format that older DuckDB clients read, in its own place, or as a backup."""

from __future__ import annotations

import os
from pathlib import Path

from attrstore.errors import InputError, StoreError
from attrstore.schema import STORAGE, storage
from attrstore.store import Store, translated_errors


def upgrade(path: Path) -> bool:
    """Copy every table into a new file and replace the old one, unless the old one is as new files are.

    Readers that have the old file open keep it as it was. Needs as much room beside it as it takes.
    """
    with Store(path) as store:
        if storage(store) == STORAGE:
            return False
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    before = _state(path)
    try:
        copy(path, temporary)
        if _state(path) != before:
            raise StoreError(f"{path}: was written while it was copied, and is as it was. Try again.")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def backup(path: Path, out: Path) -> int:
    """Write a copy of the store as it is now and return its bytes. Readers may have it open; a writer keeps it out.

    Raises:
        InputError: `out` is there already, or its folder is not.
        StoreError: the store is being written, or a part of it cannot be read; nothing is left at `out`.
    """
    if out.exists():
        raise InputError(
            f"{out}: is there already. Name a new file, so that no copy is lost before this one is whole."
        )
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: the folder {out.absolute().parent} does not exist.")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with Store(path):  # while it is open, nobody writes
            copy(path, temporary)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return out.stat().st_size


def copy(path: Path, out: Path) -> None:
    """Write every table of a store into a new store."""
    with translated_errors(path), Store(out, create=True) as new:
        new.execute(f"ATTACH {_quoted(path)} AS copied (READ_ONLY)")
        made = {name for (name,) in new.named("face", "tables").fetchall()}
        new.execute("DELETE FROM meta")
        for (name,) in new.rows("SELECT table_name FROM duckdb_tables() WHERE database_name = 'copied'"):
            table = '"' + name.replace('"', '""') + '"'
            if name not in made:
                new.execute(f"CREATE TABLE {table} AS FROM copied.{table} LIMIT 0")
            new.execute(f"INSERT INTO {table} BY NAME FROM copied.{table}")
        new.execute("DETACH copied")


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
