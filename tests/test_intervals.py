"""What an interval of 95% is: over many worlds it holds the truth in 95 of 100."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow
import pytest

from attrstore import InputError
from attrstore.evaluation import report as reports

if TYPE_CHECKING:
    from attrstore import Store

WORLDS, QUERIES, RESAMPLES = 400, 60, 400
HIT = 0.4  # the true probability that a query's first proponent is right
# Three standard deviations of a share of 400 worlds around .95, and one point that a bootstrap of 60 is short of.
LOWEST, HIGHEST = (
    0.95 - 0.01 - 3 * math.sqrt(0.95 * 0.05 / WORLDS),
    0.95 + 3 * math.sqrt(0.95 * 0.05 / WORLDS),
)


@pytest.fixture
def worlds(store: Store) -> Store:
    """Each scoring a world of its own: its queries' rank of the labelled example, drawn from one distribution."""
    draw = np.random.default_rng(0)
    ranks = np.where(draw.random((WORLDS, QUERIES)) < HIT, 1, draw.integers(2, 11, (WORLDS, QUERIES)))
    world, query = (part.ravel() for part in np.indices(ranks.shape))
    drawn = pyarrow.table({"world": world, "query": query, "rank": ranks.ravel()})
    with store.transaction(), store.registered(drawn=drawn):
        for statement in (
            "INSERT INTO examples SELECT i, 'e' || i, 't', NULL, json_object('class', i), 0 FROM range(2) t(i)",
            "INSERT INTO queries SELECT i, 'q' || i, 'p', 't', json_object('class', 0), 0 FROM range($n) t(i)",
            "INSERT INTO labels SELECT i, 0, 1, NULL FROM range($n) t(i)",
        ):
            store.execute(statement, {"n": QUERIES} if "$n" in statement else None)
        store.execute(
            "INSERT INTO scorings SELECT 's' || i, 's' || i, 'influence', 'dot', json_object('top_k', 10), NULL, 10, "
            "now(), '0' FROM range($n) t(i)",
            {"n": WORLDS},
        )
        store.execute("INSERT INTO scoring_queries SELECT DISTINCT 's' || world, query FROM drawn")
        store.execute("INSERT INTO scores SELECT 's' || world, query, 0, rank, 1 / rank FROM drawn")
        # What is first where the right example is not.
        store.execute("INSERT INTO scores SELECT 's' || world, query, 1, 1, 1 FROM drawn WHERE rank > 1")
    return store


def covered(store: Store, macro: str, metric: str, truth: float) -> float:
    inside = store.rows(
        f"SELECT low <= $truth AND $truth <= high FROM {macro} WHERE metric = $metric",
        {"truth": truth, "metric": metric},
    )
    assert len(inside) == WORLDS
    return sum(bool(row[0]) for row in inside) / WORLDS


def test_intervals_of_95_percent_cover_95_percent(worlds: Store) -> None:
    mrr = HIT + (1 - HIT) * sum(1 / rank for rank in range(2, 11)) / 9
    report = f"report_intervals(resamples := {RESAMPLES})"
    assert LOWEST < covered(worlds, report, "mrr", mrr) < HIGHEST
    classes = f"class_intervals('class', resamples := {RESAMPLES})"
    assert LOWEST < covered(worlds, classes, "accuracy", HIT) < HIGHEST
    assert LOWEST < covered(worlds, report, "map", mrr) < HIGHEST  # of one labelled example they are the same
    # 49 others before each: what was first is the fiftieth, and nothing else is among the first fifty.
    worlds.execute("UPDATE scores SET rank = rank + 49 WHERE example_id = 0")
    worlds.execute("UPDATE scorings SET n_examples = 100")
    assert LOWEST < covered(worlds, report, "recall_at_50", HIT) < HIGHEST


def test_intervals_of_auprc_over_tasks_cover_95_percent(worlds: Store) -> None:
    worlds.execute("UPDATE queries SET metadata = json_object('task', external_id)")
    worlds.execute(
        "INSERT INTO scores SELECT scoring_id, query_id, 1, 2, 0.5 FROM scores WHERE rank = 1 AND example_id = 0"
    )
    worlds.execute(
        "UPDATE scorings SET n_examples = 2"
    )  # both are there: the labelled one is first or second
    rows = worlds.rows(
        f"SELECT tasks, low <= $truth AND $truth <= high FROM auprc_report('task', resamples := {RESAMPLES})",
        {"truth": HIT + (1 - HIT) / 4},
    )
    assert [n for n, _ in rows] == [QUERIES] * WORLDS
    assert LOWEST < sum(inside for _, inside in rows) / WORLDS < HIGHEST


def test_the_bounds_are_quantiles_of_the_resampled_means(worlds: Store) -> None:
    worlds.execute("DELETE FROM scorings WHERE scoring_id <> 's0'")
    drawn = worlds.rows("SELECT resample, query, w FROM drawn($r) ORDER BY ALL", {"r": RESAMPLES})
    w = np.array([row[2] for row in drawn]).reshape(RESAMPLES, QUERIES)
    ranks = worlds.rows(
        "SELECT rank FROM scores JOIN queries USING (query_id) WHERE scoring_id = 's0' AND example_id = 0 "
        "ORDER BY external_id"
    )
    rank = np.array(ranks, dtype=float).ravel()
    for report, metric, of_query in (
        ("report_intervals(resamples := {})", "mrr", 1 / rank),
        ("report_intervals(resamples := {})", "hit_at_10", rank <= 10),
        ("class_intervals('class', resamples := {})", "accuracy", rank == 1),
    ):
        means = (w * of_query).sum(axis=1) / w.sum(axis=1)
        ((mean, low, high),) = worlds.rows(
            f"SELECT mean, low, high FROM {report.format(RESAMPLES)} WHERE metric = $metric",
            {"metric": metric},
        )
        assert mean == pytest.approx(of_query.mean())
        assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=2e-9)


def test_a_difference_is_of_the_queries_that_both_have_and_apart_where_0_lies_outside(worlds: Store) -> None:
    worlds.execute("DELETE FROM scorings WHERE scoring_id NOT IN ('s0', 's1', 's2')")
    for table in ("scoring_queries", "scores"):  # s1 has the first 40 queries, and is right in each of them
        worlds.execute(f"DELETE FROM {table} WHERE scoring_id = 's1' AND query_id >= 40")
    worlds.execute("DELETE FROM scores WHERE scoring_id = 's1' AND example_id = 1")
    worlds.execute("UPDATE scores SET rank = 1 WHERE scoring_id = 's1'")
    ranks = worlds.rows("SELECT scoring_id, query_id, 1 / rank FROM scores WHERE example_id = 0")
    of = {(scoring, query): value for scoring, query, value in ranks}
    w = {(r, int(q[1:])): w for r, q, w in worlds.rows("SELECT resample, query, w FROM drawn(1000)")}
    found = {
        row["name"]: row for row in reports.report(worlds, against="s0").to_dicts() if row["metric"] == "mrr"
    }
    assert list(found) == ["s1", "s2"]
    for name, n in (("s1", 40), ("s2", QUERIES)):
        difference = np.array([of[name, q] - of["s0", q] for q in range(n)])
        weights = np.array([[w[r, q] for q in range(n)] for r in range(1000)])
        low, high = np.quantile(weights @ difference / weights.sum(axis=1), [0.025, 0.975])
        row = found[name]
        assert (row["against"], row["queries"]) == ("s0", n)
        assert (row["difference"], row["low"], row["high"]) == pytest.approx(
            (difference.mean(), low, high), abs=2e-9
        )
        assert row["caution"] == "fewer than 100 queries"
        assert row["apart"] is bool(low > 0 or high < 0)
    assert (found["s1"]["apart"], found["s2"]["apart"]) == (True, False)  # s2 is drawn as s0 is
    # In one query of 60 alone they differ: it carries all of the variance.
    worlds.execute("UPDATE scores SET rank = 1 WHERE scoring_id IN ('s0', 's2') AND example_id = 0")
    worlds.execute("UPDATE scores SET rank = 2 WHERE scoring_id = 's0' AND example_id = 0 AND query_id = 7")
    (alone,) = worlds.rows(
        "SELECT difference, caution FROM report_differences('s0') WHERE (name, metric) = ('s2', 'mrr')"
    )
    assert alone[0] == pytest.approx(0.5 / QUERIES)
    assert alone[1].endswith("one query carries over a tenth of the variance")
    with pytest.raises(InputError, match="no scoring is called s9; there are s0, s1, s2"):
        reports.report(worlds, against="s9")


def test_a_resample_draws_each_query_as_often_as_poisson_says(store: Store) -> None:
    n, resamples = 200, 500
    store.execute("INSERT INTO queries SELECT i, 'q' || i, 'p', 't', NULL, 0 FROM range($n) t(i)", {"n": n})
    rows = store.rows("SELECT resample, query, w FROM drawn($r)", {"r": resamples})
    counts = Counter(int(w) for _, _, w in rows)
    total = n * resamples
    for times in range(6):
        share = math.exp(-1) / math.factorial(times)
        deviation = math.sqrt(share * (1 - share) / total)
        assert counts[times] / total == pytest.approx(share, abs=4 * deviation)
    assert sum(counts.values()) == total
    # No query and no resample is drawn more than chance lets it.
    w = np.array([row[2] for row in sorted(rows)]).reshape(resamples, n)
    assert np.abs(w.mean(axis=0) - 1).max() < 4.5 / math.sqrt(resamples)
    assert np.abs(w.mean(axis=1) - 1).max() < 4.5 / math.sqrt(n)
    off_diagonal = np.corrcoef(w.T) - np.eye(n)
    assert np.abs(off_diagonal).max() < 6 / math.sqrt(resamples)
