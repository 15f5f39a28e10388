"""A scoring that is older than what it ranks says so, in SQL and in print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import attrstore
from attrstore.cli import main
from tests import tiny

QUERIES = [("a b", " c"), ("d e f", " g"), ("river", " stone")]


def run(*arguments: Any) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def status(path: Path, name: str = "bm25") -> tuple[bool, bool, str | None]:
    with attrstore.open(path) as store:
        ((partial, stale, reasons),) = store.rows(
            "SELECT partial, stale, reasons FROM scoring_status WHERE name = $name", {"name": name}
        )
    return partial, stale, reasons


def write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return file


@pytest.fixture
def ranked(path: Path) -> Path:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(24), QUERIES, [(0, 3)])
    assert run("ingest", "lexical", path).exit_code == 0
    assert run("score", path, "bm25").exit_code == 0
    return path


def test_a_scoring_is_stale_once_what_it_ranks_has_changed(ranked: Path, tmp_path: Path) -> None:
    assert status(ranked) == (False, False, None)
    run("ingest", "corpus", ranked, write(tmp_path / "more.jsonl", [{"id": "new", "text": "north"}]))
    assert status(ranked) == (False, True, "made of 24 examples, now there are 25")
    run("ingest", "lexical", ranked)
    run("score", ranked, "bm25")
    assert status(ranked) == (False, False, None)
    run(
        "ingest", "queries", ranked, write(tmp_path / "q.jsonl", [{"id": "q", "prompt": "a", "target": " b"}])
    )
    assert status(ranked) == (False, True, "made for 3 queries, now there are 4")
    run("score", ranked, "bm25")
    run("ingest", "labels", ranked, write(tmp_path / "l.jsonl", [{"query_id": "q", "example_id": "new"}]))
    assert status(ranked) == (False, True, "labels were changed since, whose ranks it may lack")


def test_every_change_of_a_text_changes_the_digest(store: attrstore.Store) -> None:
    tiny.fill(store, ["a", "b"], [("a", " b"), ("c", " d")])
    for table, column in (("examples", "example_id"), ("queries", "query_id")):
        digests = set()
        for changed in range(32):
            store.execute(
                f"UPDATE {table} SET content_hash = md5_number($text) WHERE {column} = 1",
                {"text": f"text {changed}"},
            )
            digests.add(
                store.value("SELECT digest FROM present_inputs WHERE input = $table", {"table": table})
            )
        assert len(digests) == 32


def test_replaced_and_deleted_rows_are_noticed_where_the_counts_are_the_same(ranked: Path) -> None:
    changes = {
        "examples were replaced since": [
            "UPDATE examples SET text = 'x', content_hash = md5_number('x') WHERE example_id = 3"
        ],
        "queries were replaced since": [
            "UPDATE queries SET target = 'x', content_hash = md5_number('a b' || chr(31) || 'x') WHERE query_id = 0"
        ],
    }
    for reason, statements in changes.items():
        run("score", ranked, "bm25")
        assert status(ranked) == (False, False, None)
        with attrstore.open(ranked, writable=True) as store:
            for statement in statements:
                store.execute(statement)
        assert status(ranked) == (False, True, reason)
    run("score", ranked, "bm25")
    with attrstore.open(
        ranked, writable=True
    ) as store:  # the texts change places: the sum of both is the same
        store.execute(
            "UPDATE examples SET (text, content_hash) = (other.text, other.content_hash) FROM examples AS other "
            "WHERE (examples.example_id, other.example_id) IN ((5, 6), (6, 5))"
        )
    assert status(ranked) == (False, True, "examples were replaced since")


def test_a_scoring_of_before_says_what_its_counts_tell(ranked: Path) -> None:
    with attrstore.open(ranked, writable=True) as store:
        store.execute("DELETE FROM scoring_inputs")
        assert not store.value("SELECT stale FROM scoring_status")
        tiny.fill(store, ["north"], [])
    assert status(ranked) == (False, True, "ranks 24 examples, now it would rank 25")


def test_a_ranking_that_lacks_one_query_is_partial(ranked: Path) -> None:
    with attrstore.open(ranked, writable=True) as store:
        for table in ("scores", "scoring_queries"):
            store.execute(f"DELETE FROM {table} WHERE query_id = 1")
    assert status(ranked) == (True, False, "ranks 2 of 3 queries")


def test_a_selection_is_partial_and_says_of_what(ranked: Path) -> None:
    run("score", ranked, "bm25", "--where", "example_id < 9", "--name", "few")
    assert status(ranked, "few") == (True, False, "ranks only examples where example_id < 9")
