"""Every metric of a ranking against ir_measures, every correlation and resampling against scipy."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import pairwise

import ir_measures
import pytest
from ir_measures import AP, RR, P, R, Success
from scipy import stats

import attrstore
from attrstore import Store
from tests.scored import N_EXAMPLES, N_QUERIES, TOP_K, World, fill

MEASURES = {
    "reciprocal_rank": RR, "hit_at_10": Success @ 10, "recall_at_10": R @ 10, "recall_at_50": R @ 50,
    "precision_at_1": P @ 1, "average_precision": AP,
}  # fmt: skip
MEANS = {"reciprocal_rank": "mrr", "average_precision": "map"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, World]]:
    with attrstore.open(tmp_path_factory.mktemp("oracles") / "scored.duckdb", create=True) as opened:
        yield opened, fill(opened)


def judged(world: World) -> list[ir_measures.Qrel]:
    return [ir_measures.Qrel(f"q{q}", f"e{e}", 1) for q, examples in world.labelled.items() for e in examples]


def run(world: World, name: str) -> list[ir_measures.ScoredDoc]:
    """The whole ranking, of which the store has both ends and the labelled examples."""
    return [
        ir_measures.ScoredDoc(f"q{q}", f"e{e}", float(-place))
        for q, order in world.rankings[name].items()
        for place, e in enumerate(order)
    ]


@pytest.mark.parametrize("column", list(MEASURES))
@pytest.mark.parametrize("name", ["cosine", "trackstar", "bm25"])
def test_metrics_are_those_of_ir_measures(scored: tuple[Store, World], name: str, column: str) -> None:
    store, world = scored
    measure = MEASURES[column]
    wanted = {
        metric.query_id: metric.value
        for metric in ir_measures.iter_calc([measure], judged(world), run(world, name))
    }
    found = dict(store.rows(
        f"SELECT query, {column} FROM query_report WHERE name = $name AND labelled > 0", {"name": name}
    ))  # fmt: skip
    assert found == pytest.approx(wanted, abs=1e-12)
    mean = store.value(
        f"SELECT {MEANS.get(column, column)} FROM method_report WHERE name = $name", {"name": name}
    )
    assert mean == pytest.approx(
        ir_measures.calc_aggregate([measure], judged(world), run(world, name))[measure]
    )
    assert mean == pytest.approx(statistics.fmean(wanted.values()))


def curve(labelled: list[bool]) -> tuple[list[float], list[float]]:
    """Precision and recall of each length of a ranking; before the first (1, 0), where scikit-learn begins."""
    found = [sum(labelled[:n]) for n in range(1, len(labelled) + 1)]
    return [1, *(m / n for n, m in enumerate(found, 1))], [0, *(m / found[-1] for m in found)]


@pytest.mark.parametrize("name", ["cosine", "trackstar"])
def test_areas_under_the_curve_of_precision_over_recall(scored: tuple[Store, World], name: str) -> None:
    """In steps and in straight lines, point by point over the whole ranking, which the store has not."""
    store, world = scored
    steps = dict(store.rows("SELECT query, average_precision FROM query_report WHERE name = $n", {"n": name}))
    apart = 0
    for q, examples in world.labelled.items():
        precision, recall = curve([e in examples for e in world.rankings[name][q]])
        rises = [after - before for before, after in pairwise(recall)]
        in_steps = sum(rise * p for rise, p in zip(rises, precision[1:], strict=True))
        in_lines = sum(rise * (a + b) / 2 for rise, (a, b) in zip(rises, pairwise(precision), strict=True))
        ranks = [place for place, e in enumerate(world.rankings[name][q], 1) if e in examples]
        lines = store.value("SELECT auprc($ranks, len($ranks))", {"ranks": ranks})
        assert steps[f"q{q}"] == pytest.approx(in_steps, abs=1e-12)
        assert lines == pytest.approx(in_lines, abs=1e-12)
        apart += abs(in_steps - in_lines) > 0.01
    assert apart > 6  # two numbers, not one


@pytest.mark.parametrize("k", [1, 3, 12, 60])
def test_metrics_at_any_depth_are_those_of_ir_measures(scored: tuple[Store, World], k: int) -> None:
    store, world = scored
    ranks = {
        q: [place for place, e in enumerate(world.rankings["cosine"][q], 1) if e in examples]
        for q, examples in world.labelled.items()
    }
    for macro, measure in (
        ("hit_at($ranks, $k)", Success @ k),
        ("recall_at($ranks, len($ranks), $k)", R @ k),
        ("precision_at($ranks, $k)", P @ k),
    ):
        for metric in ir_measures.iter_calc([measure], judged(world), run(world, "cosine")):
            given = {"ranks": ranks[int(metric.query_id[1:])], "k": k}
            assert store.value(f"SELECT {macro}", given) == pytest.approx(metric.value, abs=1e-12), macro


def test_rank_correlations_are_scipys(scored: tuple[Store, World]) -> None:
    store, world = scored
    rows = store.rows(
        "SELECT query, in_common, rank_correlation FROM agreement "
        "WHERE scoring = 'cosine' AND other_scoring = 'trackstar'"
    )
    assert len(rows) == N_QUERIES
    for query, n, correlation in rows:
        one, other = (world.rankings[name][int(query[1:])] for name in ("cosine", "trackstar"))
        common = sorted(set(one[:TOP_K]) & set(other[:TOP_K]))
        assert n == len(common) <= N_EXAMPLES
        if len(common) < 3:
            assert correlation is None
        else:
            wanted = stats.spearmanr(
                [one.index(e) for e in common], [other.index(e) for e in common]
            ).statistic
            assert correlation == pytest.approx(wanted, abs=1e-12)


def test_intervals_are_close_to_scipys_bootstrap(scored: tuple[Store, World]) -> None:
    """scipy draws n of n queries, the store each query by Poisson: alike but for the resamples' sizes."""
    store, _ = scored
    for name in ("cosine", "trackstar"):
        each = [row[0] for row in store.rows(
            "SELECT reciprocal_rank FROM query_report WHERE name = $name AND labelled > 0", {"name": name}
        )]  # fmt: skip
        interval = stats.bootstrap(
            (each,), statistics.fmean, method="percentile", n_resamples=4000, rng=0, vectorized=False
        ).confidence_interval
        ((low, high),) = store.rows(
            "SELECT low, high FROM report_intervals(resamples := 4000) WHERE metric = 'mrr' AND name = $name",
            {"name": name},
        )
        width = interval.high - interval.low
        assert low == pytest.approx(interval.low, abs=0.1 * width)
        assert high == pytest.approx(interval.high, abs=0.1 * width)
