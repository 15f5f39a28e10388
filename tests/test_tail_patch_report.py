"""Means of tail-patch say over which queries and of which model they are, and are comparable."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner

import attrstore
from attrstore import Store
from attrstore.chosen import use
from attrstore.cli import main
from tests.scored import N_EXAMPLES, N_QUERIES, add, add_ranking, add_scoring, add_texts

ORDERS = {"one": list(range(10)), "two": list(range(5, 15)), "three": list(range(20, 30)), "bm25": [3, 4]}


def effect(query: int, example: int, model: str) -> float:
    return (query * 31 + example * 7) % 11 / 100 + (10 if model == "other" else 0)


def measure(store: Store, name: str, queries: range, model: str = "own", optimizer: str = "adam") -> None:
    """As `attrstore tail-patch` does: a pair that another scoring has is not measured again."""
    for q in queries:
        for e in ORDERS[name]:
            key = {"q": q, "e": e, "m": model, "o": optimizer}
            same = "query_id = $q AND example_id = $e AND model_fingerprint = $m AND optimizer = $o"
            if not store.value(f"SELECT count(*) FROM tail_patches WHERE {same}", key):
                add(store, "tail_patches", q, e, model, optimizer, 1e-6, -3.0, effect(q, e, model), 0.05, 0.0)


def mean(name: str, queries: range, model: str = "own") -> float:
    return fmean(fmean(effect(q, e, model) for e in ORDERS[name]) for q in queries)


@pytest.fixture
def measured(store: Store) -> Store:
    """`one` is measured for 14 queries, `two` for 12 of them, `three` for 3; all are of the model `own`."""
    with store.transaction():
        add_texts(store)
        for model in ("own", "other"):
            add(store, "models", model, "t", f"/models/{model}", None, "Llama", 1)
            add(
                store,
                "encoders",
                f"encoder-{model}",
                "gradient",
                f"k-{model}",
                model,
                "{}",
                "[]",
                "2026-01-01",
            )
        for minute, (name, order) in enumerate(ORDERS.items()):
            family = "retrieval" if name == "bm25" else "influence"
            add_scoring(store, name, family, N_EXAMPLES, minute)
            if family == "influence":
                store.execute("UPDATE scorings SET encoder_id = 'encoder-own' WHERE name = $n", {"n": name})
            for q in range(N_QUERIES):
                rest = [e for e in range(N_EXAMPLES) if e not in order] if family == "influence" else []
                add_ranking(store, name, q, order + rest, set(), opponents=False)
        measure(store, "one", range(N_QUERIES))
        measure(store, "two", range(12))
        measure(store, "three", range(3))
        measure(store, "bm25", range(N_QUERIES))
    return store


def report(store: Store, *options: str) -> tuple[dict[str, dict[str, Any]], str]:
    path = store.path
    store.close()
    done = CliRunner().invoke(main, ["report", str(path), "--format", "json", *options])
    assert done.exit_code == 0, done.output
    return {row["name"]: row for row in json.loads(done.stdout)}, done.stderr


def test_means_are_over_the_queries_that_all_share_and_too_few_give_none(measured: Store) -> None:
    rows, notes = report(measured)
    shown = {name: (row["tail_patch_queries"], row["tail_patch_measured"]) for name, row in rows.items()}
    # bm25's two proponents are among one's ten: all its queries are measured though it was never asked for
    assert shown == {"one": (12, 14), "two": (12, 12), "three": (3, 3), "bm25": (12, 14)}
    for name in ("one", "two", "bm25"):
        assert rows[name]["tail_patch_logprob"] == pytest.approx(mean(name, range(12)))
    assert rows["three"]["tail_patch_logprob"] is None
    assert rows["three"]["tail_patch_prob"] is None
    assert "Tail-patch is over the 12 queries that all complete scorings share" in notes
    assert "No mean of tail-patch below 10 queries: three has 3." in notes


def test_intervals_and_groups_are_over_the_same_queries(measured: Store) -> None:
    rows = measured.rows(
        "SELECT name, queries, mean, low <= mean AND mean <= high, model, setting FROM report_intervals() "
        "WHERE metric = 'tail_patch_logprob' ORDER BY name"
    )
    setting = "/models/own", "adam, 1e-06"
    assert rows == [
        (name, 12, pytest.approx(mean(name, range(12))), True, *setting) for name in ("bm25", "one", "two")
    ]
    groups = "SELECT tail_patch_queries, tail_patch_logprob FROM report_by('relation') WHERE name = 'one'"
    assert measured.rows(groups) == [(6, None), (6, None)]


def test_another_models_measurements_never_count(measured: Store) -> None:
    with measured.transaction():
        for name in ORDERS:  # far more of the other model than of the scorings' own
            measure(measured, name, range(N_QUERIES), model="other")
            measure(measured, name, range(N_QUERIES), model="other", optimizer="sgd")
    use(measured, influence="one")
    rows, _ = report(measured)
    assert {row["tail_patch_model"] for row in rows.values()} == {
        "/models/own"
    }  # bm25's: that of the chosen influence
    assert rows["two"]["tail_patch_logprob"] == pytest.approx(mean("two", range(12)))


def test_a_scoring_of_another_model_is_measured_under_its_own(measured: Store) -> None:
    with measured.transaction():
        measured.execute("UPDATE scorings SET encoder_id = 'encoder-other' WHERE name = 'two'")
        measure(measured, "two", range(11), model="other")
    rows, _ = report(measured)
    assert {name: row["tail_patch_model"] for name, row in rows.items()} == {
        "one": "/models/own", "two": "/models/other", "three": "/models/own", "bm25": None,
    }  # fmt: skip
    assert rows["two"]["tail_patch_logprob"] == pytest.approx(mean("two", range(11), "other"))
    # Two models and no recommended influence scoring: whose proponents of bm25 are meant cannot be told.
    assert (rows["bm25"]["tail_patch_queries"], rows["bm25"]["tail_patch_logprob"]) == (0, None)


def test_what_is_printed_has_n_model_and_setting(measured: Store) -> None:
    path = measured.path
    measured.close()
    printed = CliRunner().invoke(main, ["report", str(path)]).output
    assert "n tail-patch" in printed
    assert "tail-patch of the model: /models/own" in printed
    assert "model: /models/own (not of bm25)" in printed
    assert "tail-patch by: adam" in printed
    intervals = CliRunner().invoke(main, ["report", str(path), "--intervals"]).output
    assert "] n 12" in intervals
    assert "tail-patch by: adam, 1e-06" in intervals


def test_a_selection_does_not_shrink_what_the_others_are_compared_on(measured: Store) -> None:
    measured.execute("""UPDATE scorings SET spec = '{"top_k": 12, "where": "true"}' WHERE name = 'two'""")
    rows = dict(measured.rows("SELECT name, tail_patch_queries FROM method_report"))
    assert rows == {"one": 14, "bm25": 14, "two": 12, "three": 3}


def test_the_minimum_stands_in_one_place(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        assert store.rows("FROM tail_patch_minimum") == [(10,)]
