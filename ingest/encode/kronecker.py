"""Kronecker-factored whitening before the projection, measured on a sample of the corpus.

The gradient of a linear map has covariance close to A (x) G, with A = E[a a^T] of its inputs and
G = E[g g^T] of its output gradients (K-FAC, Martens and Grosse 2015). A random projection of a badly
conditioned gradient keeps little but the strongest directions; projecting A^{-1/2} a and G^{-1/2} g instead
spreads the k x k entries over all of them. The whitening is folded into the projection matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.ingest.encode.capture import hooked
from attrstore.ingest.encode.recipes import WHITENING
from attrstore.vectors.curvature import power

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.model.backward import Backward
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.sequences import Batch

DAMPING = WHITENING["damping"]
FACTORS_AT_ONCE = 2**29  # entries held in one pass over the sample: 2 GiB in float32


def whiten(
    projections: Mapping[str, Projection],
    maps: Sequence[LinearMap],
    backward: Backward,
    sample: Sequence[Batch],
) -> None:
    """Fold (A + damping)^{-1/2} and (G + damping)^{-1/2} into the projections, in place.

    A and G are those of inputs and gradients after the optimizer's factored scales, which so decide what
    counts as small. A large model takes several passes over the sample, each for some of its maps. The embedding
    and the head, one factor of which would be as large as the vocabulary squared, stay as they are.
    """
    for linear, a, g in factors(projections, maps, backward, sample):
        projection = projections[linear.name]
        projection.p_in = projection.p_in @ power(a, -0.5, DAMPING)
        projection.p_out = projection.p_out @ power(g, -0.5, DAMPING)


def factors(
    corrections: Mapping[str, Projection],
    maps: Sequence[LinearMap],
    backward: Backward,
    sample: Sequence[Batch],
) -> Iterator[tuple[LinearMap, Tensor, Tensor]]:
    """Yield A = E[a a^T] [in, in] and G = E[g g^T] [out, out] of each of the layers' maps, over the sample's tokens.

    Both on the CPU, of inputs and gradients after the optimizer's factored scales.
    """
    for group in groups([linear for linear in maps if linear.role == "layer"]):
        a_factors, g_factors = _factors(group, backward, sample)
        for linear in group:
            scales = corrections[linear.name]
            a = a_factors[linear.name] * torch.outer(scales.scale_in, scales.scale_in)
            yield linear, a, g_factors[linear.name] * torch.outer(scales.scale_out, scales.scale_out)


def groups(maps: Sequence[LinearMap], copies: int = 1) -> Iterator[list[LinearMap]]:
    """Split maps so that the second moments of each group's two sides fit, `copies` of them."""
    group: list[LinearMap] = []
    size = 0
    for linear in maps:
        own = copies * (linear.n_in**2 + linear.n_out**2)
        if group and size + own > FACTORS_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(linear)
        size += own
    yield group


def _factors(
    maps: Sequence[LinearMap], backward: Backward, sample: Sequence[Batch]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return E[a a^T] and E[g g^T] over the sample's tokens, by map, on the CPU."""
    a_sums: dict[str, Tensor] = {}
    g_sums: dict[str, Tensor] = {}
    owner: dict[str, str] = {}  # maps with the same inputs (query, key, value) share one factor
    for batch in sample:
        real = (torch.arange(batch.tokens.shape[1]) < batch.lengths.unsqueeze(1)).to(backward.device)
        with hooked(maps, batch, _Accumulator(real, a_sums, g_sums, owner)):
            backward(batch)
    n_tokens = sum(int(batch.lengths.sum()) for batch in sample)
    return (
        {name: a_sums[owner[name]].cpu() / n_tokens for name in g_sums},
        {name: total.cpu() / n_tokens for name, total in g_sums.items()},
    )


class _Accumulator:
    """Adds one batch's inputs and gradients, at its real tokens, to the sums."""

    def __init__(
        self, real: Tensor, a_sums: dict[str, Tensor], g_sums: dict[str, Tensor], owner: dict[str, str]
    ) -> None:
        self.real, self.a_sums, self.g_sums, self.owner = real, a_sums, g_sums, owner
        # The tensors are held as well as their addresses, which could otherwise be used again.
        self.first: dict[int, tuple[str, Tensor]] = {}

    def __call__(self, linear: LinearMap, inputs: Tensor) -> Callable[[Tensor], None]:
        first, _ = self.first.setdefault(inputs.data_ptr(), (linear.name, inputs))
        self.owner[linear.name] = first
        if first == linear.name:
            self._add(self.a_sums, linear.name, inputs)
        return lambda gradient: self._add(self.g_sums, linear.name, gradient)

    def _add(self, sums: dict[str, Tensor], name: str, values: Tensor) -> None:
        rows = values[self.real].float()
        sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows
