"""Every metric of a ranking against ir_measures, every correlation and resampling against scipy."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import ir_measures
import pytest
from ir_measures import AP, RR, P, R, Success
from scipy import stats

import attrstore
from attrstore import Store
from tests.scored import N_EXAMPLES, N_QUERIES, TOP_K, World, fill

MEASURES = {
    "reciprocal_rank": RR, "hit_at_10": Success @ 10, "recall_at_10": R @ 10, "precision_at_1": P @ 1,
    "average_precision": AP,
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
