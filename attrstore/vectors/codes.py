"""Codes: how a vector becomes bytes. Each block's direction is quantised; its norm is kept apart.

A direction of length d, times the square root of d, has entries close to a standard normal (it is a random
projection), so one set of levels serves every block: the Lloyd-Max levels of a Gaussian at 1, 2 and 4 bits
(Max, "Quantizing for minimum distortion", 1960), a uniform grid of step 1/32 at 8, and float16. At half a bit an
entry, 16 entries together are one word of a code on the sphere (`attrstore.vectors.codebook`).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.vectors import codebook
from attrstore.vectors.quantisations import CODES as CODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attrstore.vectors.encoders import Block
    from attrstore.vectors.quantisations import Code

INT8_STEP = 1 / 32  # +-127 steps reach 4 standard deviations


@cache
def gaussian_levels(bits: int) -> tuple[float, ...]:
    """Return the 2^bits Lloyd-Max levels of a standard normal, ascending, iterated until they stand still."""
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    n = 2**bits
    levels = normal.icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    infinity = torch.tensor([torch.inf], dtype=torch.float64)
    moved = 1.0
    while moved > 1e-7:
        edges = torch.cat([-infinity, (levels[1:] + levels[:-1]) / 2, infinity])
        density = torch.exp(normal.log_prob(edges)).nan_to_num(0.0)
        mass = normal.cdf(edges)
        before, levels = levels, (density[:-1] - density[1:]) / (mass[1:] - mass[:-1])
        moved = float((levels - before).abs().max())
    return tuple(levels.tolist())


def runs_of_equal_length(blocks: Sequence[Block]) -> Iterator[tuple[slice, slice, int]]:
    """Group neighbouring blocks of one length: (their blocks, their dimensions, the length)."""
    start = 0
    for end in range(1, len(blocks) + 1):
        if end == len(blocks) or blocks[end].length != blocks[start].length:
            length = blocks[start].length
            first = blocks[start].offset
            yield slice(start, end), slice(first, first + (end - start) * length), length
            start = end


def split_norms(vectors: Tensor, blocks: Sequence[Block]) -> tuple[Tensor, Tensor]:
    """Split vectors [n, D] into directions [n, D], each block times sqrt(its length), and norms [n, B].

    A block of norm zero keeps a direction of zeros.
    """
    directions = torch.empty_like(vectors)
    norms = vectors.new_empty(len(vectors), len(blocks))
    for which, where, length in runs_of_equal_length(blocks):
        part = vectors[:, where].unflatten(1, (-1, length))
        norm = torch.linalg.vector_norm(part, dim=2)
        norms[:, which] = norm
        scale = length**0.5 / norm.clamp(min=1e-36)  # finite: infinity times a zero would be NaN
        directions[:, where] = (part * scale.unsqueeze(2)).flatten(1)
    return directions, norms


def encode(vectors: Tensor, blocks: Sequence[Block], code: Code) -> tuple[Tensor, Tensor]:
    """Quantise vectors [n, D] float32.

    Returns:
        code: uint8 [n, code.n_bytes(D)]; entries of less than a byte are packed low bits first.
        scales: uint8 [n, 2 B]: each block's norm as bfloat16. Norms of corrected gradients leave the range of
            float16, and a block that is tiny before whitening is not tiny after it.
    """
    directions, norms = split_norms(vectors, blocks)
    return _quantise(directions, code), norms.bfloat16().contiguous().view(torch.uint8)


def _quantise(directions: Tensor, code: Code) -> Tensor:
    if code.bits == 16:
        return directions.half().contiguous().view(torch.uint8)
    if code.bits == 8:
        return (directions / INT8_STEP).round_().clamp_(-127, 127).to(torch.int8).view(torch.uint8)
    entries = torch.nn.functional.pad(directions, (0, -directions.shape[1] % code.per_byte))
    if code.bits < 1:
        return codebook.nearest(entries.view(-1, codebook.LENGTH)).view(len(entries), -1)
    bits = int(code.bits)
    if bits == 1:
        index = (entries > 0).to(torch.uint8)
    else:
        levels = torch.tensor(gaussian_levels(bits), device=entries.device)
        index = torch.bucketize(entries, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
    shifts = torch.arange(code.per_byte, dtype=torch.uint8, device=index.device) * bits
    packed: Tensor = (index.unflatten(1, (-1, code.per_byte)) << shifts).sum(dim=2, dtype=torch.uint8)
    return packed


@cache
def _byte_table(code: Code) -> Tensor:
    """Return the entries that each byte holds, up to a factor: float32 [256, code.per_byte]."""
    if code.bits < 1:
        return codebook.words().float()
    levels = torch.tensor(gaussian_levels(int(code.bits)), dtype=torch.float32)
    return levels[_level_of(code)]


def _level_of(code: Code) -> Tensor:
    """Return which level each entry of each byte has: [256, code.per_byte]."""
    bits = int(code.bits)
    shifts = torch.arange(code.per_byte) * bits
    index: Tensor = (torch.arange(256).unsqueeze(1) >> shifts) & (2**bits - 1)
    return index


@cache
def _grid_table(code: Code) -> Tensor:
    """Return the integers that each byte holds, as one number a byte: int8 [256, code.per_byte] seen as [256]."""
    if code.bits < 1:
        words: Tensor = codebook.words().view(torch.complex128).flatten()
        return words
    levels = torch.tensor(gaussian_levels(int(code.bits)), dtype=torch.float64)
    # The multiple of the levels that lies nearest to integers, where a normal variable falls most.
    top = torch.arange(64, 128, dtype=torch.float64).unsqueeze(1)
    multiples = levels / levels.max() * top
    missed = ((multiples.round() - multiples) / top).square() * torch.exp(-levels.square() / 2)
    best = missed.sum(dim=1).argmin()
    values = multiples[best].round().to(torch.int8)[_level_of(code)].contiguous()
    numbers: Tensor = values.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[code.per_byte]).flatten()
    return numbers


class Grid:
    """Codes of at most 8 bits as the integers that they stand for: proportional to a block's directions.

    The integers lie within 0.3% of the largest level (4 bits), or exactly on the levels (8 bits, and 1 or less).
    """

    def __init__(self, code: Code, dimensions: int) -> None:
        self.code, self.dimensions = code, dimensions
        self._index = torch.empty(0, dtype=torch.int32)
        self._words = torch.empty(0)

    def entries(self) -> Tensor:
        """Return the integers that each byte holds, of a code of less than 8 bits: float32 [256, code.per_byte]."""
        return _grid_table(self.code).view(torch.int8).view(256, -1).float()

    def spread(self, codes: Tensor) -> Tensor:
        """Return int8 [n, D] for codes [n, bytes]; valid until the next call, whose memory it shares."""
        if self.code.bits == 8:
            return codes.view(torch.int8)
        table = _grid_table(self.code)
        if self._index.numel() < codes.numel():  # fresh memory costs more than the work itself
            self._index = torch.empty(codes.numel(), dtype=torch.int32)
            self._words = torch.empty(codes.numel(), dtype=table.dtype)
        index, words = (part[: codes.numel()] for part in (self._index, self._words))
        torch.index_select(table, 0, index.copy_(codes.flatten()), out=words)
        return words.view(torch.int8).view(len(codes), -1)[:, : self.dimensions]


def decode(codes: Tensor, scales: Tensor, blocks: Sequence[Block], code: Code) -> tuple[Tensor, Tensor]:
    """Undo `encode`: unit directions [n, D] float32 (each block of norm 1) and block norms [n, B] float32."""
    return directions(codes, blocks, code), scales.contiguous().view(torch.bfloat16).float()


def directions(codes: Tensor, blocks: Sequence[Block], code: Code) -> Tensor:
    """Return the directions of codes [n, bytes]: float32 [n, D], each block of norm 1."""
    dimensions = sum(block.length for block in blocks)
    if code.bits == 16:
        values = codes.view(torch.float16).float()
    elif code.bits == 8:
        values = codes.view(torch.int8).float()
    else:
        table = _byte_table(code).to(codes.device)
        values = table[codes.int()].flatten(1)[:, :dimensions].contiguous()
    for _, where, length in runs_of_equal_length(blocks):
        part = values[:, where].unflatten(1, (-1, length))
        part /= torch.linalg.vector_norm(part, dim=2, keepdim=True).clamp(min=1e-30)
    return values
