"""Importing and opening load little, and a store refuses what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import attrstore

HEAVY = ["torch", "transformers", "polars", "pyarrow", "click", "rich", "numpy", "rank_bm25", "Stemmer"]
MODULES = """
import sys
{}
print([m for m in sys.argv[1:] if m in sys.modules])
"""


def loaded(code: str, *names: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", MODULES.format(code), *names], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_import_loads_nothing_heavy() -> None:
    assert loaded("import attrstore", *HEAVY) == "[]"


def test_import_is_fast() -> None:
    """Processor time, because a busy machine would make wall time meaningless; the limit is 0.3 s."""
    code = "import time; import attrstore; print(time.process_time())"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.3


def test_reading_commands_load_no_model_or_frame_library(path: Path) -> None:
    attrstore.open(path, create=True).close()
    names = ["torch", "transformers", "polars", "pyarrow", "numpy"]
    for call in (["sql", "SELECT 1"], ["report"], ["report", "--format", "json"], ["info"], ["check"]):
        arguments = [call[0], str(path), *call[1:]]
        code = f"from attrstore.cli import main; main({arguments!r}, standalone_mode=False)"
        assert loaded(code, *names) == "[]", call


def test_newer_store_is_refused(path: Path) -> None:
    attrstore.open(path, create=True).close()
    with duckdb.connect(str(path)) as con:
        con.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    for writable in (False, True):
        with pytest.raises(attrstore.StoreError, match=r"schema version 99.*Upgrade"):
            attrstore.open(path, writable=writable)


def test_other_duckdb_files_are_refused_unchanged(path: Path) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE mine AS SELECT 1 AS x")
    with pytest.raises(attrstore.StoreError, match="not an attrstore"):
        attrstore.open(path, create=True)
    with duckdb.connect(str(path)) as con:
        assert con.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("mine",)]


HOLDER = """
import sys, attrstore
with attrstore.open(sys.argv[1], writable=True):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_reader_is_told_which_process_writes(path: Path) -> None:
    attrstore.open(path, create=True).close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        for arguments in (["sql", str(path), "SELECT 1"], ["report", str(path)], ["check", str(path)]):
            done = subprocess.run(
                [sys.executable, "-c", "from attrstore.cli import main; main()", *arguments],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 1
            assert f"held by another process, PID {holder.pid}" in done.stderr
            assert done.stdout == ""
        holder.stdin.close()


def test_missing_store_names_the_command_that_makes_one(path: Path) -> None:
    with pytest.raises(attrstore.InputError, match=f"attrstore init {path}"):
        attrstore.open(path)
    assert not path.exists()


def test_reading_a_value_leaves_the_connection_free(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        assert store.value("SELECT i FROM range(10000) t(i)") == 0
        assert store.sql("SELECT 2").fetchall() == [(2,)]
        assert store.value("SELECT 1 WHERE false") is None
