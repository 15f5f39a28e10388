"""Codes whose bits go where the variance is: each entry of a direction has as many as lessen the error most.

Entries that are coordinates on principal directions differ in variance by orders of magnitude. With a given number of
bits for all of them together, the mean square error is least where each next bit goes to the entry whose error it
lessens most (reverse water-filling; Gersho and Gray 1992, chapter 8). An entry's b bits name one of the 2^b Lloyd-Max
levels of a normal variable of its variance; an entry of no bits is zero.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from attrstore.vectors.codes import gaussian_levels

MOST_BITS = 6  # of an entry


@cache
def _gains() -> Tensor:
    """Return what the first, second, ... bit takes from the mean square error of a standard normal: float64."""
    left = [1.0]
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    for bits in range(1, MOST_BITS + 1):
        levels = torch.tensor(gaussian_levels(bits), dtype=torch.float64)
        edges = torch.cat(
            [levels.new_tensor([-torch.inf]), (levels[1:] + levels[:-1]) / 2, levels.new_tensor([torch.inf])]
        )
        mass = normal.cdf(edges[1:]) - normal.cdf(edges[:-1])
        left.append(1.0 - float((mass * levels.square()).sum()))  # each level is the mean of its cell
    return -torch.tensor(left, dtype=torch.float64).diff()


def allocate(variances: Tensor, total: int) -> Tensor:
    """Return how many bits each entry gets, of `total` for all: int64 [D].

    A tie goes to the entry that comes first, so that the same variances give the same bits everywhere.
    """
    gains = variances.double().unsqueeze(1) * _gains()
    chosen = gains.flatten().argsort(descending=True, stable=True)[:total]
    return torch.bincount(chosen // MOST_BITS, minlength=len(variances))


@cache
def _integers(bits: int) -> Tensor:
    """Return the levels of so many bits as integers up to 127: int8 [2^bits]."""
    levels = torch.tensor(gaussian_levels(bits), dtype=torch.float64)
    return (levels / levels.max() * 127).round().to(torch.int8)


@cache
def _bits_of_bytes() -> Tensor:
    """Return the bits of each byte, low first, as eight bytes seen as one number: int64 [256]."""
    bits = (torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1
    numbers: Tensor = bits.to(torch.uint8).contiguous().view(torch.int64).flatten()
    return numbers


class Layout(NamedTuple):
    """Which entry has how many bits, and what its integers stand for."""

    bits: Tensor  # int64 [D]
    spread: Tensor  # float32 [D]: an entry's standard deviation
    order: Tensor  # int64 [D]: the entries, those of most bits first
    back: Tensor  # int64 [D]: where each entry stands in that order

    @classmethod
    def of(cls, bits: Tensor, spread: Tensor) -> Layout:
        """Lay out entries of so many bits [D] and such standard deviations [D]."""
        order = bits.argsort(descending=True, stable=True)
        return cls(bits, spread.float(), order, order.argsort())

    @property
    def scale(self) -> Tensor:
        """What one step of an entry's integer is: float32 [D]."""
        tops = torch.tensor([0.0, *(gaussian_levels(bits)[-1] for bits in range(1, MOST_BITS + 1))])
        return tops[self.bits] / 127 * self.spread

    def _planes(self) -> list[int]:
        """Return how many entries have more than 0, 1, ... bits."""
        return [int((self.bits > plane).sum()) for plane in range(int(self.bits.max()))]

    def encode(self, entries: Tensor) -> Tensor:
        """Quantise entries [n, D] to uint8 [n, bytes]: the lowest bit of each entry that has one, then the next."""
        index = torch.zeros(entries.shape, dtype=torch.uint8)
        for bits in range(1, MOST_BITS + 1):
            which = (self.bits == bits).nonzero().flatten()
            if len(which):
                levels = torch.tensor(gaussian_levels(bits))
                units = entries[:, which].cpu() / self.spread[which].clamp(min=1e-30)
                index[:, which] = torch.bucketize(units, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        index = index[:, self.order]
        planes = [(index[:, :count] >> plane) & 1 for plane, count in enumerate(self._planes())]
        every = torch.cat(planes, dim=1)
        every = torch.nn.functional.pad(every, (0, -every.shape[1] % 8)).unflatten(1, (-1, 8))
        packed: Tensor = (every << torch.arange(8, dtype=torch.uint8)).sum(dim=2, dtype=torch.uint8)
        return packed

    def integers(self, codes: Tensor) -> Tensor:
        """Return int8 [n, D] for codes [n, bytes]: times `scale` they are the entries."""
        every = _bits_of_bytes().to(codes.device)[codes.int()].view(torch.uint8)
        planes = self._planes()
        index = every[:, : planes[0]].clone()
        start = planes[0]
        for plane, count in enumerate(planes[1:], 1):
            index[:, :count] += every[:, start : start + count] << plane
            start += count
        values = torch.zeros(len(codes), len(self.bits), dtype=torch.int8, device=codes.device)
        for bits in range(1, len(planes) + 1):
            first, last = planes[bits] if bits < len(planes) else 0, planes[bits - 1]
            values[:, first:last] = _integers(bits).to(codes.device)[index[:, first:last].int()]
        return values[:, self.back.to(codes.device)]

    def decode(self, codes: Tensor) -> Tensor:
        """Return the entries float32 [n, D]."""
        return self.integers(codes).float() * self.scale.to(codes.device)
