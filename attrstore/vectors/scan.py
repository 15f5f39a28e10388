"""Stream codes out of DuckDB and rank them for all queries at once, in bounded memory."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow
import torch
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.statements import statement
from attrstore.vectors import codes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import duckdb

    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

CHUNK_BYTES = 2**26  # of vectors held at a time, if they were float32
BATCH_BYTES = 2**20  # of codes asked of DuckDB at a time: small enough for its memory to be used again
CHUNKS_ALIVE = 3  # one in use, one waiting, one being read
CACHE_BYTES = 2**29  # of pages that DuckDB may hold during a scan


class Chunk(NamedTuple):
    """Some examples as they are stored. Its memory is used again two chunks later."""

    example_ids: Tensor  # int64 [n]
    code: Tensor  # uint8 [n, bytes]
    scales: Tensor  # uint8 [n, encoder.scale_bytes]: of the blocks' norms


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
    """Yield the codes that the statement `name` of `sql/statements/scoring.sql` selects, on `device`.

    The next chunk is read while the caller works on one.
    """
    if name == "encoded" and store.value(statement("scoring", "all_are_selected")):
        name = "all_encoded"  # a join costs more than the reading
    relation = store.sql(statement("scoring", name), {"encoder": encoder.encoder_id, **parameters})
    for chunk in _ahead(_gathered(relation, encoder, rows_at_once(encoder))):
        yield Chunk(*(part.to(device) for part in chunk))


def _gathered(relation: duckdb.DuckDBPyRelation, encoder: Encoder, size: int) -> Iterator[Chunk]:
    """Yield chunks of `size` rows, copied out of DuckDB's batches into memory that goes round."""
    width = codes.CODES[encoder.code].n_bytes(encoder.dimensions)
    ring = cycle(
        Chunk(
            torch.empty(size, dtype=torch.int64),
            torch.empty(size, width, dtype=torch.uint8),
            torch.empty(size, encoder.scale_bytes, dtype=torch.uint8),
        )
        for _ in range(CHUNKS_ALIVE)
    )
    chunk, n = next(ring), 0
    for batch in relation.to_arrow_reader(min(size, max(64, BATCH_BYTES // width))):
        columns = _example_ids(batch.column(0)), blob_matrix(batch.column(1)), blob_matrix(batch.column(2))
        done = 0
        while done < len(batch):
            taken = min(len(batch) - done, size - n)
            for part, column in zip(chunk, columns, strict=True):
                part[n : n + taken] = column[done : done + taken]
            n, done = n + taken, done + taken
            if n == size:
                yield chunk
                chunk, n = next(ring), 0
    if n:
        yield Chunk(*(part[:n] for part in chunk))


def _ahead(items: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield what `items` does, prepared in a thread, one ahead of the caller."""
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = reader.submit(next, items, None)
            yield item


def _example_ids(column: pyarrow.Array) -> Tensor:
    return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())


def blob_matrix(column: pyarrow.Array) -> Tensor:
    """View a column of n blobs of one length as uint8 [n, length], without a copy; not to be written to."""
    wide = pyarrow.types.is_large_binary(column.type)
    offsets = np.frombuffer(column.buffers()[1], np.int64 if wide else np.int32)[column.offset :]
    values = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[len(column)]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the memory is read-only
        return torch.from_numpy(values.reshape(len(column), -1))


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
        full = self.scores.shape[1] == self.k
        if not self.k:
            return
        if full:
            last = self.scores[:, -1:]
        elif scores.shape[1] > 4 * self.k:
            last = scores.topk(self.k, dim=1, largest=self.largest).values[:, -1:]
        else:
            last = scores.new_full((1, 1), -torch.inf if self.largest else torch.inf)
        rows, scores, ids = self._contenders(scores, example_ids, last)
        if full:  # few queries still change
            self.scores[rows], self.ids[rows] = self._merged(self.scores[rows], self.ids[rows], scores, ids)
        else:
            self.scores, self.ids = self._merged(self.scores, self.ids, scores, ids)

    def _contenders(self, scores: Tensor, example_ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gather what is not behind `last` [queries, 1]: the queries [r] that have any, scores and ids [r, m].

        Rows are filled up with the weakest score.
        """
        row, column = torch.where(scores >= last if self.largest else scores <= last)
        counts = row.bincount(minlength=len(scores))
        rows = counts.nonzero().squeeze(1)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        to = (counts > 0).cumsum(0)[row] - 1
        shape = len(rows), int(counts.max())
        found = scores.new_full(shape, -torch.inf if self.largest else torch.inf)
        ids = example_ids.new_full(shape, torch.iinfo(torch.int64).max)
        found[to, place], ids[to, place] = scores[row, column], example_ids[column]
        return rows, found, ids

    def _merged(self, scores: Tensor, ids: Tensor, more: Tensor, more_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the k strongest of both: scores and ids [rows, k]."""
        scores, ids = torch.cat([scores, more], dim=1), torch.cat([ids, more_ids], dim=1)
        # Sorted by id first: sort is stable, and equal scores then come in order of id. The weak end is the
        # mirror of one order, so that a pair never stands at both.
        by_id = ids.argsort(dim=1, stable=True, descending=not self.largest)
        scores, ids = scores.gather(1, by_id), ids.gather(1, by_id)
        order = scores.argsort(dim=1, descending=self.largest, stable=True)[:, : self.k]
        return scores.gather(1, order), ids.gather(1, order)


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
        labelled: (row [p], example_id [p], score [p]) of the pairs whose exact rank is wanted. The score is the
            pair's only one: it stands in the stream too, where another batch may have rounded it otherwise, so that
            all ranks are places in one order.
        device: of the scores.
        opponents: keep the weak end too.

    Returns the pairs and the number of examples ranked. Raises `InputError` naming a pair whose score is not finite.
    """
    rows, ids, own = (part.to(device) for part in labelled)
    beaten_by = torch.zeros(len(rows), dtype=torch.long, device=device)
    best = TopK(len(query_ids), top_k, largest=True, device=device)
    worst = TopK(len(query_ids), top_k if opponents else 0, largest=False, device=device)
    total = 0
    for example_ids, scores in scored():
        total += len(example_ids)
        _put(scores, example_ids, rows, ids, own)
        _refuse_not_finite(scores, query_ids, example_ids)
        best.add(scores, example_ids)
        if opponents:
            worst.add(scores, example_ids)
        for part in torch.arange(len(rows), device=device).split(max(1, 2**24 // max(1, len(example_ids)))):
            theirs = scores[rows[part]]
            mine = own[part].unsqueeze(1)
            ahead = (theirs > mine) | ((theirs == mine) & (example_ids < ids[part].unsqueeze(1)))
            beaten_by[part] += (ahead & (example_ids != ids[part].unsqueeze(1))).sum(dim=1)
    return _collect(query_ids, best, worst, total, (rows, ids, own, beaten_by + 1)), total


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
    middle = ~at_an_end
    parts.append((rows[middle], ids[middle], ranks[middle], own[middle]))
    row, example, rank, score = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return Ranked(np.asarray(query_ids, dtype=np.int64)[row], example, rank, score.astype(np.float64))
