"""Exact top-k over postings: MaxScore (Turtle and Flood, 1995), whole vectors at a time.

An example's score is the sum of its weights over a query's terms. A term adds its highest weight at most: once
the terms that are left cannot lift a new example over the k-th best score, they are only looked up for the
examples found so far. Frequent words weigh little: they are the ones that are left.

Weights are whole numbers of 2^-36 (`bm25_units` in SQL), so that sums in float64 are exact in any order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

# Scores are ordered as they are shown, to nine decimals: two that are this many units apart cannot tie.
SLACK = 70.0
DENSE = 16  # a term that one example in so many has is looked up in a row with a place for every example
DENSE_BYTES = 2**27  # of such rows
FEW = 12  # up to one place in so many, sorting places is quicker than marking them and looking at all
_NONE = np.zeros(0, dtype=np.int64)


def shown(units: Floats) -> Floats:
    """Turn sums of weights into scores, as SQL's `bm25_score` does."""
    scores: Floats = np.floor(units / 2.0**36 * 1e9 + 0.5) / 1e9
    return scores


class Part:
    """The postings of some examples, for the terms that are asked for; terms are numbered from 0.

    Args:
        example_ids: of the n examples, ascending.
        terms, places, weights: the postings. A place is a position in `example_ids`; weights are in units.
        n_terms: terms are numbered below this.
    """

    def __init__(
        self,
        example_ids: Ints,
        terms: npt.NDArray[np.int32],
        places: npt.NDArray[np.int32],
        weights: Floats,
        n_terms: int,
    ) -> None:
        key = terms * np.int64(len(example_ids)) + places
        if (key[1:] < key[:-1]).any():  # postings come in runs, one for each time the corpus grew
            order = key.argsort(kind="stable")
            terms, places, weights = terms[order], places[order], weights[order]
        self.example_ids = example_ids
        self._places = places.astype(np.int64)  # what numpy indexes with, without converting each time
        self._weights = weights
        self._starts = terms.searchsorted(np.arange(n_terms + 1, dtype=terms.dtype))
        present = np.diff(self._starts).nonzero()[0]
        self._highest = np.zeros(n_terms)  # an example without the term gets 0 from it
        if len(present):
            self._highest[present] = np.maximum.reduceat(weights, self._starts[present]).clip(min=0)
        self._rows: dict[int, Floats] = {}
        self._sums = np.zeros(len(example_ids))
        self._added: list[Ints] = []

    def strongest(self, terms: Ints, counts: Floats, k: int, floor: float, cap: float) -> tuple[Ints, Floats]:
        """Find the examples that a query's ranking needs: places, ascending, and their whole sums.

        They have a term of the query and a sum of at least min(cap, max(floor, the k-th best sum in this part)).

        Args:
            terms: the query's distinct terms.
            counts: how often the query has each.
            k: how many examples the ranking keeps.
            floor: the k-th best sum of other parts, or -inf.
            cap: of the floor, where weaker examples are wanted too, or inf.
        """
        highest = self._highest[terms] * counts
        order = (-highest).argsort(kind="stable")
        asked = list(zip(terms[order].tolist(), counts[order].tolist(), strict=True))
        rest = [*highest[order][::-1].cumsum()[::-1].tolist(), 0.0]
        least = min(floor, cap) - SLACK
        done = found = 0
        while done < len(asked) and rest[done] >= least:
            size = self._size(asked[done][0])
            if floor == -math.inf and size > found >= k:  # dearer than all before: look for a floor first
                least = max(least, min(self._kth_best(asked[done:], k), cap) - SLACK)
                if rest[done] < least:
                    break
            self._add(*asked[done])
            found, done = found + size, done + 1
        places, sums = self._take()
        for left in range(done, len(asked)):
            near = (sums + rest[left] >= least).nonzero()[0]
            if len(near) < len(places):
                places, sums = places[near], sums[near]
            sums += self._weights_at(*asked[left], places)
        enough = sums >= least
        return places[enough], sums[enough]

    def _size(self, term: int) -> int:
        return int(self._starts[term + 1] - self._starts[term])

    def _postings(self, term: int) -> tuple[Ints, Floats]:
        which = slice(self._starts[term], self._starts[term + 1])
        return self._places[which], self._weights[which]

    def _add(self, term: int, count: float) -> None:
        places, weights = self._postings(term)
        np.add.at(self._sums, places, weights if count == 1 else weights * count)
        self._added.append(places)

    def _found(self) -> Ints:
        """The places of the examples that were added, ascending."""
        if len(self._added) == 1:
            return self._added[0]
        if sum(map(len, self._added)) * FEW > len(self._sums):
            seen = np.zeros(len(self._sums), dtype=bool)
            for places in self._added:
                seen[places] = True
            return seen.nonzero()[0]
        together = np.sort(np.concatenate([*self._added, _NONE]))
        first = np.ones(len(together), dtype=bool)
        np.not_equal(together[1:], together[:-1], out=first[1:])
        return together[first]

    def _take(self) -> tuple[Ints, Floats]:
        """Return what was added, and forget it."""
        places = self._found()
        sums = self._sums[places]
        self._sums[places] = 0
        self._added.clear()
        return places, sums

    def _kth_best(self, left: list[tuple[int, float]], k: int) -> float:
        """A lower bound of the part's k-th best sum: the whole sums of those that are ahead now."""
        places = self._found()
        if len(places) < k:
            return -math.inf
        sums = self._sums[places]
        ahead = sums.argpartition(-k)[-k:]
        places, sums = places[ahead], sums[ahead]
        for term, count in left:
            sums += self._weights_at(term, count, places)
        return float(sums.min())

    def _weights_at(self, term: int, count: float, places: Ints) -> Floats:
        """What a term adds to each of some examples."""
        own, weights = self._postings(term)
        if not len(own):
            return np.zeros(len(places))
        row = self._row(term, own, weights)
        if row is not None:
            return row[places] * count
        at = own.searchsorted(places)
        at[at == len(own)] = 0
        return np.where(own[at] == places, weights[at] * count, 0.0)

    def _row(self, term: int, own: Ints, weights: Floats) -> Floats | None:
        row = self._rows.get(term)
        n = len(self._sums)
        if row is None and len(own) * DENSE >= n and 8 * n * (len(self._rows) + 1) <= DENSE_BYTES:
            row = self._rows[term] = np.zeros(n)
            row[own] = weights
        return row


class Strongest(NamedTuple):
    """The ranking of one query: parallel arrays."""

    example_ids: Ints
    ranks: Ints
    scores: Floats


class Top:
    """The k best examples of one query and the exact ranks of given ones, while parts come in order of id.

    Args:
        terms, counts: the query, as `Part.strongest` takes it.
        k: how many to keep.
        labelled_ids, labelled_units: examples whose rank is wanted whatever it is, and their sums.
    """

    def __init__(
        self, terms: Ints, counts: Floats, k: int, labelled_ids: Ints, labelled_units: Floats
    ) -> None:
        self._terms, self._counts, self._k = terms, counts, k
        self._labelled_ids, self._labelled_scores = labelled_ids, shown(labelled_units)
        self._ahead = np.zeros(len(labelled_ids), dtype=np.int64)
        self._cap = float(labelled_units.min()) if len(labelled_units) else math.inf
        self._ids = np.zeros(0, dtype=np.int64)
        self._units = np.zeros(0)

    def add(self, part: Part) -> None:
        """Take the part's examples into the ranking."""
        floor = float(self._units.min()) if len(self._units) == self._k else -math.inf
        places, units = part.strongest(self._terms, self._counts, self._k, floor, self._cap)
        if not len(places):
            return
        ids = part.example_ids[places]
        if len(self._labelled_ids):
            self._count_ahead(ids, shown(units))
        if len(ids) > 4 * self._k:  # sort only what can stay
            near = units >= np.partition(units, -self._k)[-self._k] - SLACK
            ids, units = ids[near], units[near]
        ids, units = np.concatenate([self._ids, ids]), np.concatenate([self._units, units])
        best = (-shown(units)).argsort(kind="stable")[: self._k]  # ids ascend among equals, and stay so
        self._ids, self._units = ids[best], units[best]

    def _count_ahead(self, ids: Ints, scores: Floats) -> None:
        """Count which of these examples, in order of id, stand before each labelled one."""
        order = scores.argsort(kind="stable")
        ids, scores = ids[order], scores[order]
        first = scores.searchsorted(self._labelled_scores, side="left")
        end = scores.searchsorted(self._labelled_scores, side="right")
        self._ahead += len(ids) - end
        for i in (first < end).nonzero()[0]:
            self._ahead[i] += ids[first[i] : end[i]].searchsorted(self._labelled_ids[i])

    def ranked(self) -> Strongest:
        """Return the k best, and the labelled ones that are not among them."""
        beyond = self._ahead >= self._k
        return Strongest(
            np.concatenate([self._ids, self._labelled_ids[beyond]]),
            np.concatenate([np.arange(1, len(self._ids) + 1), self._ahead[beyond] + 1]),
            np.concatenate([shown(self._units), self._labelled_scores[beyond]]),
        )
