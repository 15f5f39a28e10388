"""The order of the examples for each query: both ends of it, and the exact ranks of some pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow
import torch
from torch import Tensor

from attrstore.errors import InputError, flag

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ranked(NamedTuple):
    """Scored pairs: parallel arrays."""

    query_ids: np.ndarray
    example_ids: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray

    def table(self) -> pyarrow.Table:
        """Return the pairs as Arrow, in the columns of `Ranking.pairs`."""
        return pyarrow.table(
            {
                "query_id": self.query_ids,
                "example_id": self.example_ids,
                "rank": self.ranks.astype(np.int32),
                "score": self.scores,
            }
        )


class TopK:
    """One end of a stream's order for each query: by score, ties by example_id, the smaller one stronger.

    What may belong to it waits until there is as much of it as is kept: to sort costs more than to look.
    """

    def __init__(self, n_queries: int, k: int, *, largest: bool, device: torch.device | str) -> None:
        self.k, self.largest = k, largest
        self.weakest = -torch.inf if largest else torch.inf
        self.scores = torch.empty(n_queries, 0, device=device)
        self.ids = torch.empty(n_queries, 0, dtype=torch.long, device=device)
        self.last = torch.full(
            (n_queries, 1), self.weakest, device=device
        )  # nothing behind it belongs to the end
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, scores and ids, each [m]

    def add(self, scores: Tensor, example_ids: Tensor) -> None:
        """Take scores [queries, n] of the examples [n]."""
        if not self.k:
            return
        if not self.waiting and not self.scores.shape[1] and scores.shape[1] > 4 * self.k:
            self.last = scores.topk(self.k, dim=1, largest=self.largest).values[:, -1:]
        row, column = torch.where(scores >= self.last if self.largest else scores <= self.last)
        self.waiting.append((row, scores[row, column], example_ids[column]))
        if sum(len(rows) for rows, _, _ in self.waiting) > self.k * len(scores):
            self.settle()

    def settle(self) -> None:
        """Put what waits where it belongs: `scores` and `ids` [queries, kept] are then those of all that was taken."""
        if not self.waiting:
            return
        row, scores, ids = (torch.cat(part) for part in zip(*self.waiting, strict=True))
        self.waiting = []
        self._keep(*self._padded(row, scores, ids))

    def merge(self, other: TopK) -> None:
        """Take what another part of the stream kept."""
        self.settle()
        other.settle()
        self._keep(other.scores, other.ids)

    def _padded(self, row: Tensor, scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and ids [m] by their rows: [queries, most of a row], filled up with the weakest score."""
        order = row.argsort(stable=True)
        row, scores, ids = row[order], scores[order], ids[order]
        counts = row.bincount(minlength=len(self.last))
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        shape = len(counts), int(counts.max())
        in_rows = scores.new_full(shape, self.weakest), ids.new_full(shape, torch.iinfo(torch.int64).max)
        in_rows[0][row, place], in_rows[1][row, place] = scores, ids
        return in_rows

    def _keep(self, more: Tensor, more_ids: Tensor) -> None:
        """Keep the k strongest of what is kept and of more: scores and ids [queries, m]."""
        scores, ids = torch.cat([self.scores, more], dim=1), torch.cat([self.ids, more_ids], dim=1)
        # Sorted by id first: sort is stable, and equal scores then come in order of id. The weak end is the
        # mirror of one order, so that a pair never stands at both.
        by_id = ids.argsort(dim=1, stable=True, descending=not self.largest)
        scores, ids = scores.gather(1, by_id), ids.gather(1, by_id)
        order = scores.argsort(dim=1, descending=self.largest, stable=True)[:, : self.k]
        self.scores, self.ids = scores.gather(1, order), ids.gather(1, order)
        if self.scores.shape[1] == self.k:
            self.last = self.scores[:, -1:]


class Ends:
    """Both ends of a stream's order for each query, and the exact ranks of some pairs; parts of a stream can be merged.

    Args:
        query_ids: of the rows of the scores.
        top_k: proponents kept for each query, and opponents.
        labelled: (row [p], example_id [p], score [p]) of the pairs whose exact rank is wanted. The score is the
            pair's only one: it stands in the stream too, where another batch may have rounded it otherwise, so that
            all ranks are places in one order.
        device: of the scores.
        opponents: keep the weak end too.
    """

    def __init__(
        self,
        query_ids: Sequence[int],
        top_k: int,
        labelled: tuple[Tensor, Tensor, Tensor],
        device: torch.device | str = "cpu",
        *,
        opponents: bool = True,
    ) -> None:
        self.query_ids, self.total = query_ids, 0
        self.rows, self.ids, self.own = (part.to(device) for part in labelled)
        self.beaten_by = torch.zeros(len(self.rows), dtype=torch.long, device=device)
        self.best = TopK(len(query_ids), top_k, largest=True, device=device)
        self.worst = TopK(len(query_ids), top_k if opponents else 0, largest=False, device=device)

    def add(self, example_ids: Tensor, scores: Tensor) -> None:
        """Take scores [queries, n] of the examples [n]; `InputError` names a pair whose score is not finite."""
        self.total += len(example_ids)
        _put(scores, example_ids, self.rows, self.ids, self.own)
        _refuse_not_finite(scores, self.query_ids, example_ids)
        self.best.add(scores, example_ids)
        self.worst.add(scores, example_ids)
        every = torch.arange(len(self.rows), device=scores.device)
        for part in every.split(max(1, 2**24 // max(1, len(example_ids)))):
            theirs, ids = scores[self.rows[part]], self.ids[part].unsqueeze(1)
            mine = self.own[part].unsqueeze(1)
            ahead = (theirs > mine) | ((theirs == mine) & (example_ids < ids))
            self.beaten_by[part] += (ahead & (example_ids != ids)).sum(dim=1)

    def merge(self, other: Ends) -> None:
        """Take the ends of another part of the stream, of other examples."""
        self.total += other.total
        self.beaten_by += other.beaten_by
        self.best.merge(other.best)
        self.worst.merge(other.worst)

    def ranked(self) -> Ranked:
        """Return the pairs; a pair that is at both ends is a proponent."""
        self.best.settle()
        self.worst.settle()
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        n_best = self.best.ids.shape[1]
        n_worst = min(self.worst.ids.shape[1], max(0, self.total - n_best))
        n, device = len(self.query_ids), self.rows.device
        for top, count, sign in ((self.best, n_best, 1), (self.worst, n_worst, -1)):
            ranks = sign * torch.arange(1, count + 1, device=device).expand(n, -1)
            rows = torch.arange(n, device=device).unsqueeze(1).expand(-1, count)
            ends = top.ids[:, :count].flatten(), ranks.flatten(), top.scores[:, :count].flatten()
            parts.append((rows.flatten(), *ends))
        at_an_end = torch.zeros(len(self.rows), dtype=torch.bool, device=device)
        for top, count in ((self.best, n_best), (self.worst, n_worst)):
            for part in torch.arange(len(self.rows), device=device).split(2**16):
                there = top.ids[self.rows[part], :count] == self.ids[part].unsqueeze(1)
                at_an_end[part] |= there.any(dim=1)
        middle = ~at_an_end
        parts.append((self.rows[middle], self.ids[middle], self.beaten_by[middle] + 1, self.own[middle]))
        row, example, rank, score = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        query_ids = np.asarray(self.query_ids, dtype=np.int64)
        return Ranked(query_ids[row], example, rank, score.astype(np.float64))


def _put(scores: Tensor, example_ids: Tensor, rows: Tensor, ids: Tensor, own: Tensor) -> None:
    """Write the pairs' own scores into the scores [queries, n] of the examples [n], where they are among them."""
    if not len(ids) or not len(example_ids):
        return
    in_order, columns = example_ids.sort()
    place = torch.searchsorted(in_order, ids).clamp(max=len(in_order) - 1)
    here = in_order[place] == ids
    scores[rows[here], columns[place[here]]] = own[here].to(scores.dtype)


def _refuse_not_finite(scores: Tensor, query_ids: Sequence[int], example_ids: Tensor) -> None:
    if bool(scores.sum().isfinite()) or bool(scores.isfinite().all()):
        return
    row, column = (~scores.isfinite()).nonzero()[0].tolist()
    raise InputError(
        f"the score of example_id {int(example_ids[column])} for query_id {query_ids[row]} is "
        f"{float(scores[row, column])}, so nothing was ranked. A larger "
        f"{flag('damping')} or {flag('norm')} block may keep it finite; "
        "if not, the encodings are at fault: attrstore check."
    )
