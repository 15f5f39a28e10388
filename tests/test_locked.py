"""SQL from people: what it cannot reach, what it may take, and that it cannot harm the store."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import attrstore
from attrstore import child
from attrstore.cli import main
from attrstore.locked import Limits
from tests.scored import fill

ENDLESS = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range % 7 = b.range % 5"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("locked") / "scored.duckdb"
    with attrstore.open(path, create=True) as store:
        fill(store)
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("FROM read_text('{file}')", "disabled by configuration"),
        ("FROM read_text('https://example.org/x')", "disabled by configuration"),
        ("FROM glob('{folder}/*')", "disabled by configuration"),
        ("FROM '{file}'", "disabled by configuration"),
        ("COPY (SELECT 1) TO '{file}'", "this is a COPY statement"),
        ("COPY (SELECT 1) TO '{store}'", "this is a COPY statement"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{store}'", "disabled by configuration"),
        ("ATTACH '{file}' AS other", "this is an ATTACH statement"),
        ("INSTALL httpfs", "this is a LOAD statement"),
        ("SET threads = 1", "this is a SET statement"),
        ("PRAGMA enable_progress_bar", "this is a PRAGMA statement"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("DROP TABLE scores", "this is a DROP statement"),
        ("FROM relation", "relation does not exist"),
        ("FROM ST_Read('x')", "st_read"),
    ],
)
def test_sql_reaches_nothing_but_the_store(scored: Path, tmp_path: Path, query: str, message: str) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("secret\n1\n")
    before = scored.read_bytes()
    done = run("sql", scored, query.format(file=file, folder=tmp_path, store=scored))
    assert done.exit_code == 2
    assert message in done.stderr
    assert (file.read_text(), done.stdout) == ("secret\n1\n", "")
    assert scored.read_bytes() == before


def test_unlocked_sql_reads_files(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a\n7\n")
    query = f"SET threads = 1; FROM '{tmp_path}/mine.csv'"
    assert run("sql", scored, query, "--format", "csv").exit_code == 2
    assert run("sql", scored, query, "--format", "csv", "--unlocked").stdout == "a\n7\n"


@pytest.mark.parametrize(
    "query",
    [
        "DESCRIBE scores",
        "SUMMARIZE scores",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "PIVOT proponent_kinds_at(3) ON kind USING first(share) GROUP BY scoring",
    ],
)
def test_whatever_gives_rows_is_a_query(scored: Path, query: str) -> None:
    assert run("sql", scored, query).exit_code == 0


def test_sql_stops_in_time(scored: Path) -> None:
    start = time.monotonic()
    done = run("sql", scored, ENDLESS, "--timeout", 0.3)
    assert time.monotonic() - start < 10
    assert (done.exit_code, done.stdout) == (2, "")
    assert "longer than its time limit" in done.stderr


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("ending", ["", ".wal"])
def test_output_never_replaces_the_store(scored: Path, tmp_path: Path, link: bool, ending: str) -> None:
    before = scored.read_bytes()
    out = Path(f"{scored}{ending}")
    if link:
        (tmp_path / "link").symlink_to(out)
        out = tmp_path / "link"
    for command in (["sql", scored, "SELECT 1", "--output", out, "--format", "csv"],
                    ["export", scored, "labels", out, "--format", "csv"]):  # fmt: skip
        done = run(*command)
        assert done.exit_code == 2
        assert "this is the store itself" in done.stderr
    assert scored.read_bytes() == before
    assert not scored.with_name(f"{scored.name}.wal").exists()


@pytest.mark.parametrize("file_format", ["csv", "json", "parquet"])
def test_what_is_no_file_is_written_straight_to(scored: Path, tmp_path: Path, file_format: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    done = run("sql", scored, "SELECT 1 AS a", "--output", pipe, "--format", file_format)
    reader.join(10)
    assert done.exit_code == 0
    assert pipe.is_fifo()
    assert read[0] == {"csv": b"a\n1\n", "json": b'[{"a":1}]\n'}.get(file_format, read[0])
    assert run("export", scored, "labels", "/dev/null", "--format", "csv").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_a_link_stays_and_its_file_is_replaced(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept.csv").write_text("before")
    (tmp_path / "out.csv").symlink_to("folder/kept.csv")
    assert run("export", scored, "SELECT 1 AS a", tmp_path / "out.csv").exit_code == 0
    assert (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / "folder" / "kept.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize("to_file", [False, True])
def test_csv_and_json_hold_every_text_and_number(scored: Path, tmp_path: Path, to_file: bool) -> None:
    values = ["a\rb", "a\r\nb", 'say "x"', ",", " lead", "", "\n", "plain"]
    query = "SELECT unnest([" + ", ".join(f"$${v}$$" for v in values) + "]) AS v"
    numbers = "SELECT ['nan'::DOUBLE, 1.5] AS l, {'x': 'inf'::FLOAT} AS s, 'NaN' AS t"
    printed = {}
    for name, sql in (("csv", query), ("json", numbers)):
        done = run("sql", scored, sql, "--format", name, *(["--output", tmp_path / name] * to_file))
        assert done.exit_code == 0
        printed[name] = (tmp_path / name).read_bytes() if to_file else done.stdout_bytes
    rows = csv.reader(io.StringIO(printed["csv"].decode(), newline=""))
    assert [row[0] for row in rows] == ["v", *values]

    def refuse(word: str) -> None:
        raise AssertionError(word)

    (record,) = json.loads(printed["json"], parse_constant=refuse)
    assert record == {"l": [None, 1.5], "s": {"x": None}, "t": "NaN"}


# The child process


def test_child_answers_as_the_store_does(scored: Path) -> None:
    with attrstore.open(scored) as store:
        relation = store.sql("SELECT name, mrr, queries FROM method_report")
        wanted = [list(row) for row in relation.fetchall()]
        answer = child.run(scored, "SELECT name, mrr, queries FROM method_report")
    assert (answer.columns, answer.rows, answer.more) == (["name", "mrr", "queries"], wanted, False)
    assert answer.types == ["VARCHAR", "DOUBLE", "BIGINT"]
    answer = child.run(
        scored, "SELECT 'nan'::DOUBLE, 'ab'::BLOB, [1], DATE '2026-01-02', $1", parameters=["é"]
    )
    assert answer.rows == [[None, "2 bytes", [1], "2026-01-02", "é"]]


def test_child_cuts_long_answers(scored: Path) -> None:
    answer = child.run(scored, "FROM range(1000)", limits=Limits(rows=3))
    assert (answer.rows, answer.more) == ([[0], [1], [2]], True)
    assert child.run(scored, "SELECT repeat('a', 100000) FROM range(50)", limits=Limits(answer=10**6)).more


@pytest.mark.parametrize(
    ("sql", "limits", "message"),
    [
        (ENDLESS, Limits(seconds=0.5), "longer than its time limit"),
        # One regular expression over one value: DuckDB does not look at its clock inside.
        ("SELECT regexp_replace(repeat('ab', 200000000), '(a|b)+c', '')", Limits(seconds=0.5), "longer|memory"),
        ("SELECT md5(string_agg(range::VARCHAR, '')) FROM range(200000000)", Limits(memory=200 << 20), "memory"),
        ("FROM read_text('/etc/passwd')", Limits(), "disabled by configuration"),
        ("SELEC 1", Limits(), "syntax error"),
        ("DELETE FROM scores", Limits(), "this is a DELETE statement"),
    ],
)  # fmt: skip
def test_child_is_bounded(scored: Path, sql: str, limits: Limits, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(attrstore.InputError, match=message):
        child.run(scored, sql, limits=limits)
    assert time.monotonic() - start < limits.seconds + child.GRACE + 2


def test_child_says_what_is_wrong_with_the_store(tmp_path: Path) -> None:
    with pytest.raises(attrstore.AttrstoreError, match="no such store"):
        child.run(tmp_path / "none.duckdb", "SELECT 1")


# Opening


def test_a_store_open_for_reading_is_not_opened_for_writing(scored: Path) -> None:
    with attrstore.open(scored), pytest.raises(attrstore.StoreError, match="has it open read-only already"):
        attrstore.open(scored, writable=True)
    attrstore.open(scored, writable=True).close()
    with attrstore.open(scored) as one, attrstore.open(scored) as other:  # readers share
        assert one.rows("FROM scorings") == other.rows("FROM scorings")


def test_reading_opens_no_file_and_fetches_no_extension(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    with attrstore.open(scored) as store:
        with pytest.raises(attrstore.AttrstoreError, match="disabled by configuration"):
            store.rows(f"FROM '{tmp_path}/x.csv'")
        settings = dict(store.rows("SELECT name, value FROM duckdb_settings()"))
    assert settings["autoload_known_extensions"] == settings["autoinstall_known_extensions"] == "false"
    with attrstore.open(scored, files=True) as store:
        assert store.rows(f"FROM '{tmp_path}/x.csv'") == [(1,)]
