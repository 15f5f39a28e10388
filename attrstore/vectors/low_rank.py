"""Codes of low rank: of each block its strongest singular pairs as quantised directions, and how much they hold.

A block's gradient is close to |G| sum_i share_i u_i v_i^T. An example keeps the directions u and v of `rank` pairs in
its code; in its scales each block's norm (bfloat16), of the whole gradient, and each pair's share of it (a byte). A
query keeps the pairs of its own, in 8 bits. The inner product with a query's block Q = sum_j p_j q_j^T is
|G| sum_i share_i sum_j (p_j . u_i) (q_j . v_i).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.vectors import codes
from attrstore.vectors.encoders import Block

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrstore.vectors.encoders import Encoder
    from attrstore.vectors.scan import Chunk

TINY = 1e-30
AT_ONCE = 2**18  # products of one block held at a time: they stay in the processor's second cache


class Sides(NamedTuple):
    """Where the directions of one block stand in a vector of `rank` pairs: first all u, then all v."""

    offset: int
    rank: int
    n_out: int
    n_in: int

    def left(self, vectors: Tensor) -> Tensor:
        """Return u of vectors [n, D]: [n, rank, out], a view."""
        part: Tensor = vectors[:, self.offset : self.middle].unflatten(1, (self.rank, self.n_out))
        return part

    def right(self, vectors: Tensor) -> Tensor:
        """Return v of vectors [n, D]: [n, rank, in], a view."""
        part: Tensor = vectors[:, self.middle : self.end].unflatten(1, (self.rank, self.n_in))
        return part

    @property
    def middle(self) -> int:
        """Where v begins."""
        return self.offset + self.rank * self.n_out

    @property
    def end(self) -> int:
        """Where the next block begins."""
        return self.middle + self.rank * self.n_in


def sides(encoder: Encoder, rank: int) -> list[Sides]:
    """Lay out the encoder's blocks in a vector of `rank` pairs a block."""
    found: list[Sides] = []
    for block in encoder.blocks:
        n_out = int(block.rows or 0)
        n_in = block.length // pairs_of(encoder) - n_out
        found.append(Sides(found[-1].end if found else 0, rank, n_out, n_in))
    return found


def pairs_of(encoder: Encoder) -> int:
    """Return how many pairs an encoder of low rank keeps of each block."""
    assert encoder.rank is not None
    return encoder.rank


def _directions(encoder: Encoder) -> list[Block]:
    """Return each u and each v as a block of its own, in the order of the code."""
    found: list[Block] = []
    for index, block in enumerate(sides(encoder, pairs_of(encoder))):
        for length in [block.n_out] * block.rank + [block.n_in] * block.rank:
            start = found[-1].offset + found[-1].length if found else 0
            found.append(Block(str(index), start, length))
    return found


# An example: unit directions [D], then the norms [B], then the shares [B rank]


def encode(encoder: Encoder, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise examples [n, D + B + B rank] to codes uint8 and scales uint8 [n, (2 + rank) B]."""
    width, n_blocks = encoder.dimensions, len(encoder.blocks)
    code, _ = codes.encode(vectors[:, :width], _directions(encoder), codes.CODES[encoder.code])
    norms = vectors[:, width : width + n_blocks].bfloat16().contiguous().view(torch.uint8)
    shares = (vectors[:, width + n_blocks :] * 255).round().clamp(0, 255).to(torch.uint8)
    return code, torch.cat([norms, shares], dim=1)


def scales_of(encoder: Encoder, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return norms [n, B] and shares [n, B, rank] of scales."""
    middle = 2 * len(encoder.blocks)
    norms = scales[:, :middle].contiguous().view(torch.bfloat16).float()
    shares = scales[:, middle:].float().div_(255).unflatten(1, (len(encoder.blocks), -1))
    return norms, shares


# A query: p and q of its own rank, the singular value in p, then the norms [B]


def query_rank(encoder: Encoder, vectors: Tensor) -> int:
    """Return how many pairs of each block the queries [q, E] keep."""
    return (vectors.shape[1] - len(encoder.blocks)) * pairs_of(encoder) // encoder.dimensions


def pack_queries(encoder: Encoder, vectors: Tensor) -> Tensor:
    """Return queries [q, E] in 8 bits: uint8 [q, bytes]; the entries, then a factor for each pair, then the norms."""
    rank = query_rank(encoder, vectors)
    entries, factors = [], []
    for block in sides(encoder, rank):
        left, right = block.left(vectors), block.right(vectors)
        peaks = [part.abs().amax(dim=2, keepdim=True).clamp(min=TINY) for part in (left, right)]
        for part, peak in zip((left, right), peaks, strict=True):
            entries.append((part / peak * 127).round().to(torch.int8).flatten(1))
        factors.append((peaks[0] * peaks[1] / 127**2).squeeze(2))
    norms = vectors[:, -len(encoder.blocks) :]
    numbers = torch.cat([*factors, norms], dim=1).contiguous()
    return torch.cat([torch.cat(entries, dim=1).view(torch.uint8), numbers.view(torch.uint8)], dim=1)


def unpack_queries(encoder: Encoder, packed: Tensor) -> Tensor:
    """Undo `pack_queries`: float32 [q, E], up to rounding; each pair's factor is in p."""
    n_blocks = len(encoder.blocks)
    per_pair = encoder.dimensions // pairs_of(encoder) + 4 * n_blocks
    rank = (packed.shape[1] - 4 * n_blocks) // per_pair
    width = rank * encoder.dimensions // pairs_of(encoder)
    vectors = packed[:, :width].view(torch.int8).float()
    numbers = packed[:, width:].contiguous().view(torch.float32)
    factors = numbers[:, : n_blocks * rank].unflatten(1, (n_blocks, rank))
    for index, block in enumerate(sides(encoder, rank)):
        block.left(vectors).mul_(factors[:, index].unsqueeze(2))
    return torch.cat([vectors, numbers[:, n_blocks * rank :]], dim=1)


# Scores


def scorer(
    encoder: Encoder, norm: str, vectors: Tensor, *, integers: bool = True
) -> Callable[[Chunk], Tensor]:
    """Return what scores a chunk for queries [q, E]: [q, n], divided by the norms as `linear_map` says.

    Args:
        integers: multiply in 8 bits where the processor can.
    """
    n_blocks = len(encoder.blocks)
    rank = query_rank(encoder, vectors)
    norms = vectors[:, -n_blocks:]
    tiny = torch.finfo(norms.dtype).tiny
    if norm == "block":
        factors = 1 / norms.clamp(min=tiny) / n_blocks
    elif norm == "vector":
        factors = (1 / norms.norm(dim=1, keepdim=True).clamp(min=tiny)).expand(-1, n_blocks)
    else:
        factors = torch.ones_like(norms)
    scaled = vectors[:, :-n_blocks].clone()
    queries = []
    for index, block in enumerate(sides(encoder, rank)):
        block.left(scaled).mul_(factors[:, index].view(-1, 1, 1))
        queries.append((block.left(scaled).transpose(0, 1), block.right(scaled).transpose(0, 1)))
    integers &= (
        vectors.device.type == "cpu"
        and codes.CODES[encoder.code].bits <= 8
        and torch.cpu._is_vnni_supported()
    )
    products = IntegerPairs(encoder, queries) if integers else FloatPairs(encoder, queries)

    def score(chunk: Chunk) -> Tensor:
        norms, shares = scales_of(encoder, chunk.scales)
        weights = shares if norm == "block" else shares * norms.unsqueeze(2)
        if norm == "vector":
            weights = weights / norms.norm(dim=1).clamp(min=TINY).view(-1, 1, 1)
        return products.scores(chunk, weights)

    return score


class FloatPairs:
    """Products of decoded directions, in float32."""

    def __init__(self, encoder: Encoder, queries: list[tuple[Tensor, Tensor]]) -> None:
        self.encoder, self.queries = encoder, queries
        self.directions = _directions(encoder)

    def scores(self, chunk: Chunk, weights: Tensor) -> Tensor:
        """Return [q, n]: the pairs' products times their weights [n, B, rank], summed."""
        rows, _ = codes.decode(
            chunk.code, chunk.scales[:, :0], self.directions, codes.CODES[self.encoder.code]
        )
        total = rows.new_zeros(self.queries[0][0].shape[1], len(rows))
        for index, block in enumerate(sides(self.encoder, pairs_of(self.encoder))):
            left, right = self.queries[index]
            for pair in range(block.rank):
                both = (left @ block.left(rows)[:, pair].T) * (right @ block.right(rows)[:, pair].T)
                total.addcmul_(both.sum(dim=0), weights[:, index, pair])
        return total


class IntegerPairs:
    """Products of the integers that codes are with queries of 8 bits."""

    def __init__(self, encoder: Encoder, queries: list[tuple[Tensor, Tensor]]) -> None:
        self.encoder = encoder
        self.grid = codes.Grid(codes.CODES[encoder.code], encoder.dimensions)
        self.n_queries = queries[0][0].shape[1]
        self.queries = []
        for parts in queries:
            peaks = [part.abs().amax(dim=2, keepdim=True).clamp(min=TINY) for part in parts]
            whole = [
                (part / peak * 127).round().to(torch.int8).flatten(0, 1)
                for part, peak in zip(parts, peaks, strict=True)
            ]
            self.queries.append((*whole, peaks[0] * peaks[1] / 127**2))  # [s q, out], [s q, in], [s, q, 1]

    def scores(self, chunk: Chunk, weights: Tensor) -> Tensor:
        """See `FloatPairs`."""
        rows = self.grid.spread(chunk.code)
        total = torch.zeros(self.n_queries, len(rows))
        size = max(64, AT_ONCE // max(1, len(self.queries[0][0])))
        for start in range(0, len(rows), size):
            piece = slice(start, start + size)
            self._add(total[:, piece], rows[piece], weights[piece])
        return total

    def _add(self, total: Tensor, rows: Tensor, weights: Tensor) -> None:
        for index, block in enumerate(sides(self.encoder, pairs_of(self.encoder))):
            left, right, factors = self.queries[index]
            for pair in range(block.rank):
                u, v = block.left(rows)[:, pair], block.right(rows)[:, pair]
                both = torch._int_mm(left, u.T).float().mul_(torch._int_mm(right, v.T))
                each = both.view(len(factors), self.n_queries, -1)
                summed = torch.mul(each[0], factors[0])
                for of_pair, factor in zip(each[1:], factors[1:], strict=True):
                    summed.addcmul_(of_pair, factor)
                length = _length(u).mul_(_length(v)).clamp_(min=TINY)
                total.addcmul_(summed, weights[:, index, pair] / length)


def _length(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows.float(), dim=1)
    return length


def refuse(encoder: Encoder, wanted: str) -> None:
    """Refuse what codes of low rank cannot be used for."""
    if encoder.rank is not None:
        raise InputError(
            f"{encoder.name}: made with {flag('rank')}, and {wanted} needs encodings made without. Use dot, cosine, "
            f"cosine-block, less or tracincp with it, or give another {flag('encoder')}."
        )
