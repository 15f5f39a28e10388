"""Pruned rankings equal brute force exactly: ties, weights of any sign, labelled pairs, parts in any number."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrstore.lexical import maxscore
from attrstore.lexical.maxscore import Part, Top, shown

UNIT = 2.0**36


def parts(matrix: np.ndarray[Any, Any], has: np.ndarray[Any, Any], ids: Any, cuts: list[int]) -> list[Part]:
    """Cut [examples, terms] weights at some rows; postings come in an order that needs sorting."""
    made = []
    for rows in np.split(np.arange(len(ids)), cuts):
        if len(rows):
            places, terms = has[rows].nonzero()  # by example first
            weights = matrix[rows][places, terms]
            made.append(
                Part(ids[rows], terms.astype(np.int32), places.astype(np.int32), weights, matrix.shape[1])
            )
    return made


def brute_force(
    matrix: np.ndarray[Any, Any], has: np.ndarray[Any, Any], ids: Any, query: dict[int, int]
) -> list[tuple[int, float]]:
    """Every example with a term of the query, best first."""
    found = []
    for row, example in enumerate(ids.tolist()):
        terms = [term for term in query if has[row, term]]
        if terms:
            units = math.fsum(query[term] * matrix[row, term] for term in terms)
            found.append((-float(shown(np.array([units]))[0]), example))
    return [(example, -negative) for negative, example in sorted(found)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_pruning_changes_nothing(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    n, n_terms = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 8))
    k = data.draw(st.sampled_from([1, 2, 3, 10, 1000]))
    lowest = data.draw(st.sampled_from([-2.0, 0.0, 0.25]), label="lowest weight")
    grain = data.draw(st.sampled_from([1.0, 1e-9, 1e-10, 2.0**-36]), label="how near ties are")
    draw = np.random.default_rng(seed)
    has = draw.random((n, n_terms)) < draw.random(n_terms)  # frequent and rare terms
    spread = draw.choice([0.01, 1.0, 8.0], n_terms)  # ... that weigh little and much
    steps = np.rint(draw.integers(0, 4, (n, n_terms)) * grain * UNIT)
    matrix = np.rint(spread * max(lowest, 0.25) * UNIT) + steps
    matrix[:, spread == 0.01] += np.rint(min(lowest, 0.0) * UNIT)
    ids = np.sort(draw.choice(10 * n, n, replace=False)).astype(np.int64)
    query = {int(t): int(draw.integers(1, 3)) for t in draw.permutation(n_terms)[: draw.integers(1, 6)]}
    want = brute_force(matrix, has, ids, query)
    labelled = {example for example, _ in want if draw.random() < 0.05}
    rows = [row for row, example in enumerate(ids.tolist()) if example in labelled]
    counts = np.array([float(query.get(term, 0)) for term in range(n_terms)])
    cuts = sorted(draw.integers(0, n, data.draw(st.integers(0, 3))).tolist())
    terms = np.array(sorted(query))
    top = Top(terms, counts[terms], k, ids[rows], (matrix * has * counts)[rows].sum(axis=1))
    for part in parts(matrix, has, ids, cuts):
        top.add(part)
    found = top.ranked()
    assert list(
        zip(found.example_ids.tolist(), found.ranks.tolist(), found.scores.tolist(), strict=True)
    ) == [(example, rank, score) for rank, (example, score) in enumerate(want[:k], 1)] + sorted(
        (example, rank, score)
        for rank, (example, score) in enumerate(want, 1)
        if rank > k and example in labelled
    )


def test_frequent_words_are_looked_up_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word of every example adds no work but a look at the examples that the rare word found."""
    n, common = 10_000, 0.1
    places = np.concatenate([np.arange(n), np.arange(0, n, n // 20)]).astype(np.int32)
    terms = np.concatenate([np.zeros(n), np.ones(20)]).astype(np.int32)
    weights = np.rint(np.concatenate([np.full(n, common), np.arange(20) + 1.0]) * UNIT)
    part = Part(np.arange(n, dtype=np.int64), terms, places, weights, 2)
    added: list[int] = []
    plain = Part._add

    def noted(self: Part, term: int, count: float) -> None:
        added.append(term)
        plain(self, term, count)

    monkeypatch.setattr(Part, "_add", noted)
    for k, expected in ((10, [1]), (21, [1, 0])):
        added.clear()
        top = Top(np.array([0, 1]), np.ones(2), k, np.zeros(0, dtype=np.int64), np.zeros(0))
        top.add(part)
        assert added == expected
        assert top.ranked().scores[:2].tolist() == pytest.approx([20.1, 19.1], abs=1e-9)
        assert len(top.ranked().ranks) == k


@pytest.mark.parametrize("dense_bytes", [0, 2**20])
def test_rows_of_frequent_words_are_bounded(monkeypatch: pytest.MonkeyPatch, dense_bytes: int) -> None:
    monkeypatch.setattr(maxscore, "DENSE_BYTES", dense_bytes)
    part = Part(
        np.arange(4, dtype=np.int64), np.zeros(3, np.int32), np.array([0, 1, 3], np.int32), np.arange(3.0), 2
    )
    assert part._weights_at(0, 2.0, np.array([0, 2, 3])).tolist() == [0.0, 0.0, 4.0]
    assert part._weights_at(1, 1.0, np.array([0, 2, 3])).tolist() == [0.0, 0.0, 0.0]
    assert len(part._rows) == bool(dense_bytes)
