"""The views and metric macros against a second computation in plain Python."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy
import pytest
from scipy import stats

import attrstore
from attrstore import Store
from tests.scored import (
    N_EXAMPLES,
    N_QUERIES,
    PATCHED,
    TOP_K,
    World,
    add,
    add_ranking,
    add_scoring,
    add_texts,
    fill,
)

METRICS = ["mrr", "hit_at_10", "recall_at_10", "recall_at_50", "precision_at_1", "map"]
COLUMNS = [
    "name", "method", "family", "encoder", "model", "queries", "labelled_queries", *METRICS,
    "tail_patch_queries", "tail_patch_logprob", "tail_patch_prob", "tail_patch_measured",
    "tail_patch_model", "tail_patch_optimizer", "tail_patch_learning_rate", "partial", "stale",
]  # fmt: skip
REPORT = (
    f"SELECT name, method, family, queries, {', '.join(METRICS)}, tail_patch_logprob, tail_patch_prob "
    "FROM method_report"
)


def places(world: World, name: str, q: int) -> list[int]:
    return sorted(p for p, e in enumerate(world.rankings[name][q], 1) if e in world.labelled[q])


def expected(world: World, name: str, queries: list[int]) -> list[float]:
    """The six metrics, the long way."""
    metrics = []
    for q in queries:
        found, n = places(world, name, q), len(world.labelled[q])
        precision = [sum(p <= cut for p in found) / cut for cut in found]
        metrics.append(
            (
                1 / found[0] if found else 0,
                float(any(p <= 10 for p in found)),
                sum(p <= 10 for p in found) / n,
                sum(p <= 50 for p in found) / n,
                float(1 in found),
                sum(precision) / n,
            )
        )
    return [statistics.fmean(column) for column in zip(*metrics, strict=True)]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, World]]:
    with attrstore.open(tmp_path_factory.mktemp("views") / "scored.duckdb", create=True) as opened:
        yield opened, fill(opened)


@pytest.fixture
def full(scored: tuple[Store, World]) -> Store:
    return scored[0]


@pytest.fixture
def world(scored: tuple[Store, World]) -> World:
    return scored[1]


def test_method_report_equals_a_second_computation(full: Store, world: World) -> None:
    relation = full.sql("FROM method_report")
    assert relation.columns == COLUMNS
    rows = {row[0]: row for row in full.rows(REPORT)}
    assert set(rows) == set(world.rankings)
    for name, row in rows.items():
        assert row[1:4] == (name, "retrieval" if name == "bm25" else "influence", N_QUERIES)
        assert row[4:10] == pytest.approx(expected(world, name, list(world.labelled)), abs=1e-12)
    assert 0 < rows["bm25"][9] < 1
    assert rows["cosine"][6] < rows["cosine"][7] < 1


def test_tail_patch_counts_only_queries_measured_whole(full: Store, world: World) -> None:
    rows = {row[0]: row[10:] for row in full.rows(REPORT)}
    means = [
        statistics.fmean(world.patches[q, e] for e in world.rankings["trackstar"][q][:10]) for q in PATCHED
    ]
    assert rows["trackstar"] == pytest.approx((statistics.fmean(means), statistics.fmean(means) / 9))
    assert rows["cosine"] == (None, None)


def test_report_by_groups_queries(full: Store, world: World) -> None:
    report = REPORT.replace("family,", "family, value,").replace("method_report", "report_by('relation')")
    rows = {(row[0], row[3]): row for row in full.rows(report)}
    assert len(rows) == 6
    for (name, value), row in rows.items():
        members = [q for q in world.labelled if f"r{q % 2}" == value]
        assert row[4] == N_QUERIES // 2
        assert row[5:11] == pytest.approx(expected(world, name, members), abs=1e-12)


def test_order_is_family_then_best_first(full: Store, world: World) -> None:
    rows = full.rows("SELECT family, mrr FROM method_report")
    assert [family for family, _ in rows] == ["influence", "influence", "retrieval"]
    assert rows[0][1] > rows[1][1]


def test_scoring_without_labels_or_scores_has_a_row_of_nulls(store: Store) -> None:
    add_texts(store)
    add_scoring(store, "empty", "influence", 5, 0)
    add_scoring(store, "unlabelled", "influence", 5, 1)
    add_ranking(store, "unlabelled", 3, [4, 2, 9], set(), opponents=False)
    assert store.rows(REPORT) == [
        ("empty", "empty", "influence", 0, *[None] * 8),
        ("unlabelled", "unlabelled", "influence", 1, *[None] * 8),
    ]


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("reciprocal_rank([7, 3])", 1 / 3),
        ("reciprocal_rank([]::INT[])", 0),
        ("reciprocal_rank(NULL::INT[])", 0),
        ("hit_at([11], 10)", 0),
        ("hit_at([10, 11], 10)", 1),
        ("recall_at([1, 2, 30], 4, 10)", 0.5),
        ("recall_at([]::INT[], 0, 10)", None),
        ("recall_at([1, 50, 51], 4, 50)", 0.5),
        ("recall_at(NULL::INT[], 4, 50)", 0),
        ("precision_at([1, 2, 30], 5)", 0.4),
        ("average_precision([1, 3, 6], 4)", (1 + 2 / 3 + 3 / 6) / 4),
        ("average_precision([3, 1, 3, 6, -2, NULL], 4)", (1 + 2 / 3 + 3 / 6) / 4),
        ("average_precision(NULL::INT[], 2)", 0),
        ("auprc([1], 1)", 1),
        ("auprc([4], 1)", 1 / 8),
        ("auprc([1, 3, 6], 4)", ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 4),
        ("auprc([6, 3, 1, 3, -2, NULL], 4)", ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 4),
        ("auprc(NULL::INT[], 2)", 0),
        ("auprc([]::INT[], 0)", None),
        ("position_of(-1, 50)", 50),
    ],
)
def test_metric_macros(store: Store, sql: str, value: float | None) -> None:
    assert store.value(f"SELECT {sql}") == (None if value is None else pytest.approx(value, abs=1e-15))


def test_comparison_has_one_row_per_pair_with_a_proponent(full: Store, world: World) -> None:
    rows = {
        (query, example): values
        for query, example, *values in full.rows(
            "SELECT query, example, influence_rank, influence_score, retrieval_rank, retrieval_score, label, "
            "text, source, prompt, target, metadata ->> 'kind' FROM comparison"
        )
    }
    wanted: dict[tuple[str, str], list[Any]] = {}
    for q in range(N_QUERIES):
        sides = []
        for name in ("trackstar", "bm25"):  # the first recommended of each family
            n = len(world.rankings[name][q])
            keep = world.labelled.get(q, set())
            ends = {
                e: p
                for p, e in enumerate(world.rankings[name][q], 1)
                if p <= TOP_K or e in keep or (name == "trackstar" and p > n - TOP_K)
            }
            proponents = {e for e, p in ends.items() if name == "bm25" or p <= n - TOP_K}
            sides.append((ends, proponents))
        (influence, strong), (retrieval, found) = sides
        for e in strong | found:
            zero = q == 0 and e == next(x for x in range(N_EXAMPLES) if x not in world.labelled[0])
            wanted[f"q{q}", f"e{e}"] = [
                influence.get(e), 1 - influence[e] / 100 if e in influence else None,
                retrieval.get(e), 1 - retrieval[e] / 100 if e in retrieval else None,
                1.0 if e in world.labelled.get(q, ()) else 0.0 if zero else None,
                f"text {e}", "wiki", f"prompt {q}", f"target {q}", f"c{e % 3}",
            ]  # fmt: skip
    assert rows == wanted
    top = full.rows("SELECT example FROM comparison WHERE query = 'q5' ORDER BY influence_rank LIMIT 10")
    assert [e for (e,) in top] == [f"e{e}" for e in world.rankings["trackstar"][5][:10]]


def test_compare_takes_any_two_scorings_and_refuses_unknown_names(full: Store, world: World) -> None:
    top = full.rows(
        "SELECT example FROM compare('cosine', 'trackstar') WHERE query = 'q1' AND retrieval_rank = 1"
    )
    assert top == [(f"e{world.rankings['trackstar'][1][0]}",)]
    with pytest.raises(attrstore.AttrstoreError, match="No scoring is called cosmic"):
        full.rows("FROM compare('cosmic', 'bm25')")


def test_comparison_answers_with_one_family_and_with_none(store: Store) -> None:
    assert store.rows("FROM comparison") == []
    add_texts(store)
    add_scoring(store, "bm25", "retrieval", 5, 0)
    for q in range(N_QUERIES):
        add_ranking(store, "bm25", q, [4, 2] if q == 3 else [], set(), opponents=False)
    assert store.rows("SELECT example, influence_rank, retrieval_rank FROM comparison ORDER BY 3") == [
        ("e4", None, 1),
        ("e2", None, 2),
    ]


def spearman(one: list[int], other: list[int]) -> float:
    return float(stats.spearmanr(one, other).statistic)


@pytest.mark.parametrize("depth", [10, 3])
def test_agreement_equals_a_second_computation(full: Store, world: World, depth: int) -> None:
    rows = {tuple(row[:3]): row[3:] for row in full.rows("FROM agreement_at($k)", {"k": depth})}
    assert len(rows) == 3 * N_QUERIES
    for (query, one, other), (overlap, in_common, correlation, basis) in rows.items():
        q = int(query[1:])
        assert basis == "common top"
        # The stored first ones, and not the labelled ones from further down.
        sides = [{e: p for p, e in enumerate(world.rankings[n][q][:TOP_K])} for n in (one, other)]
        common = sorted(sides[0].keys() & sides[1].keys())
        tops = [set(world.rankings[name][q][:depth]) for name in (one, other)]
        assert overlap == pytest.approx(len(tops[0] & tops[1]) / depth)
        assert in_common == len(common)
        if len(common) < 3:
            assert correlation is None
        else:
            pairs = [[side[e] for e in common] for side in sides]
            assert correlation == pytest.approx(spearman(*pairs))
    if depth == 10:
        view = full.sql("FROM agreement")
        assert view.columns[3] == "overlap_at_10"
        assert {tuple(row[:3]): row[3:] for row in view.fetchall()} == rows


def test_rank_correlation_is_not_moved_by_labelled_examples_from_further_down(store: Store) -> None:
    """Both put e0, e1 and e2 first in the same order; three labelled ones lie further down in one of them."""
    add_texts(store)
    add_scoring(store, "influence", "influence", N_EXAMPLES, 0)
    add_scoring(store, "retrieval", "retrieval", N_EXAMPLES, 1)
    rest = list(range(6, N_EXAMPLES))
    labelled = {3, 4, 5}
    add_ranking(store, "influence", 0, [0, 1, 2, *rest[:20], 5, 4, 3, *rest[20:]], labelled, opponents=True)
    add_ranking(store, "retrieval", 0, [3, 4, 5, 0, 1, 2], labelled, opponents=False)
    # Over all six stored on both sides the ranks are 1 2 3 4 5 6 and 4 5 6 3 2 1: 1 - 6 * 46 / 210 = -11/35.
    ((overlap, in_common, correlation),) = store.rows(
        "SELECT overlap_at_10, in_common, rank_correlation FROM agreement"
    )
    assert overlap == pytest.approx(0.3)
    assert (in_common, correlation) == (3, pytest.approx(1.0))


def test_rank_correlation_of_whole_rankings_is_over_all_examples(store: Store) -> None:
    add_texts(store)
    orders = {"one": [0, 1, 2, 3, 4], "other": [1, 0, 2, 4, 3]}
    for minute, (name, order) in enumerate(orders.items()):
        add_scoring(store, name, "influence", len(order), minute)
        add(store, "scoring_queries", name, 0)
        for place, example in enumerate(order, 1):  # the last two are opponents
            add(store, "scores", name, 0, example, place if place <= 3 else place - 6, -float(place))
    assert store.rows("FROM agreement_at(1)") == [
        ("q0", "one", "other", 0.0, 5, pytest.approx(1 - 6 * 4 / 120), "all examples")
    ]


def test_a_ranked_query_that_found_nothing_counts_zero(store: Store) -> None:
    add_texts(store)
    for minute, (name, family) in enumerate((("influence", "influence"), ("retrieval", "retrieval"))):
        add_scoring(store, name, family, N_EXAMPLES, minute)
    for q in range(12):
        add(store, "labels", q, 7, 1.0, "gold")
        add_ranking(store, "influence", q, [8, 7, *range(7), *range(9, N_EXAMPLES)], {7}, opponents=True)
        add(store, "tail_patches", q, 7, "model", "adamw", 1e-6, -3.0, 0.5, 0.05, 0.25)
        add_ranking(store, "retrieval", q, [7] if q < 10 else [], {7}, opponents=False)
    store.execute("DELETE FROM queries WHERE query_id >= 12")
    rows = {row[0]: row[3:] for row in store.rows(REPORT)}
    # Tail-patch is over the one proponent that retrieval has; of influence's ten only one was measured.
    part = pytest.approx(10 / 12)
    assert rows["retrieval"] == (12, part, part, part, part, part, part, 0.5, 0.25)
    assert rows["influence"] == (12, 0.5, 1.0, 1.0, 1.0, 0.0, 0.5, None, None)
    overlaps = (
        "SELECT query, overlap_at_10, in_common FROM agreement WHERE query IN ('q0', 'q11') ORDER BY query"
    )
    assert store.rows(overlaps) == [("q0", pytest.approx(0.1), 1), ("q11", 0.0, 0)]
    low, high = store.rows(
        "SELECT low, high FROM report_intervals() WHERE name = 'retrieval' AND metric = 'mrr'"
    )[0]
    assert 0.4 < low < 10 / 12 < high == 1.0


def test_influence_and_retrieval_name_every_pair(full: Store, world: World) -> None:
    columns = ["scoring", "method", "query", "example", "rank", "score", "text", "label", "prompt", "target"]
    assert full.sql("FROM influence").columns == full.sql("FROM retrieval").columns == columns
    n = full.value("SELECT count(*) FROM scores")
    assert full.value("SELECT (SELECT count(*) FROM influence) + (SELECT count(*) FROM retrieval)") == n
    last = world.rankings["cosine"][4][-1]
    assert full.rows(
        "SELECT example, score, text FROM influence WHERE scoring = 'cosine' AND query = 'q4' AND rank = -1"
    ) == [(f"e{last}", pytest.approx(0.4), f"text {last}")]


def test_intervals_agree_with_a_plain_bootstrap(full: Store, world: World) -> None:
    intervals = "SELECT name, metric, mean, low, high FROM report_intervals()"
    rows = {tuple(row[:2]): row[2:] for row in full.rows(intervals)}
    assert len(rows) == 3 * 6 + 2  # only one scoring has tail patches
    reports = {row[0]: row for row in full.rows(REPORT)}
    rng = numpy.random.default_rng(0)
    for name in world.rankings:
        each = numpy.array([expected(world, name, [q]) for q in world.labelled])  # queries x metrics
        samples = each[rng.integers(0, len(each), (4000, len(each)))].mean(axis=1)
        low, high = numpy.quantile(samples, [0.025, 0.975], axis=0)
        for i, metric in enumerate(METRICS):
            mean, found_low, found_high = rows[name, metric]
            assert mean == pytest.approx(reports[name][4 + i])
            assert found_low - 1e-9 <= mean <= found_high + 1e-9
            spread = max(high[i] - low[i], 0.02)
            assert found_low == pytest.approx(low[i], abs=0.2 * spread)
            assert found_high == pytest.approx(high[i], abs=0.2 * spread)
    assert {tuple(row[:2]): row[2:] for row in full.rows(intervals)} == rows


PLAIN = """
import json, sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=True)
answers = {q: len(con.sql(q).fetchall()) for q in sys.argv[2:]}
assert not any(m.split(".")[0] == "attrstore" for m in sys.modules)
print(json.dumps(answers))
"""


def test_plain_duckdb_client_answers_without_attrstore(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        fill(store)
        queries = [
            "FROM comparison", "FROM agreement", "FROM method_report", "FROM report_by('relation')",
            "FROM agreement_at(3)", "FROM compare('cosine', 'bm25')", "FROM influence", "FROM retrieval",
            "FROM query_report", "FROM report_intervals(20)", "SELECT reciprocal_rank([2])",
        ]  # fmt: skip
        wanted = {q: len(store.rows(q)) for q in queries}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(path), *queries], capture_output=True, text=True, cwd=path.parent
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == wanted
    assert all(wanted.values())


def test_method_report_is_fast_on_a_million_scores(store: Store) -> None:
    """The figure wanted is well under a second; the limit leaves room for a busy machine."""
    import time

    add_texts(store)
    store.execute("INSERT INTO labels SELECT i % 14, i * 7 % 60, 1, NULL FROM range(60) t(i)")
    for number in range(5):
        add_scoring(store, f"m{number}", "influence", 10**6, number)
    store.execute(
        "INSERT INTO scores SELECT 'm' || i % 5, i // 5 % 14, i // 70, i // 70 + 1, 0 FROM range($n) t(i)",
        {"n": 10**6},
    )
    store.execute("INSERT INTO scoring_queries SELECT 'm' || m, q FROM range(5) a(m), range(14) b(q)")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert len(store.rows("FROM method_report")) == 5
        times.append(time.perf_counter() - start)
    assert min(times) < 1


def test_face_survives_reopening_and_is_replaced_when_it_changes(path: Path) -> None:
    attrstore.open(path, create=True).close()
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE OR REPLACE VIEW method_report AS SELECT 1 AS old")
        con.execute("UPDATE meta SET value = 'older' WHERE key = 'face'")
    with attrstore.open(path, writable=True) as store:
        assert store.sql("FROM method_report").columns == COLUMNS
