"""Tell a block of a gradient from the rounding of a zero.

Some gradients are zero: the queries' and keys' of a text with one position to attend to. What float32 leaves there
differs between processors, some of which give exact zeros; divided by its own norm it would be a direction like any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.vectors.codes import runs_of_equal_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from attrstore.vectors.encoders import Block

NOISE = 1e-7  # a block of less than this share of its gradient's norm is the rounding of a zero


def is_rounding(squares: Tensor) -> Tensor:
    """Tell which blocks are rounding: bool of the shape of squared norms [..., B]; none where one is not finite."""
    whole = squares.sum(dim=-1, keepdim=True)
    return (squares <= NOISE**2 * whole) & whole.isfinite()


def silence(vectors: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Set the blocks of vectors [n, D] that are rounding to zero, in place, and return the vectors."""
    squares = vectors.new_empty(len(vectors), len(blocks)).double()
    runs = list(runs_of_equal_length(blocks))
    for which, where, length in runs:
        squares[:, which] = vectors[:, where].unflatten(1, (-1, length)).square().sum(dim=2).double()
    noise = is_rounding(squares)
    if noise.any():
        for which, where, length in runs:
            vectors[:, where].unflatten(1, (-1, length)).masked_fill_(noise[:, which].unsqueeze(2), 0)
    return vectors
