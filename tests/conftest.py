"""Fixtures: a real store in a temporary folder."""

import os
from pathlib import Path

import pytest

import attrstore

# Tiny models gain nothing from threads, and beside other work threads that wait for each other lose a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Whatever the terminal in which the tests run; those of the layout say their own.
os.environ["COLUMNS"] = "200"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.duckdb"


@pytest.fixture
def store(path: Path):  # type: ignore[no-untyped-def]
    with attrstore.open(path, create=True) as opened:
        yield opened
