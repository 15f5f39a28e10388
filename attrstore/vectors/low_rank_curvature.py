"""Curvature of codes of low rank: in each block a Kronecker product, measured on the codes themselves.

R of a block is close to A (x) B, with A = E[G G^T] and B = E[G^T G]. Its inverse is applied on the queries' side; of an
example only the norm changes. What a code makes of noise is in A and B too, so that it is not whitened into a signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.errors import InputError
from attrstore.vectors import curvature, low_rank, scan, stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

TINY = 1e-30


Factors = list[tuple[Tensor, Tensor]]  # A [out, out] and B [in, in] of each block, of trace 1


def whitening(
    store: Store, encoder: Encoder, kind: str, mixing: float | str, damping: float, vectors: Tensor
) -> tuple[list[Tensor], float | None]:
    """Return A^{-1/2} and B^{-1/2} of each block, one after the other, and the lambda of a mixture.

    A^{-1/2} carries the block's mean square, so that blocks can be compared. The rule that chooses lambda, and the
    mixture, are those of `attrstore.vectors.curvature`, on the factors.

    Args:
        kind: of the curvature: corpus or mixed.
        mixing: lambda of a mixture, or auto.
        damping: of the mean eigenvalue of each factor.
        vectors: the store's queries [q, E].
    """
    factors, energies = _of_corpus(store, encoder, vectors.device)
    used: float | None = None
    if kind == "mixed":
        asked = _of_queries(encoder, vectors)
        sides, of_queries = ([side for pair in each for side in pair] for each in (factors, asked))
        used = curvature.choose_mixing(sides, of_queries) if mixing == "auto" else float(mixing)
        mixed = curvature.mix(sides, of_queries, used)
        factors = list(zip(mixed[::2], mixed[1::2], strict=True))
    roots: list[Tensor] = []
    for (a, b), energy in zip(factors, energies, strict=True):
        roots += [
            curvature.power(a, -0.5, damping) / max(energy, TINY) ** 0.5,
            curvature.power(b, -0.5, damping),
        ]
    return roots, used


def solved(encoder: Encoder, vectors: Tensor, roots: Sequence[Tensor]) -> Tensor:
    """Return A^{-1} Q B^{-1} of each block of queries [q, E], with its norms in the place of theirs."""
    out = vectors.clone()
    norms = out[:, -len(encoder.blocks) :]
    blocks = low_rank.sides(encoder, low_rank.query_rank(encoder, vectors))
    for index, (block, a, b) in enumerate(zip(blocks, roots[::2], roots[1::2], strict=True)):
        left, right = block.left(vectors) @ a @ a, block.right(vectors) @ b @ b
        block.left(out).copy_(left)
        block.right(out).copy_(right)
        norms[:, index] = low_rank.lengths(left, right)
    return out


def _of_corpus(store: Store, encoder: Encoder, device: torch.device) -> tuple[Factors, list[float]]:
    """Return the factors of the corpus's codes, and the mean square of each block's gradient."""
    laid_out, laid = low_rank.layout_of(store, encoder), low_rank.sides(encoder, low_rank.pairs_of(encoder))
    total: list[tuple[Tensor, Tensor]] = [
        (torch.zeros(s.n_out, s.n_out, device=device), torch.zeros(s.n_in, s.n_in, device=device))
        for s in laid
    ]
    n, squares = 0, torch.zeros(len(encoder.blocks), dtype=torch.float64, device=device)
    one_in = stored.one_in(store, encoder)
    for chunk in scan.chunks(store, encoder, "curvature_rows", device, one_in=one_in):
        rows = low_rank.decode(encoder, chunk.code, laid_out)
        norms, shares = low_rank.scales_of(encoder, chunk.scales)
        n += len(rows)
        squares += (norms.double() * shares.double().norm(dim=2)).square().sum(dim=0)
        for index, (block, (a, b)) in enumerate(zip(laid, total, strict=True)):
            of_block = shares[:, index].unsqueeze(2)
            for part, sum_ in ((block.left(rows), a), (block.right(rows), b)):
                weighted = (part * of_block).flatten(0, 1)
                sum_ += weighted.T @ weighted
    if not n:
        raise InputError(
            f"{store.path}: the encoder {encoder.name} has no encodings to take a curvature from."
        )
    return [(_of_trace_1(a), _of_trace_1(b)) for a, b in total], (squares / n).tolist()


def _of_queries(encoder: Encoder, vectors: Tensor) -> Factors:
    """Return the factors of queries [q, E], each of unit length in each block."""
    found: Factors = []
    norms = vectors[:, -len(encoder.blocks) :]
    for index, block in enumerate(low_rank.sides(encoder, low_rank.query_rank(encoder, vectors))):
        left, right = block.left(vectors), block.right(vectors)  # the singular value is in left
        left = left / norms[:, index].clamp(min=TINY).view(-1, 1, 1)
        weighted = (left.flatten(0, 1), (right * left.norm(dim=2, keepdim=True)).flatten(0, 1))
        a, b = (side.T @ side for side in weighted)
        found.append((_of_trace_1(a), _of_trace_1(b)))
    return found


def _of_trace_1(matrix: Tensor) -> Tensor:
    return matrix / matrix.trace().clamp(min=TINY)
