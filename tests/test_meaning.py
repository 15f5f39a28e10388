"""What is shown where no scoring is named, and what a scoring says that it is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from click.testing import CliRunner, Result

import attrstore
from attrstore.cli import main
from attrstore.methods import METHODS
from tests.scored import N_EXAMPLES, N_QUERIES, add_ranking, add_scoring, add_texts


def run(*arguments: Any) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def rows(store: Path, query: str) -> list[dict[str, Any]]:
    done = run("sql", store, query, "--format", "json")
    assert done.exit_code == 0, done.output
    records: list[dict[str, Any]] = json.loads(done.stdout)
    return records


def shown(store: Path) -> set[tuple[str | None, str | None]]:
    found = rows(store, "SELECT DISTINCT influence_scoring, retrieval_scoring FROM comparison")
    return {(row["influence_scoring"], row["retrieval_scoring"]) for row in found}


@pytest.fixture
def scored(path: Path) -> Path:
    """cosine-block and bm25 first, then what is newer and should not be taken for them."""
    with attrstore.open(path, create=True) as store, store.transaction():
        add_texts(store)
        for minute, (name, queries) in enumerate(
            {"cosine-block": N_QUERIES, "bm25": N_QUERIES, "dot": N_QUERIES, "mirrored": 3}.items()
        ):
            family = "retrieval" if name == "bm25" else "influence"
            add_scoring(store, name, family, N_EXAMPLES, minute)
            for query in range(queries):
                order = [(query + minute + 7 * i) % N_EXAMPLES for i in range(N_EXAMPLES)]
                add_ranking(store, name, query, order, set(), opponents=family == "influence")
    return path


def test_comparison_names_its_scorings_and_takes_neither_the_newest_nor_a_partial_one(
    scored: Path, tmp_path: Path
) -> None:
    assert shown(scored) == {("cosine-block", "bm25")}
    numpy.save(tmp_path / "random.npy", numpy.random.default_rng(0).normal(size=(N_QUERIES, N_EXAMPLES)))
    assert run("import", "scores", scored, tmp_path / "random.npy", "--name", "random").exit_code == 0
    assert shown(scored) == {("cosine-block", "bm25")}
    top = "WHERE query = 'q3' ORDER BY influence_rank LIMIT 10"
    assert rows(scored, f"SELECT example FROM comparison {top}") == rows(
        scored, f"SELECT example FROM compare('cosine-block', 'bm25') {top}"
    )
    names = "SELECT DISTINCT influence_scoring AS i, retrieval_scoring AS r FROM compare('dot', 'random')"
    assert rows(scored, names) == [{"i": "dot", "r": "random"}]


def test_use_chooses_the_pair_for_every_client_and_says_why(scored: Path) -> None:
    done = run("use", scored, "--influence", "dot")
    assert "chosen by attrstore use" in done.stdout
    assert "first recommended" not in done.stdout
    assert shown(scored) == {("dot", "bm25")}
    refused = run("use", scored, "--influence", "bm25")
    assert refused.exit_code == 2
    assert "no influence scoring is called bm25; there are cosine-block, dot, mirrored" in refused.stderr
    assert shown(scored) == {("dot", "bm25")}
    done = run("use", scored, "--reset")
    assert "the first recommended" in done.stdout
    assert shown(scored) == {("cosine-block", "bm25")}
    run("use", scored, "--influence", "mirrored")
    (row,) = rows(scored, "FROM chosen_scorings WHERE family = 'influence'")
    assert (row["name"], row["partial"], row["queries"], row["of_queries"]) == (
        "mirrored",
        True,
        3,
        N_QUERIES,
    )


@pytest.mark.parametrize(
    ("left", "name", "reason"),
    [
        ("name = 'bm25'", None, "no influence scoring"),
        ("name = 'mirrored'", None, "no influence scoring is complete"),
        ("name IN ('mirrored', 'dot')", "dot", "the only complete one"),
        ("name IN ('dot', 'cosine-block', 'other')", None, "several of cosine-block: choose one, attrstore use"),
        ("name IN ('mine', 'theirs')", None, "several, none by a recommended method: choose one, attrstore use"),
        ("name = 'mine'", "mine", "the only complete one"),
    ],
)  # fmt: skip
def test_a_default_that_is_not_clear_is_none_with_its_reason(
    scored: Path, left: str, name: str | None, reason: str
) -> None:
    with attrstore.open(scored, writable=True) as store, store.transaction():
        for minute, (called, method) in enumerate(
            {"mine": "imported", "theirs": "imported", "other": "cosine-block"}.items(), start=10
        ):
            add_scoring(store, called, "influence", N_EXAMPLES, minute)
            store.execute("UPDATE scorings SET method = $m WHERE name = $n", {"m": method, "n": called})
            for query in range(N_QUERIES):
                add_ranking(store, called, query, list(range(N_EXAMPLES)), set(), opponents=True)
        store.execute(
            "UPDATE scorings SET name = 'first' WHERE name = 'cosine-block' AND $two",
            {"two": "other" in left},
        )
        for table in ("scores", "scoring_queries", "scorings"):
            kept = left.replace("'cosine-block'", "'first', 'cosine-block'")
            store.execute(
                f"DELETE FROM {table} WHERE scoring_id NOT IN (SELECT scoring_id FROM scorings WHERE {kept})"
            )
    (row,) = rows(scored, "FROM chosen_scorings WHERE family = 'influence'")
    assert (row["name"], row["reason"]) == (name, reason)
    assert {pair[0] for pair in shown(scored)} <= {name}


def test_every_method_has_its_place_in_the_recommended_order(store: attrstore.Store) -> None:
    assert {method for (method,) in store.rows("SELECT method FROM recommended")} == METHODS.keys()
