"""Scores of codes of low rank: products of queries' pairs with the directions of a code, weighted by its scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.vectors import codes, low_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attrstore.vectors.encoders import Encoder
    from attrstore.vectors.scan import Chunk
    from attrstore.vectors.spread import Layout

TINY = 1e-30
AT_ONCE = 2**18  # products of one block held at a time: they stay in the processor's second cache


def scorer(
    encoder: Encoder,
    norm: str,
    vectors: Tensor,
    laid_out: Layout | None = None,
    roots: Sequence[Tensor] | None = None,
    *,
    integers: bool = True,
) -> Callable[[Chunk], Tensor]:
    """Return what scores a chunk for queries [q, E]: [q, n], divided by the norms as `linear_map` says.

    Args:
        laid_out: the layout of the codes, if entries differ in bits.
        roots: what `whitening` returns: the score is in the metric of its square.
        integers: multiply in 8 bits where the processor can.
    """
    n_blocks = len(encoder.blocks)
    rank = low_rank.query_rank(encoder, vectors)
    norms = vectors[:, -n_blocks:]
    scaled = vectors[:, :-n_blocks].clone()
    both = low_rank.sides(encoder, rank)
    if roots is not None:
        norms = norms.clone()
        for index, (block, a, b) in enumerate(zip(both, roots[::2], roots[1::2], strict=True)):
            left, right = block.left(scaled) @ a, block.right(scaled) @ b
            norms[:, index] = low_rank.lengths(left, right)
            block.left(scaled).copy_(left @ a)
            block.right(scaled).copy_(right @ b)
    tiny = torch.finfo(norms.dtype).tiny
    if norm == "block":
        factors = 1 / norms.clamp(min=tiny) / n_blocks
    elif norm == "vector":
        factors = (1 / norms.norm(dim=1, keepdim=True).clamp(min=tiny)).expand(-1, n_blocks)
    else:
        factors = torch.ones_like(norms)
    queries = []
    for index, block in enumerate(both):
        block.left(scaled).mul_(factors[:, index].view(-1, 1, 1))
        queries.append((block.left(scaled).transpose(0, 1), block.right(scaled).transpose(0, 1)))
    integers &= (
        vectors.device.type == "cpu"
        and codes.CODES[encoder.code].bits <= 8
        and torch.cpu._is_vnni_supported()
    )
    products = (IntegerPairs if integers else FloatPairs)(encoder, queries, laid_out)

    def score(chunk: Chunk) -> Tensor:
        norms, shares = low_rank.scales_of(encoder, chunk.scales)
        if roots is not None:
            lengths = _whitened_lengths(
                encoder, low_rank.decode(encoder, chunk.code, laid_out), shares, roots
            )
            if norm == "block":
                shares = shares * torch.where(lengths > TINY, 1 / lengths, 0.0).unsqueeze(2)
        else:
            lengths = torch.ones_like(norms)
        weights = shares if norm == "block" else shares * norms.unsqueeze(2)
        if norm == "vector":
            weights = weights / (norms * lengths).norm(dim=1).clamp(min=TINY).view(-1, 1, 1)
        return products.scores(chunk, weights)

    return score


def _whitened_lengths(encoder: Encoder, rows: Tensor, shares: Tensor, roots: Sequence[Tensor]) -> Tensor:
    """Return the length of each block of unit norm after whitening: [n, B]."""
    found = []
    for index, block in enumerate(low_rank.sides(encoder, low_rank.pairs_of(encoder))):
        left = block.left(rows) @ roots[2 * index] * shares[:, index].unsqueeze(2)
        found.append(low_rank.lengths(left, block.right(rows) @ roots[2 * index + 1]))
    return torch.stack(found, dim=1)


class FloatPairs:
    """Products of decoded directions, in float32."""

    def __init__(
        self, encoder: Encoder, queries: list[tuple[Tensor, Tensor]], laid_out: Layout | None
    ) -> None:
        self.encoder, self.queries, self.laid_out = encoder, queries, laid_out

    def scores(self, chunk: Chunk, weights: Tensor) -> Tensor:
        """Return [q, n]: the pairs' products times their weights [n, B, rank], summed."""
        rows = low_rank.decode(self.encoder, chunk.code, self.laid_out)
        total = rows.new_zeros(self.queries[0][0].shape[1], len(rows))
        for index, block in enumerate(low_rank.sides(self.encoder, low_rank.pairs_of(self.encoder))):
            left, right = self.queries[index]
            for pair in range(block.rank):
                both = (left @ block.left(rows)[:, pair].T) * (right @ block.right(rows)[:, pair].T)
                total.addcmul_(both.sum(dim=0), weights[:, index, pair])
        return total


class IntegerPairs:
    """Products of the integers that codes are with queries of 8 bits.

    What an entry's integer stands for is taken into the query before it is rounded.
    """

    def __init__(
        self, encoder: Encoder, queries: list[tuple[Tensor, Tensor]], laid_out: Layout | None
    ) -> None:
        self.encoder, self.laid_out = encoder, laid_out
        self.grid = codes.Grid(codes.CODES[encoder.code], encoder.dimensions)
        self.n_queries = queries[0][0].shape[1]
        self.steps = None if laid_out is None else laid_out.scale.unsqueeze(0)
        self.queries: list[list[tuple[Tensor, Tensor, Tensor]]] = []  # by block and pair
        for block, parts in zip(low_rank.sides(encoder, low_rank.pairs_of(encoder)), queries, strict=True):
            if self.steps is None:
                self.queries.append([_rounded(*parts)] * block.rank)
                continue
            left, right = block.left(self.steps)[0], block.right(self.steps)[0]
            self.queries.append(
                [_rounded(parts[0] * u, parts[1] * v) for u, v in zip(left, right, strict=True)]
            )

    def scores(self, chunk: Chunk, weights: Tensor) -> Tensor:
        """See `FloatPairs`."""
        rows = self.grid.spread(chunk.code) if self.laid_out is None else self.laid_out.integers(chunk.code)
        total = torch.zeros(self.n_queries, len(rows))
        size = max(64, AT_ONCE // max(1, len(self.queries[0][0][0])))
        for start in range(0, len(rows), size):
            piece = slice(start, start + size)
            self._add(total[:, piece], rows[piece], weights[piece])
        return total

    def _add(self, total: Tensor, rows: Tensor, weights: Tensor) -> None:
        for index, block in enumerate(low_rank.sides(self.encoder, low_rank.pairs_of(self.encoder))):
            for pair in range(block.rank):
                left, right, factors = self.queries[index][pair]
                u, v = block.left(rows)[:, pair], block.right(rows)[:, pair]
                both = torch._int_mm(left, u.T).float().mul_(torch._int_mm(right, v.T))
                each = both.view(len(factors), self.n_queries, -1)
                summed = torch.mul(each[0], factors[0])
                for of_pair, factor in zip(each[1:], factors[1:], strict=True):
                    summed.addcmul_(of_pair, factor)
                if self.steps is None:
                    length = _length(u.float()).mul_(_length(v.float()))
                else:
                    of_u, of_v = block.left(self.steps)[0, pair], block.right(self.steps)[0, pair]
                    length = _length(u * of_u).mul_(_length(v * of_v))
                length = length.clamp_(min=TINY)
                total.addcmul_(summed, weights[:, index, pair] / length)


def _rounded(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round queries' pairs [s, q, out] and [s, q, in] to int8 [s q, out] and [s q, in], and a factor [s, q, 1]."""
    peaks = [part.abs().amax(dim=2, keepdim=True).clamp(min=TINY) for part in (left, right)]
    whole = [
        (part / peak * 127).round().to(torch.int8).flatten(0, 1)
        for part, peak in zip((left, right), peaks, strict=True)
    ]
    return whole[0], whole[1], peaks[0] * peaks[1] / 127**2


def _length(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return length
