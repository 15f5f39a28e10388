"""Curvature: the second moment of each block, mixed, damped, raised to a power, and packed.

TrackStar (arXiv 2410.17413, section 3) whitens with R^{-1/2}, R = lambda R_queries + (1 - lambda) R_corpus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.vectors.codes import runs_of_equal_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.vectors.encoders import Block

DAMPED_SHARE = 1000 / 65536  # share of the components that the mixing damps (TrackStar, section 3)


class SecondMoment:
    """A running E[phi phi^T] of each block, over vectors that are given batch by batch."""

    def __init__(self, blocks: Sequence[Block], device: torch.device | str = "cpu") -> None:
        self.blocks = tuple(blocks)
        self.n = 0
        self._sums = [torch.zeros(block.length, block.length, device=device) for block in blocks]

    def add(self, vectors: Tensor) -> None:
        """Add vectors [n, D]."""
        self.n += len(vectors)
        for which, where, length in runs_of_equal_length(self.blocks):
            part = vectors[:, where].unflatten(1, (-1, length))
            products = torch.bmm(part.permute(1, 2, 0), part.transpose(0, 1))
            for total, product in zip(self._sums[which], products, strict=True):
                total += product

    def matrices(self) -> list[Tensor]:
        """Return E[phi phi^T] of each block: [d, d] float32."""
        return [total / max(self.n, 1) for total in self._sums]


def choose_mixing(corpus: Sequence[Tensor], queries: Sequence[Tensor]) -> float:
    """Return the lambda at which the strongest `DAMPED_SHARE` of the task's components are damped.

    At that lambda the weakest of those components weighs the same in lambda R_queries as the component of
    its rank does in (1 - lambda) R_corpus; stronger ones then dominate the mixture and are damped by it.
    Few queries span fewer directions than that share has. The weakest that they do span is then taken: one further
    would weigh nothing, and R_corpus would be dropped.
    """
    s_corpus = _spectrum(corpus)
    s_queries = _spectrum(queries)
    spanned = int((s_queries > float(s_queries[0]) * len(s_queries) * torch.finfo(torch.float32).eps).sum())
    last = max(0, min(round(len(s_corpus) * DAMPED_SHARE), spanned) - 1)
    return float(s_corpus[last] / (s_corpus[last] + s_queries[last]).clamp(min=1e-300))


def _spectrum(matrices: Sequence[Tensor]) -> Tensor:
    """Return the eigenvalues of all blocks together, the strongest first, in float64."""
    values = torch.cat([torch.linalg.eigvalsh(m.double()) for m in matrices])
    return values.sort(descending=True).values


def mix(corpus: Sequence[Tensor], queries: Sequence[Tensor], mixing: float) -> list[Tensor]:
    """Return lambda R_queries + (1 - lambda) R_corpus, block by block."""
    return [mixing * q + (1 - mixing) * c for c, q in zip(corpus, queries, strict=True)]


def power(matrix: Tensor, exponent: float, damping: float) -> Tensor:
    """Return (R + damping * mean eigenvalue * I)^exponent, computed in float64, as float32 [d, d].

    Directions whose damped eigenvalue is zero to the precision of the matrix, all of them where nothing moves the
    block, stay zero under a negative exponent too, as in a pseudo-inverse: no example has a part there.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    values = values.clamp(min=0)
    values = values + damping * values.mean()
    there = values > float(values.max()) * len(values) * torch.finfo(torch.float32).eps
    raised: Tensor = (vectors * torch.where(there, values, 1.0) ** exponent * there) @ vectors.T
    return raised.float()


def whitening(matrix: Tensor, damping: float) -> Tensor:
    """Return a W with W W^T = (R + damping * mean eigenvalue * I)^{-1}: float32 [d, d], by which rows are multiplied.

    Products and lengths of what W whitened are those of `power(R, -0.5)`, since both are a square root of the same
    inverse. That of the Cholesky factor takes a fifth of the time and is zero below its diagonal. Where the damped R
    may be singular, it has no such factor, and W is `power(R, -0.5)`.
    """
    wide = matrix.double()
    size = len(wide)
    shift = damping * float(wide.diagonal().mean())
    largest = float(torch.linalg.matrix_norm(wide)) + shift  # or more
    identity = torch.eye(size, dtype=wide.dtype, device=wide.device)
    if shift > largest * size * torch.finfo(torch.float32).eps:
        factor, failed = torch.linalg.cholesky_ex(wide + shift * identity)
        if not failed:
            inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
            return inverse.T.float()
    return power(matrix, -0.5, damping)


def apply(vectors: Tensor, blocks: Sequence[Block], matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each block of vectors [n, D] by its matrix, from the right."""
    out = torch.empty_like(vectors)
    for which, where, length in runs_of_equal_length(blocks):
        part = vectors[:, where].unflatten(1, (-1, length)).transpose(0, 1)
        out[:, where] = torch.bmm(part, torch.stack(list(matrices[which]))).transpose(0, 1).flatten(1)
    return out


def pack(matrix: Tensor) -> tuple[float, bytes]:
    """Pack a symmetric matrix: its mean diagonal, and its upper triangle divided by it, float16, by rows."""
    scale = float(matrix.diagonal().mean()) or 1.0
    rows, columns = torch.triu_indices(*matrix.shape)
    return scale, (matrix[rows, columns] / scale).half().numpy().tobytes()


def unpack(scale: float, packed: bytes, size: int) -> Tensor:
    """Undo `pack`: float32 [size, size]."""
    values = torch.frombuffer(bytearray(packed), dtype=torch.float16).float() * scale
    matrix = torch.zeros(size, size)
    rows, columns = torch.triu_indices(size, size)
    matrix[rows, columns] = values
    matrix[columns, rows] = values
    return matrix
