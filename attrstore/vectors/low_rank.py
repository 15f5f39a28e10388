"""Codes of low rank: of each block its strongest singular pairs as quantised directions, and how much they hold.

A block's gradient is close to |G| sum_i share_i u_i v_i^T. An example keeps the directions u and v of `rank` pairs in
its code; in its scales each block's norm (bfloat16), of the whole gradient, and each pair's share of it (a byte). A
query keeps the pairs of its own, in 8 bits. The inner product with a query's block Q = sum_j p_j q_j^T is
|G| sum_i share_i sum_j (p_j . u_i) (q_j . v_i).

Where directions are coordinates on the corpus's principal ones, bits go where the variance is
(`attrstore.vectors.spread`), and what a code misses of a pair's directions is taken from its share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.vectors import codes, spread
from attrstore.vectors.encoders import Block

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder
    from attrstore.vectors.spread import Layout

TINY = 1e-30


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


class Spread(NamedTuple):
    """How one block's pairs are spread over principal directions, as measured on a sample of the corpus."""

    out: Tensor  # [rank, out]: standard deviations of u's coordinates
    inputs: Tensor  # [rank, in]: of v's
    weights: Tensor  # [rank]: root mean square of the share that a pair holds


def layout(encoder: Encoder, spreads: Mapping[str, Spread]) -> Layout | None:
    """Lay the bits of a code out by the spread of each block; None where all entries have as many."""
    code = codes.CODES[encoder.code]
    if not encoder.principal or code.bits >= 8:
        return None
    of_each, weights = [], []
    for block in encoder.blocks:
        of_block = spreads[block.name]
        for side in (of_block.out, of_block.inputs):
            of_each += list(side)
            weights += [w.expand(len(row)) for w, row in zip(of_block.weights, side, strict=True)]
    deviations = torch.cat(of_each)
    variances = (torch.cat(weights).double() * deviations.double()).square()
    whole_bytes = 8 * code.n_bytes(len(deviations))
    return spread.Layout.of(spread.allocate(variances, whole_bytes), deviations)


def layout_of(store: Store, encoder: Encoder) -> Layout | None:
    """Read the layout of an encoder's codes from the store."""
    if not encoder.principal:
        return None
    parts: dict[str, dict[str, Tensor]] = {}
    rows = store.named("encodings", "spreads", {"encoder": encoder.encoder_id}).fetchall()
    for module, part, n_rows, scale, matrix in rows:
        values = torch.frombuffer(bytearray(matrix), dtype=torch.float16).float() * scale
        parts.setdefault(module, {})[part] = values.view(n_rows, -1)
    return layout(
        encoder,
        {
            name: Spread(of_map["spread_out"], of_map["spread_in"], of_map["pair_weights"].flatten())
            for name, of_map in parts.items()
        },
    )


# An example: directions [D], of length 1 or, on principal directions, as much of 1 as these hold; then the norms [B],
# then the shares [B rank]


def encode(encoder: Encoder, vectors: Tensor, laid_out: Layout | None = None) -> tuple[Tensor, Tensor]:
    """Quantise examples [n, D + B + B rank] to codes uint8 and scales uint8 [n, (2 + rank) B]."""
    width, n_blocks = encoder.dimensions, len(encoder.blocks)
    directions, shares = vectors[:, :width], vectors[:, width + n_blocks :]
    if laid_out is None:
        code, _ = codes.encode(directions, _directions(encoder), codes.CODES[encoder.code])
    else:
        code = laid_out.encode(directions)
    if encoder.principal:
        decoded = decode(encoder, code.to(vectors.device), laid_out)
        alike = [
            (directions[:, d.offset : d.offset + d.length] * decoded[:, d.offset : d.offset + d.length]).sum(
                dim=1
            )
            for d in _directions(encoder)
        ]
        both = torch.stack(alike, dim=1).view(len(vectors), n_blocks, 2, -1).prod(dim=2)
        shares = shares * both.flatten(1)
    norms = vectors[:, width : width + n_blocks].bfloat16().contiguous().view(torch.uint8)
    shares = (shares * 255).round().clamp(0, 255).to(torch.uint8)
    return code, torch.cat([norms, shares], dim=1)


def decode(encoder: Encoder, code: Tensor, laid_out: Layout | None) -> Tensor:
    """Return the directions that codes [n, bytes] stand for: float32 [n, D], each of length 1, or 0 if it is zero."""
    directions = _directions(encoder)
    if laid_out is None:
        return codes.directions(code, directions, codes.CODES[encoder.code])
    rows = laid_out.decode(code)
    for d in directions:
        part = rows[:, d.offset : d.offset + d.length]
        part /= torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp(min=TINY)
    return rows


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


def lengths(left: Tensor, right: Tensor) -> Tensor:
    """Return |sum_i left_i right_i^T| of pairs [n, r, out] and [n, r, in]: [n]."""
    products = torch.bmm(left, left.transpose(1, 2)) * torch.bmm(right, right.transpose(1, 2))
    return products.sum(dim=(1, 2)).clamp(min=0).sqrt()


# Scores


def refuse(encoder: Encoder, wanted: str) -> None:
    """Refuse what codes of low rank cannot be used for."""
    if encoder.rank is not None:
        raise InputError(
            f"{encoder.name}: made with {flag('rank')}, and {wanted} needs encodings made without. Use a method "
            f"without one, or give another {flag('encoder')}."
        )
