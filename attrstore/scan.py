"""Stream codes out of DuckDB and rank them for all queries at once, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow
import torch
from torch import Tensor

from attrstore import codes
from attrstore.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from attrstore.encoders import Encoder
    from attrstore.store import Store

CHUNK_BYTES = 2**26  # of decoded vectors held at a time


class Chunk(NamedTuple):
    """Some examples, decoded."""

    example_ids: Tensor  # int64 [n]
    directions: Tensor  # float32 [n, D]; each block has norm 1
    norms: Tensor  # float32 [n, B]: of the blocks


def rows_at_once(encoder: Encoder) -> int:
    """Return how many examples a chunk holds."""
    return max(64, min(16384, CHUNK_BYTES // (4 * encoder.dimensions)))


def chunks(
    store: Store,
    encoder: Encoder,
    name: str = "encoded",
    device: torch.device | str = "cpu",
    **parameters: int,
) -> Iterator[Chunk]:
    """Yield the codes that the statement `name` of `sql/scoring.sql` selects, decoded, on `device`."""
    code = codes.CODES[encoder.code]
    relation = store.sql(statement("scoring", name), {"encoder": encoder.encoder_id, **parameters})
    for batch in relation.to_arrow_reader(rows_at_once(encoder)):
        if not len(batch):
            continue
        quantised, scales = (blob_matrix(batch.column(i)).to(device) for i in (1, 2))
        directions, norms = codes.decode(quantised, scales, encoder.blocks, code)
        ids = torch.from_numpy(batch.column(0).to_numpy(zero_copy_only=False).copy())
        yield Chunk(ids.to(device), directions, norms)


def blob_matrix(column: pyarrow.Array) -> Tensor:
    """View a column of n blobs of one length as uint8 [n, length]; a copy only where Arrow needs one."""
    column = column.cast(pyarrow.large_binary())
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    values = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return torch.from_numpy(values.reshape(len(column), -1).copy())


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
    """One end of a stream's order for each query: by score, ties by example_id, the smaller one stronger."""

    def __init__(self, n_queries: int, k: int, *, largest: bool, device: torch.device | str) -> None:
        self.k, self.largest = k, largest
        self.scores = torch.empty(n_queries, 0, device=device)
        self.ids = torch.empty(n_queries, 0, dtype=torch.long, device=device)

    def add(self, scores: Tensor, example_ids: Tensor) -> None:
        """Take scores [queries, n] of the examples [n]."""
        merged = torch.cat([self.scores, scores], dim=1)
        ids = torch.cat([self.ids, example_ids.expand(len(scores), -1)], dim=1)
        # Sorted by id first: topk need not be stable, sort is, and equal scores then come in order of id.
        if merged.shape[1] > 4 * self.k:
            threshold = merged.topk(self.k, dim=1, largest=self.largest).values[:, -1:]
            keep = merged >= threshold if self.largest else merged <= threshold
            width = int(keep.sum(dim=1).max())
            order = keep.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :width]
            worst = -torch.inf if self.largest else torch.inf
            merged = merged.masked_fill(~keep, worst).gather(1, order)
            ids = ids.gather(1, order)
        # The weak end is the mirror of one order, so that a pair never stands at both.
        by_id = ids.argsort(dim=1, stable=True, descending=not self.largest)
        merged, ids = merged.gather(1, by_id), ids.gather(1, by_id)
        order = merged.argsort(dim=1, descending=self.largest, stable=True)[:, : self.k]
        self.scores, self.ids = merged.gather(1, order), ids.gather(1, order)


def rank(
    scored: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    query_ids: Sequence[int],
    top_k: int,
    labelled: tuple[Tensor, Tensor, Tensor],
    device: torch.device | str = "cpu",
    *,
    opponents: bool = True,
) -> tuple[Ranked, int]:
    """Rank a stream of (example_ids [n], scores [queries, n]).

    Args:
        scored: starts the stream.
        query_ids: of the rows of the scores.
        top_k: proponents kept for each query, and opponents.
        labelled: (row [p], example_id [p], score [p]) of the pairs whose exact rank is wanted.
        device: of the scores.
        opponents: keep the weak end too.

    Returns the pairs and the number of examples ranked.
    """
    rows, ids, own = (part.to(device) for part in labelled)
    beaten_by = torch.zeros(len(rows), dtype=torch.long, device=device)
    best = TopK(len(query_ids), top_k, largest=True, device=device)
    worst = TopK(len(query_ids), top_k if opponents else 0, largest=False, device=device)
    total = 0
    for example_ids, scores in scored():
        total += len(example_ids)
        best.add(scores, example_ids)
        if opponents:
            worst.add(scores, example_ids)
        for part in torch.arange(len(rows), device=device).split(max(1, 2**24 // max(1, len(example_ids)))):
            theirs = scores[rows[part]]
            mine = own[part].unsqueeze(1)
            ahead = (theirs > mine) | ((theirs == mine) & (example_ids < ids[part].unsqueeze(1)))
            beaten_by[part] += (ahead & (example_ids != ids[part].unsqueeze(1))).sum(dim=1)
    return _collect(query_ids, best, worst, total, (rows, ids, own, beaten_by + 1)), total


def _collect(
    query_ids: Sequence[int],
    best: TopK,
    worst: TopK,
    total: int,
    labelled: tuple[Tensor, Tensor, Tensor, Tensor],
) -> Ranked:
    """Put both ends and the labelled pairs together; a pair that is at both ends is a proponent."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    n_best = best.ids.shape[1]
    n_worst = min(worst.ids.shape[1], max(0, total - n_best))
    for top, count, sign in ((best, n_best, 1), (worst, n_worst, -1)):
        ranks = sign * torch.arange(1, count + 1, device=top.ids.device).expand(len(query_ids), -1)
        rows = torch.arange(len(query_ids), device=top.ids.device).unsqueeze(1).expand(-1, count)
        parts.append(
            (rows.flatten(), top.ids[:, :count].flatten(), ranks.flatten(), top.scores[:, :count].flatten())
        )
    rows, ids, own, ranks = labelled
    at_an_end = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for top, count in ((best, n_best), (worst, n_worst)):
        for part in torch.arange(len(rows), device=rows.device).split(2**16):
            at_an_end[part] |= (top.ids[rows[part], :count] == ids[part].unsqueeze(1)).any(dim=1)
    # Scored in another batch, a near tie can round the other way: never inside an end that it is not in.
    ranks = ranks.clamp(n_best + 1, max(n_best + 1, total - n_worst))
    middle = ~at_an_end
    parts.append((rows[middle], ids[middle], ranks[middle], own[middle]))
    row, example, rank, score = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return Ranked(np.asarray(query_ids, dtype=np.int64)[row], example, rank, score.astype(np.float64))
