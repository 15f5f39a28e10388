"""Bits by variance, against an exhaustive search and distortions that were integrated numerically."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from attrstore.vectors.codes import gaussian_levels
from attrstore.vectors.spread import MOST_BITS, Layout, allocate


def distortion(bits: int) -> float:
    """Mean square error of the nearest level for a standard normal, by a fine grid."""
    x = np.linspace(-9, 9, 200_001)
    weights = np.exp(-(x**2) / 2)
    levels = np.array(gaussian_levels(bits)) if bits else np.zeros(1)
    nearest = levels[np.abs(x[:, None] - levels).argmin(1)] if bits else 0.0
    return float((weights * (x - nearest) ** 2).sum() / weights.sum())


def test_no_allocation_has_a_smaller_error() -> None:
    errors = np.array([distortion(bits) for bits in range(MOST_BITS + 1)])
    variances = torch.tensor([9.0, 1.0, 0.3, 2.5])
    for total in (1, 5, 8, 13):
        found = allocate(variances, total)
        assert int(found.sum()) == total
        best = min(
            float((variances.numpy() * errors[list(bits)]).sum())
            for bits in product(range(MOST_BITS + 1), repeat=4)
            if sum(bits) == total
        )
        assert float((variances.numpy() * errors[found.numpy()]).sum()) == pytest.approx(best, rel=1e-6)


def test_ties_go_to_the_first_and_zeros_get_none() -> None:
    assert allocate(torch.ones(5), 3).tolist() == [1, 1, 1, 0, 0]
    assert allocate(torch.tensor([0.0, 4.0, 0.0]), 4).tolist() == [0, 4, 0]
    # No entry has more than the most; what is left over goes to those of no variance.
    assert allocate(torch.tensor([0.0, 4.0]), MOST_BITS + 1).tolist() == [1, MOST_BITS]


def drawn(n: int, seed: int = 0) -> tuple[Layout, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = 1.6 ** -(torch.arange(37) % 9).float()
    layout = Layout.of(allocate(spread.square(), 61), spread)
    return layout, torch.randn(n, 37, generator=generator) * spread


@pytest.mark.parametrize("n", [0, 1, 300])
def test_each_entry_is_the_nearest_of_its_levels(n: int) -> None:
    layout, entries = drawn(n)
    assert {0, 1, 2, 3} <= set(layout.bits.tolist())
    codes = layout.encode(entries)
    assert (codes.dtype, codes.shape) == (torch.uint8, (n, 8))  # 61 bits
    found = layout.decode(codes)
    assert torch.equal(found, layout.integers(codes).float() * layout.scale)
    for column, (bits, spread) in enumerate(zip(layout.bits.tolist(), layout.spread.tolist(), strict=True)):
        if not bits:
            assert found[:, column].eq(0).all()
            continue
        levels = torch.tensor(gaussian_levels(bits)) * spread
        nearest = levels[(entries[:, column : column + 1] - levels).abs().argmin(1)]
        # Levels are kept as integers up to 127.
        assert torch.allclose(found[:, column], nearest, rtol=0, atol=0.5 / 127 * float(levels.max()) * 1.001)


def test_the_error_is_what_the_allocation_counted_on() -> None:
    layout, entries = drawn(20_000, seed=1)
    errors = (layout.decode(layout.encode(entries)) - entries).square().mean(0) / layout.spread.square()
    expected = torch.tensor([distortion(bits) for bits in layout.bits.tolist()])
    assert torch.allclose(errors.double(), expected.double(), rtol=0.1)


def test_the_bytes_are_what_the_layout_says() -> None:
    """Two bits for the second entry, one for the first and the third: planes 2 1 3 low, then 2 high."""
    layout = Layout.of(torch.tensor([1, 2, 1]), torch.tensor([1.0, 2.0, 1.0]))
    # 0.5: upper of 2 levels, 1; 2 * 0.2: third of 4 levels, 10; -1: lower of 2, 0. In order: 0 1 0, then 1.
    assert layout.encode(torch.tensor([[0.5, 0.4, -1.0]])).tolist() == [[0b1010]]
    high, low = gaussian_levels(2)[3], gaussian_levels(2)[2]
    third = round(low / high * 127)
    assert layout.integers(torch.tensor([[0b1010]], dtype=torch.uint8)).tolist() == [[127, third, -127]]
