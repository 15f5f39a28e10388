"""report, sql and export: what they print, where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest
from click.testing import CliRunner, Result
from polars.testing import assert_frame_equal

import attrstore
from attrstore.cli import main
from attrstore.evaluation.report import report
from tests.scored import N_EXAMPLES, N_QUERIES, TOP_K, World, add, add_ranking, add_scoring, add_texts, fill

MAIN = "from attrstore.cli import main; main()"
READERS: dict[str, Callable[[Path], polars.DataFrame]] = {
    "parquet": polars.read_parquet,
    "csv": polars.read_csv,
    "jsonl": polars.read_ndjson,
    "json": polars.read_json,
    "arrow": polars.read_ipc,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    path = tmp_path_factory.mktemp("read") / "scored.duckdb"
    with attrstore.open(path, create=True) as store:
        add(store, "models", "model", "tokens", "models/tiny", None, "Llama", 1000)
        return path, fill(store)


@pytest.fixture
def scored(built: tuple[Path, World]) -> Path:
    return built[0]


def run(*arguments: Any, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


# report


def test_report_json_is_the_view(scored: Path) -> None:
    done = run("report", scored, "--format", "json")
    assert done.exit_code == 0
    with duckdb.connect(str(scored), read_only=True) as con:
        relation = con.sql("FROM method_report")
        wanted = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    records = json.loads(done.stdout)
    assert [list(r) for r in records] == [list(w) for w in wanted]
    # Threads add in any order, so a mean may differ in its last digit from one query to the next.
    assert_frame_equal(polars.DataFrame(records), polars.DataFrame(wanted), rel_tol=1e-12)


def test_report_csv_and_table(scored: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("report", scored, "--format", "csv").stdout)))
    records = json.loads(run("report", scored, "--format", "json").stdout)
    assert [row["name"] for row in rows] == [r["name"] for r in records]
    assert [float(row["mrr"]) for row in rows] == [r["mrr"] for r in records]
    assert rows[-1]["tail_patch_prob"] == ""
    lines = run("report", scored).stdout.splitlines()
    # The method is left out where every scoring is called after its own.
    first = records[0]
    assert lines[0].split()[:7] == ["name", "family", "queries", "n", "labelled", "mrr", "hit@10"]
    cells = [first["name"], first["family"], str(N_QUERIES), str(N_QUERIES - 2), f"{first['mrr']:.4f}"]
    assert lines[2].split()[:5] == cells


def test_report_by_prints_a_row_per_value(scored: Path) -> None:
    records = json.loads(run("report", scored, "--by", "relation", "--format", "json").stdout)
    assert [(r["value"], r["queries"]) for r in records] == [("r0", 7)] * 3 + [("r1", 7)] * 3


def test_report_intervals(scored: Path) -> None:
    records = json.loads(run("report", scored, "--intervals", "--format", "json").stdout)
    assert list(records[0]) == [
        "name", "method", "family", "encoder", "model", "setting", "metric", "queries", "mean", "low", "high",
    ]  # fmt: skip
    assert len(records) == 3 * 6 + 2  # only one scoring has tail patches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "colour"], "no query has 'colour' in its metadata. Keys there: kind, relation."),
        (["--class-column", "relation"], "no example has 'relation' in its metadata. Keys there: kind."),
        (["--class-column", "kind", "--by", "kind"], "cannot be combined"),
        (["--intervals", "--by", "kind"], "cannot be combined"),
    ],
)
def test_report_refuses_unknown_columns(scored: Path, arguments: list[str], message: str) -> None:
    done = run("report", scored, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_accuracy_and_cover(path: Path) -> None:
    """20 examples for each of 3 classes, stored 20 deep: cover looks at the first 20."""
    orders = {q: [(7 * i + q) % N_EXAMPLES for i in range(N_EXAMPLES)] for q in range(N_QUERIES)}
    with attrstore.open(path, create=True) as store, store.transaction():
        add_texts(store)
        for number, (name, depth) in enumerate([("deep", 20), ("shallow", 19)]):
            add_scoring(store, name, "influence", N_EXAMPLES, number)
            for q, order in orders.items():
                add_ranking(store, name, q, order, set(order[TOP_K:depth]), opponents=False)
    done = run("report", path, "--class-column", "kind", "--format", "json")
    deep, shallow = json.loads(done.stdout)
    accuracy = sum(order[0] % 3 == q % 3 for q, order in orders.items()) / N_QUERIES
    cover = sum(e % 3 == q % 3 for q, order in orders.items() for e in order[:20]) / 20 / N_QUERIES
    assert list(deep)[-3:] == ["class_queries", "accuracy", "cover"]
    assert deep["class_queries"] == N_QUERIES
    assert (deep["accuracy"], deep["cover"]) == (pytest.approx(accuracy), pytest.approx(cover))
    assert (shallow["accuracy"], shallow["cover"]) == (pytest.approx(accuracy), None)
    assert "shallow: no cover" in done.stderr
    assert "first 20 proponents" in done.stderr
    assert "only 19 stored. Score again with --top-k 20." in done.stderr
    assert "deep:" not in done.stderr


def test_report_frame(scored: Path) -> None:
    with attrstore.open(scored) as store:
        frame = report(store)
        assert_frame_equal(frame, store.frame("FROM method_report"), rel_tol=1e-12)
        assert report(store, class_column="kind").columns[-2:] == ["accuracy", "cover"]
        assert frame.schema["tail_patch_prob"] == polars.Float64


def test_report_of_an_unscored_store_says_what_comes_next(path: Path) -> None:
    run("init", path)
    done = run("report", path, "--format", "json")
    assert (done.exit_code, done.stdout) == (0, "[]\n")
    assert done.stderr == f"No scorings yet. Make one: attrstore score {path} bm25\n"


# sql


def test_sql_table(scored: Path) -> None:
    done = run("sql", scored, "SELECT 1 AS one, 'ab'::BLOB AS code, NULL AS nothing, now() IS NULL AS flag")
    assert done.exit_code == 0
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0].split() == ["one", "code", "nothing", "flag"]
    assert lines[2] == "  1  2 bytes  –        False"


def test_sql_prints_zoned_times_and_repeated_names(scored: Path) -> None:
    done = run(
        "sql", scored, "SELECT created, 1 AS a, 2 AS a FROM scorings WHERE name = 'cosine'", "--format", "csv"
    )
    header, row = done.stdout.splitlines()
    assert header == "created,a,a_1"
    assert row.startswith("2026-01-0")
    assert row.endswith(",1,2")


def test_sql_json_and_csv_are_exact(scored: Path) -> None:
    query = (
        "SELECT 1 AS n, 'x,\"y' AS s, [1, NULL] AS l, 'nan'::DOUBLE AS bad, "
        "'{\"k\": [true]}'::JSON AS j, NULL AS z"
    )
    done = run("sql", scored, query, "--format", "json")
    assert done.stdout == '[{"n":1,"s":"x,\\"y","l":[1,null],"bad":null,"j":{"k":[true]},"z":null}]\n'
    done = run("sql", scored, query, "--format", "csv")
    assert done.stdout == 'n,s,l,bad,j,z\n1,"x,""y","[1, NULL]",nan,"{""k"": [true]}",\n'
    assert run("sql", scored, "SELECT 1 AS a WHERE false", "--format", "json").stdout == "[]\n"
    assert run("sql", scored, "SELECT 1 AS a WHERE false", "--format", "csv").stdout == "a\n"


def test_sql_reads_stdin_and_writes_files(scored: Path, tmp_path: Path) -> None:
    for ending in ("csv", "json", "parquet"):
        out = tmp_path / f"out.{ending}"
        done = run("sql", scored, "-", "--format", ending, "--output", out, stdin="FROM labels ORDER BY ALL")
        assert (done.exit_code, done.stdout) == (0, "")
        assert "rows" in done.stderr
        frame = READERS[ending](out)
        with duckdb.connect(str(scored), read_only=True) as con:
            assert frame.rows() == con.execute("FROM labels ORDER BY ALL").fetchall()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.json", "out.parquet"]


def test_sql_parquet_goes_down_a_pipe(scored: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "sql", str(scored), "FROM scores", "--format", "parquet"],
        capture_output=True,
        check=True,
    )
    assert polars.read_parquet(io.BytesIO(done.stdout)).columns[0] == "scoring_id"


def test_sql_into_a_closed_pipe_is_quiet(scored: Path) -> None:
    command = f"{sys.executable} -c '{MAIN}' sql {scored} 'FROM range(1000000)'"
    done = subprocess.run(f"{command} --format csv | head -1", shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("range\n", "")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("FROM nowhere", "nowhere"),
        ("SELECT 'a'::INTEGER", "Could not convert"),
        ("DELETE FROM scores", "read-only"),
        ("FROM 'missing.parquet'", "missing.parquet"),
        ("FROM compare('cosmic', 'bm25')", "No scoring is called cosmic"),
        ("", "empty"),
    ],
)
@pytest.mark.parametrize("output_format", ["table", "csv", "json"])
def test_sql_errors_are_the_callers(scored: Path, query: str, message: str, output_format: str) -> None:
    done = run("sql", scored, query, "--format", output_format)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_sql_table_stops_after_a_thousand_rows(scored: Path) -> None:
    done = run("sql", scored, "FROM range(1001)")
    assert done.stdout.splitlines()[-1].strip() == "999"
    assert done.stderr == "First 1,000 rows. All of them: --format csv\n"


# export


@pytest.mark.parametrize("ending", list(READERS))
@pytest.mark.parametrize(
    "what",
    ["labels", "agreement", "bm25", "SELECT external_id, metadata, text AS t FROM examples ORDER BY 1"],
)
def test_export_round_trips(scored: Path, tmp_path: Path, what: str, ending: str) -> None:
    out = tmp_path / f"out.{ending}"
    done = run("export", scored, what, out)
    assert done.exit_code == 0, done.output
    sql = {"bm25": "SELECT * FROM retrieval", "labels": "FROM labels", "agreement": "FROM agreement"}.get(
        what, what
    )
    with attrstore.open(scored) as store:
        wanted = store.frame(sql)
    frame = READERS[ending](out)
    assert frame.columns == wanted.columns
    assert done.stdout == f"{out}: {len(wanted):,} rows\n"
    keys = [c for c in wanted.columns if c not in ("metadata", "rank_correlation", "overlap_at_10", "score")]
    assert sorted(map(str, frame.select(keys).rows())) == sorted(map(str, wanted.select(keys).rows()))


def test_export_keeps_128_bit_numbers(scored: Path, tmp_path: Path) -> None:
    for ending in ("parquet", "arrow"):
        run("export", scored, "examples", tmp_path / f"e.{ending}")
        with attrstore.open(scored) as store:
            first = store.value("SELECT content_hash::VARCHAR FROM examples WHERE example_id = 0")
        frame = READERS[ending](tmp_path / f"e.{ending}")
        assert frame["content_hash"][0] == first
        assert json.loads(frame["metadata"][4]) == {"kind": "c1"}


def test_trec_run_gives_the_same_mrr(scored: Path, built: tuple[Path, World], tmp_path: Path) -> None:
    """Ranks have no gap, so that a tool that sorts by score sees the same ones."""
    world = built[1]
    run("export", scored, "trackstar", tmp_path / "run.txt", "--format", "trec-run")
    run("export", scored, "labels", tmp_path / "qrels.txt", "--format", "trec-qrels")
    lines = [line.split(" ") for line in (tmp_path / "run.txt").read_text().splitlines()]
    assert {len(line) for line in lines} == {6}
    wanted = []
    for q in range(N_QUERIES):
        order = world.rankings["trackstar"][q]
        kept = TOP_K
        while order[kept] in world.labelled.get(q, ()):
            kept += 1
        wanted += [
            [f"q{q}", "Q0", f"e{e}", str(p), str(1.0 - p / 100), "trackstar"]
            for p, e in enumerate(order[:kept], 1)
        ]
    assert lines == wanted
    qrels = sorted((tmp_path / "qrels.txt").read_text().splitlines())
    zero = next(e for e in range(N_EXAMPLES) if e not in world.labelled[0])
    assert qrels == sorted(
        [f"q{q} 0 e{e} 1" for q, es in world.labelled.items() for e in es] + [f"q0 0 e{zero} 0"]
    )


def test_trec_refuses_ids_with_white_space(path: Path, tmp_path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        add(store, "queries", 0, "q 0", "p", "t", None, 0)
    out = tmp_path / "qrels.txt"
    done = run("export", path, "labels", out, "--format", "trec-qrels")
    assert done.exit_code == 2
    assert "'q 0' contains white space" in done.stderr
    assert not out.exists()


def test_pair_records_of_the_only_scoring(scored: Path, tmp_path: Path) -> None:
    alone = shutil.copy(scored, tmp_path / "alone.duckdb")
    for name in ("bm25", "trackstar"):
        assert run("delete", alone, "scoring", name, "--yes").exit_code == 0
    run("export", alone, "cosine", tmp_path / "pair.jsonl", "--format", "pair")
    assert len((tmp_path / "pair.jsonl").read_text().splitlines()) == N_QUERIES


def test_pair_records(scored: Path, built: tuple[Path, World], tmp_path: Path) -> None:
    world = built[1]
    run("export", scored, "cosine", tmp_path / "pair.jsonl", "--format", "pair")
    records = [json.loads(line) for line in (tmp_path / "pair.jsonl").read_text().splitlines()]
    assert [r["example_id"] for r in records] == [f"q{q}" for q in range(N_QUERIES)]
    order, last = world.rankings["cosine"][3], records[3]
    n = len(last["proponents"])
    assert n >= TOP_K
    assert last == {
        "example_id": "q3",
        "query_set": "cosine",
        "inputs_plaintext": "prompt 3",
        "targets_plaintext": "target 3",
        "proponents": [f"text {e}" for e in order[:n]],
        "proponent_ids": [f"e{e}" for e in order[:n]],
        "proponent_scores": [1.0 - p / 100 for p in range(1, n + 1)],
        "opponents": [f"text {e}" for e in order[::-1][:TOP_K]],
        "opponent_ids": [f"e{e}" for e in order[::-1][:TOP_K]],
        "opponent_scores": [1.0 - p / 100 for p in range(N_EXAMPLES, N_EXAMPLES - TOP_K, -1)],
        "proponent_correct": [e in world.labelled[3] for e in order[:n]],
        "relation": "r1",
    }
    assert "proponent_correct" not in records[13]


@pytest.mark.parametrize(
    ("what", "out", "options", "message"),
    [
        ("nothing", "x.csv", [], "no table, view or scoring is called nothing. There are: "),
        ("labels", "x.xlsx", [], "unknown ending. Use .parquet"),
        ("labels", "no/such/x.csv", [], "does not exist"),
        ("SELEC 1", "x.csv", [], "syntax error"),
        ("SELECT 'a'::INTEGER", "x.csv", [], "Could not convert"),
        ("labels", "x.txt", ["--format", "pair"], "There are: bm25, cosine, trackstar."),
        ("cosine", "x.txt", ["--format", "trec-qrels"], "trec-qrels writes the labels"),
    ],
)
def test_export_errors_leave_nothing(
    scored: Path, tmp_path: Path, what: str, out: str, options: list[str], message: str
) -> None:
    done = run("export", scored, what, tmp_path / out, *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_failed_export_keeps_the_old_file_and_the_store(scored: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    out.write_text("before")
    assert run("export", scored, "SELECT error('no')", out).exit_code == 2
    assert out.read_text() == "before"
    before = scored.read_bytes()
    done = run("export", scored, "labels", scored, "--format", "trec-qrels")
    assert done.exit_code == 2
    assert "this is the store itself" in done.stderr
    assert scored.read_bytes() == before
