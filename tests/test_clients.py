"""Any DuckDB from 1.2 on opens a store and has every view and macro, also where it is attached beside other files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import duckdb
import pytest

import attrstore
from tests.scored import add, fill

SCRIPT = Path(__file__).with_name("clients.py")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clients") / "scored.duckdb"
    with attrstore.open(path, create=True) as store:
        add(store, "models", "model", "tokens", "models/tiny", None, "Llama", 1000)
        fill(store)
        store.execute("INSERT INTO lexical_index VALUES ('[a-z]+', true, NULL, 'okapi', 1.5, 0.75, 0.25)")
        store.execute("INSERT INTO terms VALUES (1, 'text', 60)")
        store.execute("INSERT INTO postings SELECT 1, example_id, 1 FROM examples")
        store.execute("INSERT INTO lexical_stats SELECT example_id, 1 FROM examples")
    return path


def called(python: Path | str, path: Path, how: str) -> dict[str, Any]:
    done = subprocess.run([str(python), str(SCRIPT), str(path), how], capture_output=True, text=True)
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["failed"] == {}
    assert answer["mine"]
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("how", ["use", "path"])
def test_every_view_and_macro_works_where_the_store_is_attached(path: Path, how: str) -> None:
    opened, attached = called(sys.executable, path, "open"), called(sys.executable, path, how)
    assert attached["rows"] == opened["rows"]
    assert opened["rows"]["FROM bm25(input := 'Text 7')"] == 60
    assert opened["rows"]["FROM compare(influence_scoring := 'cosine', retrieval_scoring := 'bm25')"] > 100
    with attrstore.open(path) as store:
        assert len(opened["rows"]) == len(store.named("face", "catalog").fetchall())


def test_stores_are_made_in_the_storage_version_of_the_oldest_client(path: Path) -> None:
    with duckdb.connect(str(path), read_only=True) as plain:
        tags = plain.execute("SELECT tags FROM duckdb_databases() WHERE NOT internal").fetchone()
    assert tags == ({"storage_version": "v1.2.0+"},)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.2", "1.5", "2"])
def test_other_versions_have_every_view_and_macro(path: Path, tmp_path: Path, version: str) -> None:
    python = environment(version)
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "copy"))
    wanted = called(sys.executable, path, "open")["rows"]
    for how in ("open", "use", "path"):
        answer = called(python, copy, how)
        assert answer["version"].startswith(f"{version}.")
        assert answer["rows"] == wanted


def environment(version: str) -> Path:
    """The interpreter of an environment that has this DuckDB and nothing else; it is kept for the next time."""
    folder = Path(tempfile.gettempdir()) / "attrstore-clients" / f"duckdb-{version}"
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (folder / "whole").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"duckdb=={version}.*", "pytz"], check=True)
        (folder / "whole").touch()
    return python
