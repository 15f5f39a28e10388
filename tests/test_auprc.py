"""AUPRC of groups of queries against the curve drawn point by point."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.test_lds import add_scoring, fill
from tests.test_oracles import curve

if TYPE_CHECKING:
    from attrstore import Store

N, GROUPS = 30, {"a": [0, 1, 2], "b": [3], "c": [4, 5]}
LABELLED = {0: {3, 9}, 1: {9, 17, 4}, 3: {0}}  # query -> examples; group c has none


@pytest.fixture
def asked(store: Store) -> Store:
    fill(store, N, 6)
    for value, queries in GROUPS.items():
        for query in queries:
            store.execute(
                "UPDATE queries SET metadata = json_object('task', $value) WHERE query_id = $query",
                {"value": value, "query": query},
            )
    for query, examples in LABELLED.items():
        for example in examples:
            store.execute(f"INSERT INTO labels VALUES ({query}, {example}, 1, 'gold')")
    store.execute("INSERT INTO labels VALUES (0, 20, 0, 'gold')")  # said to be none
    return store


def areas(ranking: list[int], labelled: set[int]) -> tuple[float, float]:
    """In steps and in straight lines."""
    precision, recall = curve([e in labelled for e in ranking])
    rises = [after - before for before, after in pairwise(recall)]
    steps = sum(rise * p for rise, p in zip(rises, precision[1:], strict=True))
    return steps, sum(rise * (a + b) / 2 for rise, (a, b) in zip(rises, pairwise(precision), strict=True))


def test_a_group_is_ranked_by_the_sum_of_its_queries_scores(asked: Store) -> None:
    rng = np.random.default_rng(5)
    scores = {q: {e: float(np.float32(rng.normal())) for e in range(N)} for q in range(6)}
    add_scoring(asked, "s", scores)
    rows = asked.rows(
        "SELECT value, queries, labelled, average_precision, auprc FROM auprc_by('task') ORDER BY value"
    )
    assert rows[2] == ("c", 2, 0, None, None)
    wanted = []
    for (value, n, n_labelled, steps, lines), queries in zip(rows[:2], GROUPS.values(), strict=False):
        labelled = set().union(*(LABELLED.get(q, set()) for q in queries))
        assert (value, n, n_labelled) == (value, len(queries), len(labelled))
        ranking = sorted(range(N), key=lambda e: -sum(scores[q][e] for q in queries))
        wanted.append(areas(ranking, labelled))
        assert (steps, lines) == pytest.approx(wanted[-1], abs=1e-12)
    ((tasks, of, mean),) = asked.rows("SELECT tasks, queries, auprc FROM auprc_report('task')")
    assert (tasks, of) == (2, 4)
    assert mean == pytest.approx((wanted[0][1] + wanted[1][1]) / 2)


def test_equal_sums_stand_in_the_order_of_the_corpus(asked: Store) -> None:
    add_scoring(asked, "s", {q: dict.fromkeys(range(N), 1.0) for q in range(6)})
    found = dict(asked.rows("SELECT value, auprc FROM auprc_by('task')"))
    assert found["a"] == pytest.approx(areas(list(range(N)), {3, 4, 9, 17})[1])
    assert found["b"] == 1


def test_a_ranking_that_lacks_scores_has_none(asked: Store) -> None:
    every = {q: {e: float(e) for e in range(N)} for q in range(6)}
    add_scoring(asked, "cut", {q: {e: of[e] for e in range(20, N)} for q, of in every.items()}, top_k=10)
    add_scoring(asked, "some", {q: every[q] for q in (0, 1, 3)})
    # An uncut retrieval that found 17 first and 9 not: what it did not find adds nothing.
    add_scoring(
        asked, "found", {0: {17: 1.0}, 1: {17: 1.0, 5: 1.5, 4: 0.5}, 2: {}, 3: {}}, family="retrieval"
    )
    rows = asked.rows(
        "SELECT name, value, every_score, auprc FROM auprc_by('task') WHERE value <> 'c' ORDER BY ALL"
    )
    assert rows == [
        ("cut", "a", False, None), ("cut", "b", False, None),
        ("found", "a", True, pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 4)), ("found", "b", True, 0.0),
        ("some", "a", False, None), ("some", "b", True, pytest.approx(1 / 60)),
    ]  # fmt: skip
    assert asked.rows("SELECT name, tasks FROM auprc_report('task') ORDER BY name") == [
        ("found", 2),
        ("some", 1),
    ]
