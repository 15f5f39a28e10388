"""The file itself: made whole, cleared of what is not attrstore's, built anew for older clients, copied."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

import attrstore
from attrstore.cli import main
from attrstore.errors import StoreError
from attrstore.schema import make_file, missing_tables, strangers
from attrstore.statements import scripts
from attrstore.store import Store
from tests.scored import add, fill


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def wrongs(path: Path) -> list[list[Any]]:
    """What `attrstore check` finds: rule, how often, one of them, what to do."""
    records = json.loads(run("check", path, "--format", "json").stdout)
    return [[r["rule"], r["wrong"], r["sample"], r["fix"]] for r in records if not r["ok"]]


def make(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        add(store, "models", "model", "tokens", "models/tiny", None, "Llama", 1000)
        fill(store)


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with duckdb.connect(str(path), read_only=True) as plain:
        names = plain.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()
        return {name: plain.execute(f'FROM "{name}"').fetchall() for (name,) in names}


def test_a_file_of_newer_storage_is_built_anew_by_init(path: Path) -> None:
    with duckdb.connect(str(path), config={"storage_compatibility_version": "latest"}) as plain:
        plain.execute(scripts()[0].text)  # as an attrstore of schema 1 left it
        plain.execute("INSERT INTO meta VALUES ('schema_version', '1')")
    with attrstore.open(path, writable=True) as store:
        fill(store)
        store.execute("CREATE TABLE mine AS SELECT 42 AS answer")
    before = contents(path)
    done = run("init", path)
    assert done.exit_code == 0, done.output
    assert "built anew" in done.stdout
    assert contents(path) == before
    with duckdb.connect(str(path), read_only=True) as plain:
        assert plain.execute("SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal").fetchall() \
            == [("v1.2.0+",)]  # fmt: skip
        compressed = (
            "SELECT DISTINCT segment_type FROM pragma_storage_info('encodings') WHERE column_name = 'code'"
        )
        assert plain.execute(compressed).fetchall() in ([], [("BLOB",)])
    assert "built anew" not in run("init", path).stdout
    assert [p.name for p in path.parent.iterdir()] == [path.name]


FORGERIES = {
    "view pair_labels": "CREATE OR REPLACE VIEW pair_labels AS SELECT 0 AS query_id, 0 AS example_id, 1 AS label",
    "view odd": "CREATE VIEW odd AS SELECT 1 AS one",
    "macro md5_number": "CREATE MACRO md5_number(x) AS 0::UHUGEINT",
    "macro bm25": "CREATE OR REPLACE MACRO bm25(input) AS TABLE FROM read_text('/etc/passwd')",
    "macro duckdb_views": "CREATE MACRO duckdb_views() AS TABLE SELECT 1 AS view_name",
}


def test_what_is_not_attrstores_is_named_and_removed(path: Path) -> None:
    make(path)
    with attrstore.open(path) as store:
        assert strangers(store) == []
    with duckdb.connect(str(path)) as plain:
        for forgery in FORGERIES.values():
            plain.execute(forgery)
    assert run("check", path).exit_code == 1
    fix = f"Remove what is not, and set the others right: attrstore init {path}."
    assert ["views and macros are attrstore's own", len(FORGERIES), min(FORGERIES), fix] in wrongs(path)
    done = run("init", path)
    assert done.exit_code == 0
    for what in FORGERIES:
        assert what in done.stderr
    assert done.stderr.endswith("not attrstore's.\n")
    assert wrongs(path) == []
    with attrstore.open(path) as store:
        assert strangers(store) == []


def test_nothing_is_written_where_it_would_set_something_off(path: Path) -> None:
    with duckdb.connect(str(path), config={"storage_compatibility_version": "latest"}) as plain:
        for script in scripts():
            plain.execute(script.text)
        newest = max(s.number for s in scripts() if s.number < 100)
        plain.execute(f"INSERT INTO meta VALUES ('schema_version', '{newest}')")
        plain.execute(
            "CREATE TRIGGER eager AFTER INSERT ON examples FOR EACH STATEMENT INSERT INTO labels VALUES (0, 0, 1, 'x')"
        )
        plain.execute("CREATE MACRO md5_number(x) AS 0::UHUGEINT")
    with pytest.raises(
        attrstore.StoreError, match=r"macro md5_number, trigger eager on examples.*attrstore init"
    ):
        attrstore.open(path, writable=True)
    done = run("init", path)
    assert done.exit_code == 0
    assert "removed trigger eager on examples" in done.stderr
    attrstore.open(path, writable=True).close()


def test_init_leaves_nothing_half_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()  # what a full disk left
    assert run("init", path).exit_code == 0
    assert run("check", path).exit_code == 0
    path.rename(path.with_name("moved.duckdb"))
    path.with_name(f"{path.name}.wal").write_bytes(b"log")
    done = run("init", path)
    assert done.exit_code == 1
    assert "the log of a store that is not there" in done.stderr
    assert not path.exists()


def test_a_new_store_appears_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = path.with_name(f"{path.name}.wal")
    with monkeypatch.context() as patched:
        broken = [*scripts()[:-1], scripts()[-1]._replace(text="CREATE VIEW half AS FROM nothing")]
        patched.setattr("attrstore.schema.scripts", lambda: broken)
        with pytest.raises(duckdb.CatalogException, match="nothing"):
            make_file(path, log)
    assert list(path.parent.iterdir()) == []
    make_file(path, log)
    assert list(path.parent.iterdir()) == [path]
    with attrstore.open(path, writable=True) as store:  # which finds nothing to bring up to date
        assert (store.removed, strangers(store), missing_tables(store)) == ([], [], {})
        assert store.meta("schema_version") == str(max(s.number for s in scripts() if s.number < 100))


def test_backup_beside_readers(path: Path, tmp_path: Path) -> None:
    make(path)
    copy = tmp_path / "copy.duckdb"
    with attrstore.open(path):
        done = run("backup", path, copy)
    assert (done.exit_code, done.stdout.split(", digest ")[0]) == (
        0,
        f"{copy}: {copy.stat().st_size:,} bytes",
    )
    assert contents(copy) == contents(path)
    assert run("check", copy).exit_code == 0
    done = run("backup", path, copy)
    assert done.exit_code == 2
    assert "is there already" in done.stderr
    assert run("backup", path, tmp_path / "no" / "copy.duckdb").exit_code == 2
    with attrstore.open(path, writable=True) as store, store.transaction():
        store.execute("DELETE FROM labels")
    assert len(contents(copy)["labels"]) > 0


def test_check_names_the_table_of_an_unreadable_block(path: Path) -> None:
    make(path)
    with attrstore.open(path, writable=True) as store:
        store.execute("INSERT INTO block_weights SELECT 'e', 'n', 'r', 'x', repeat('Z', 300000)::BLOB")
    data = bytearray(path.read_bytes())
    place = data.rindex(b"Z" * 1000)
    data[place : place + 8] = b"torn-off"
    path.write_bytes(data)
    assert run("check", path).exit_code == 1
    assert wrongs(path)[0][:3] == ["every table can be read to its end", 1, "block_weights"]


def lose_it(path: Path, replaced: bool, error: Exception | None = None) -> None:
    with attrstore.open(path, create=True):
        path.unlink()
        if replaced:
            path.write_bytes(b"another")
        if error:
            raise error


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_that_is_gone_when_a_job_ends_is_an_error(path: Path, replaced: bool) -> None:
    with pytest.raises(attrstore.StoreError, match=f"{path}: was removed or replaced while it was open"):
        lose_it(path, replaced)
    with pytest.raises(KeyError):  # an error on the way is the one to show
        lose_it(path.with_name("other.duckdb"), replaced, KeyError())


def test_a_file_that_cannot_be_completed_at_the_end_is_an_error(path: Path) -> None:
    make(path)
    log, limit = path.with_name(f"{path.name}.wal"), resource.getrlimit(resource.RLIMIT_FSIZE)
    store = attrstore.open(path, writable=True)
    store.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limit[1]))  # for the log there is room
    try:
        with pytest.raises(StoreError, match=r"no space left on the disk\. Every committed row is safe"):
            store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    store.close()  # once more is no error
    assert log.exists()
    with attrstore.open(path) as store:
        assert store.value("SELECT value FROM meta WHERE key = 'kept'") == "yes"
    assert run("init", path).exit_code == 0
    assert not log.exists()


def test_a_store_that_is_gone_as_it_is_opened_is_the_same_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(path)
    connect = Store._connect

    def late(store: Store) -> duckdb.DuckDBPyConnection:
        connection = connect(store)
        path.unlink()
        return connection

    monkeypatch.setattr(Store, "_connect", late)
    with (
        pytest.raises(StoreError, match=f"{path}: was removed or replaced while it was open"),
        attrstore.open(path, writable=True),
    ):
        pass


def test_a_store_that_lost_its_log_is_clean_and_has_another_digest(path: Path, tmp_path: Path) -> None:
    """Nothing inside the file can tell; the digest that was kept elsewhere does."""
    make(path)
    code = (
        "import attrstore, os, sys; store = attrstore.open(sys.argv[1], writable=True); "
        "store.execute(\"INSERT INTO labels VALUES (0, 1, 1, 'last')\"); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.with_name(f"{path.name}.wal").exists()
    printed = run("backup", path, tmp_path / "copy.duckdb").stdout
    digest = printed.split(", digest ")[1].strip()
    assert run("check", tmp_path / "copy.duckdb", "--expect", digest).exit_code == 0
    assert run("check", path, "--expect", digest).exit_code == 0
    path.with_name(f"{path.name}.wal").unlink()
    assert run("check", path).exit_code == 0
    lost = run("check", path, "--expect", digest)
    assert lost.exit_code == 1
    assert f"and {digest} was expected" in lost.stderr
