"""Fixtures: a real store in a temporary folder."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import attrstore
from attrstore.schema import make_file

# Tiny models gain nothing from threads, and beside other work threads that wait for each other lose a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Whatever the terminal in which the tests run; those of the layout say their own.
os.environ["COLUMNS"] = "200"


_connect = duckdb.connect


def _of_one_thread(
    database: str = ":memory:", read_only: bool = False, config: dict[str, Any] | None = None
) -> duckdb.DuckDBPyConnection:
    return _connect(database, read_only, {"threads": 1, **(config or {})})


duckdb.connect = _of_one_thread  # type: ignore[assignment]  # for the same reason


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.duckdb"


@pytest.fixture
def store(path: Path):  # type: ignore[no-untyped-def]
    with attrstore.open(path, create=True) as opened:
        yield opened


@pytest.fixture(scope="session", autouse=True)
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """New stores are copies of one: its tables, views and macros take most of a second to make."""
    first = tmp_path_factory.mktemp("made") / "store.duckdb"
    attrstore.open(first, create=True).close()

    def copied(path: Path, log: Path) -> None:
        if log.exists():  # refused
            make_file(path, log)
        shutil.copyfile(first, path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("attrstore.store.make_file", copied)
        yield
