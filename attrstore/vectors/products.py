"""Inner products of queries with codes as they are stored: int8 where the processor has it, else float32.

A block of a code is a direction on a grid of small integers. Its inner products with all queries are one
product of integers; what the block weighs in its example's score is one number, which comes after. So nothing is
decoded, whitened or normalised on the examples' side but these numbers.

How finely a query is rounded, block by block:

    8 bits     no curvature on its side, and codes of at most `COARSE` bits, which lose far more themselves:
               an entry is off by at most 1/254 of the largest of its block
    16 bits    a curvature's inverse on its side, or a finer code: by at most 1/64,516, for twice the work
    float32    up to `FEW` queries against bytes of 16 entries, which are not even spread into integers: their products
               are looked up; and wherever integers are no faster
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from attrstore.vectors import codes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from attrstore.vectors.encoders import Encoder
    from attrstore.vectors.scan import Chunk

TINY = 1e-30
COARSE = 4  # bits of an entry of a code; at 8, queries of 8 bits as well lose some of the exact order
STRIP = 256  # rows of a matrix at a time
FEW = 8  # queries for which to look products up is faster than to multiply
LOOKED_UP = 2**19  # bytes of codes at a time: they and their tables stay in the processor's second cache


class Products(Protocol):
    """What scores a chunk's codes."""

    units: str  # of the lengths

    def load(self, chunk: Chunk) -> None:
        """Take a chunk; what follows is about it."""

    def lengths(self, matrices: Sequence[Tensor] | None) -> Tensor:
        """Return each block's length times its matrix, or as it is: [n, B], in `units`."""

    def scores(self, weights: Tensor) -> Tensor:
        """Return [q, n]: the blocks' products times their weights [n, B], summed."""


def prepare(encoder: Encoder, queries: Tensor, *, curved: bool) -> Products:
    """Make the fastest products that this device has for queries [q, D].

    Args:
        curved: a curvature's inverse is in the queries.
    """
    integers = (
        queries.device.type == "cpu"
        and codes.CODES[encoder.code].bits <= 8
        and torch.cpu._is_vnni_supported()
    )
    if not integers:
        return FloatProducts(encoder, queries)
    few = len(queries) <= FEW and LookedUpProducts.possible(encoder)
    if few:
        return LookedUpProducts(encoder, queries)
    fine = curved or codes.CODES[encoder.code].bits > COARSE
    return IntegerProducts(encoder, queries, Sixteen if fine else Eight)


class FloatProducts:
    """Products of decoded vectors, in float32."""

    units = "1"

    def __init__(self, encoder: Encoder, queries: Tensor) -> None:
        self.encoder, self.queries = encoder, queries
        self.rows = queries[:0]

    def load(self, chunk: Chunk) -> None:
        """Decode the chunk: each block has norm 1."""
        self.rows, _ = codes.decode(
            chunk.code, chunk.scales, self.encoder.blocks, codes.CODES[self.encoder.code]
        )

    def lengths(self, matrices: Sequence[Tensor] | None) -> Tensor:
        """See `Products`."""
        from attrstore.vectors import curvature

        rows, blocks = self.rows, self.encoder.blocks
        if matrices is not None:
            rows = curvature.apply(rows, blocks, matrices)
        lengths = rows.new_empty(len(rows), len(blocks))
        for which, where, length in codes.runs_of_equal_length(blocks):
            lengths[:, which] = torch.linalg.vector_norm(rows[:, where].unflatten(1, (-1, length)), dim=2)
        return lengths

    def scores(self, weights: Tensor) -> Tensor:
        """See `Products`; the decoded rows are scaled in place."""
        for which, where, length in codes.runs_of_equal_length(self.encoder.blocks):
            part = self.rows[:, where].unflatten(1, (-1, length))
            part *= weights[:, which].unsqueeze(2)
        return self.queries @ self.rows.T


class GridLengths:
    """The integers that a chunk's codes are, and the lengths of their blocks."""

    units = "grid"

    def __init__(self, encoder: Encoder) -> None:
        self.blocks = encoder.blocks
        self.grid = codes.Grid(codes.CODES[encoder.code], encoder.dimensions)
        self.of_signs: Tensor | None = None  # the lengths that all blocks of a code of signs have: [B]
        if codes.CODES[encoder.code].bits <= 1:
            squares = torch.tensor([float(block.length) for block in self.blocks])
            self.of_signs = squares.sqrt() * self.grid.entries()[0, 0].abs()
        self.code = torch.empty(0)
        self.rows: Tensor | None = None
        self.matrices: list[tuple[list[tuple[Sixteen, float, int]], float]] = []

    def load(self, chunk: Chunk) -> None:
        """See `Products`; the codes are spread into integers when these are asked for."""
        self.code, self.rows = chunk.code, None

    def lengths(self, matrices: Sequence[Tensor] | None) -> Tensor:
        """See `Products`; the matrices are those of the first call."""
        if matrices is not None and not self.matrices:
            peaks = [float(matrix.abs().max().clamp(min=TINY)) for matrix in matrices]
            self.matrices = [
                (list(_strips(m.T / peak)), peak) for m, peak in zip(matrices, peaks, strict=True)
            ]
        if matrices is None and self.of_signs is not None:
            return self.of_signs.expand(len(self.code), -1)
        out = torch.empty(len(self.code), len(self.blocks))
        for i in range(len(self.blocks)):
            if matrices is None:
                out[:, i] = torch.linalg.vector_norm(self.integers(i).float(), dim=1)
                continue
            strips, peak = self.matrices[i]
            squares = torch.zeros(len(self.code))
            for rows, scale, width in strips:
                products = rows.times(self.integers(i)[:, :width]).mul_(scale)
                squares += products.square_().sum(dim=0)
            out[:, i] = squares.sqrt_().mul_(peak)
        return out

    def integers(self, i: int) -> Tensor:
        """Return block i of the chunk: int8 [n, d]."""
        if self.rows is None:
            self.rows = self.grid.spread(self.code)
        block = self.blocks[i]
        return self.rows[:, block.offset : block.offset + block.length]


def _strips(matrix: Tensor) -> Iterator[tuple[Sixteen, float, int]]:
    """Cut a matrix [d, d] into strips of rows: their numbers up to a width, the scale of these, and that width.

    To the right of the width there are zeros: nearly half of a triangular matrix.
    """
    for strip in matrix.split(STRIP):
        there = strip.any(dim=0).nonzero()
        if len(there):
            width = int(there[-1]) + 1
            peak = float(strip.abs().max().clamp(min=TINY))
            yield Sixteen(strip[:, :width] / peak), peak * Sixteen.unit, width


class IntegerProducts(GridLengths):
    """Products of the integers that codes are, with rounded queries; float32 from block to block."""

    def __init__(self, encoder: Encoder, queries: Tensor, rounded: Callable[[Tensor], Rounded]) -> None:
        super().__init__(encoder)
        parts = [queries[:, b.offset : b.offset + b.length] for b in self.blocks]
        self.peaks = [part.abs().amax(dim=1, keepdim=True).clamp(min=TINY) for part in parts]  # [q, 1]
        self.queries = [rounded(part / peak) for part, peak in zip(parts, self.peaks, strict=True)]

    def scores(self, weights: Tensor) -> Tensor:
        """See `Products`."""
        total = torch.zeros(len(self.peaks[0]), len(self.code))
        for i, (queries, peak) in enumerate(zip(self.queries, self.peaks, strict=True)):
            products = queries.times(self.integers(i)).mul_(peak * queries.unit)
            total.addcmul_(products, weights[:, i].contiguous())
        return total


class LookedUpProducts(GridLengths):
    """Products of a few float32 queries with what each byte stands for, from a table for each byte of a code."""

    def __init__(self, encoder: Encoder, queries: Tensor) -> None:
        super().__init__(encoder)
        entries = self.grid.entries()  # [256, e]
        per_byte = entries.shape[1]
        padded = torch.nn.functional.pad(queries, (0, -queries.shape[1] % per_byte))
        tables = torch.einsum("qpe,ve->pvq", padded.unflatten(1, (-1, per_byte)), entries)
        n_bytes, _, n_queries = tables.shape
        self.tables = torch.empty(n_bytes * 256, n_queries).copy_(tables.flatten(0, 1))
        self.first = torch.arange(n_bytes, dtype=torch.int32) * 256  # row of each byte's table
        self.index = torch.empty(max(1, LOOKED_UP // n_bytes), n_bytes, dtype=torch.int32)
        starts = torch.tensor([block.offset // per_byte for block in self.blocks])
        rows = torch.arange(len(self.index)).unsqueeze(1)
        self.starts = (rows * n_bytes + starts).int()  # of each example's blocks in `index`

    @staticmethod
    def possible(encoder: Encoder) -> bool:
        """Tell whether a byte holds so many entries that it pays, all of one block."""
        code = codes.CODES[encoder.code]
        return code.bits < 1 and all(block.offset % code.per_byte == 0 for block in encoder.blocks)

    def scores(self, weights: Tensor) -> Tensor:
        """See `Products`."""
        at_once = len(self.index)
        parts = zip(self.code.split(at_once), weights.split(at_once), strict=True)
        return torch.cat([self._scores(*part) for part in parts]).T.contiguous()

    def _scores(self, code: Tensor, weights: Tensor) -> Tensor:
        """Score some of the chunk: [n, q]."""
        index = self.index[: len(code)].copy_(code).add_(self.first)
        starts = self.starts[: len(code)].flatten()
        sums = torch.nn.functional.embedding_bag(index.flatten(), self.tables, starts, mode="sum")
        scaled = sums.view(*weights.shape, -1).mul_(weights.unsqueeze(2))
        return scaled.sum(dim=1)


class Rounded:
    """Rows [k, d] of numbers in [-1, 1] as multiples of a `unit`, at most half of one off."""

    unit: float
    piece: int  # dimensions whose products surely fit into 32 bits
    parts: Tensor  # int8 [parts of each number * k, d]

    def times(self, columns: Tensor) -> Tensor:
        """Return the products with integers int8 [n, d], in `unit`s: float32 [k, n]."""
        total: Tensor | None = None
        pieces = self.parts.split(self.piece, dim=1), columns.split(self.piece, dim=1)
        for left, right in zip(*pieces, strict=True):
            product = self._whole(torch._int_mm(left, right.T)).float()
            total = product if total is None else total.add_(product)
        assert total is not None
        return total

    def _whole(self, products: Tensor) -> Tensor:
        """Put the products of the parts together: int32 [k, n]."""
        return products


class Eight(Rounded):
    """One part."""

    unit = 1 / 127
    piece = 2**17  # 127 * 127 * 2^17 < 2^31

    def __init__(self, rows: Tensor) -> None:
        self.parts = (rows * 127).round().to(torch.int8)


class Sixteen(Rounded):
    """Two parts: 254 high + low."""

    unit = 1 / (254 * 127)
    piece = 512  # 127 * 127 * (254 + 1) * 512 < 2^31

    def __init__(self, rows: Tensor) -> None:
        high = (rows * 127).round()
        low = ((rows * 127 - high) * 254).round()
        self.parts = torch.cat([high, low]).to(torch.int8)

    def _whole(self, products: Tensor) -> Tensor:
        k = len(products) // 2
        return products[k:].add_(products[:k], alpha=254)
