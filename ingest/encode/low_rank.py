"""Encode gradients by their strongest singular pairs, found by power iterations on the token factors.

The gradient G = sum_t g_t a_t^T of a linear map is never formed: G x is sum_t g_t <a_t, x>, so an iteration costs
T (in + out) for each pair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.ingest.encode.capture import HeadFactors, head_apart, hooked
from attrstore.ingest.encode.projection import folded, sign_matrix
from attrstore.ingest.encode.recipes import ITERATING
from attrstore.ingest.model.backward import Backward
from attrstore.vectors.encoders import make_blocks
from attrstore.vectors.rounding import directed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.sequences import Batch
    from attrstore.vectors.encoders import Block

ITERATIONS = ITERATING["iterations"]
TINY = 1e-30


class LowRankEncoder:
    """Encodes batches as singular pairs of each map's projected gradient; each map is a block.

    Args:
        model: frozen, in evaluation mode.
        maps: the linear maps to hook.
        projections: one for each map, by name; without an elementwise correction.
        rank: pairs that an example keeps.
        query_rank: pairs that a query keeps.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        maps: Sequence[LinearMap],
        projections: Mapping[str, Projection],
        rank: int,
        query_rank: int,
    ) -> None:
        self.model, self.maps = model, list(maps)
        self.rank, self.query_rank = rank, query_rank
        self.backward = Backward(model)
        self.use(projections)
        for linear in maps:
            smallest = min(self._shape(linear))
            if max(rank, query_rank) > smallest:
                raise InputError(
                    f"{flag('rank')} {rank}, {flag('query_rank')} {query_rank}: the gradient of {linear.name} has at "
                    f"most {smallest} singular pairs after projection. Use less, or a larger {flag('projection_dim')}."
                )
        blocks = make_blocks([(linear.name, rank * sum(self._shape(linear))) for linear in maps])
        self.blocks: tuple[Block, ...] = tuple(
            block._replace(rows=self._shape(linear)[0]) for block, linear in zip(blocks, maps, strict=True)
        )
        self._hooked, self._head = head_apart(maps, split=self.backward.split)

    def use(self, projections: Mapping[str, Projection]) -> None:
        """Take projections of the same sizes instead."""
        self.projections = folded(projections, self.model)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return examples as `attrstore.vectors.low_rank.encode` takes them, and the summed loss [items]."""
        found, losses = self._pairs(batch, self.rank)
        norms = torch.stack([norm for _, _, _, norm in found], dim=1)
        shares = torch.cat(
            [values / norm.clamp(min=TINY).unsqueeze(1) for _, values, _, norm in found], dim=1
        )
        directions = [side.flatten(1) for left, _, right, _ in found for side in (left, right)]
        return torch.cat([*directions, norms, shares], dim=1), losses

    def encode_queries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return queries as `attrstore.vectors.low_rank.pack_queries` takes them, and the summed loss [items]."""
        found, losses = self._pairs(batch, self.query_rank)
        norms = torch.stack([norm for _, _, _, norm in found], dim=1)
        parts = [
            side.flatten(1)
            for left, values, right, _ in found
            for side in (left * values.unsqueeze(2), right)
        ]
        return torch.cat([*parts, norms], dim=1), losses

    def _pairs(self, batch: Batch, rank: int) -> tuple[list[Pairs], Tensor]:
        """Return the pairs of each map, and the losses."""
        device = self.backward.device
        found: dict[str, Pairs] = {}
        head = None if self._head is None else HeadFactors(self._head, self.projections, batch, device)
        group = _Grouping(batch, device)

        def take(linear: LinearMap, gradients: Tensor, inputs: Tensor) -> None:
            start = sign_matrix(f"{linear.name}/start", rank, inputs.shape[2]).to(device)[:rank]
            found[linear.name] = singular_pairs(group(gradients.float()), group(inputs.float()), start)

        def seen(linear: LinearMap, inputs: Tensor) -> Callable[[Tensor], None]:
            projection = self.projections[linear.name]
            small = projection.p_in.T[inputs] if linear.role == "embedding" else inputs @ projection.p_in.T
            return lambda gradient: take(linear, gradient @ projection.p_out.T, small)

        with hooked(self._hooked, batch, seen):
            losses = self.backward(batch, head)
        if head is not None:
            take(head.linear, head.gradients, head.inputs)
        summed = torch.zeros(len(batch.items), device=device).index_add_(0, batch.owner.to(device), losses)
        pairs = [found[linear.name] for linear in self.maps]
        norms = torch.stack([norm for _, _, _, norm in pairs], dim=1)
        real = directed(norms.double().square())
        return [
            (left, values * counts.unsqueeze(1), right, norm * counts)
            for (left, values, right, norm), counts in zip(pairs, real.T, strict=True)
        ], summed

    def _shape(self, linear: LinearMap) -> tuple[int, int]:
        projection = self.projections[linear.name]
        return len(projection.p_out), len(projection.p_in)


class _Grouping:
    """Puts the tokens of an item's windows side by side: [windows, T, k] to [items, tokens, k], zeros behind."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.plain = len(batch.tokens) == len(batch.items)
        if not self.plain:
            self.owner = batch.owner.to(device)
            counts = self.owner.bincount(minlength=len(batch.items))
            self.place = (
                torch.arange(len(self.owner), device=device) - (counts.cumsum(0) - counts)[self.owner]
            )
            self.shape = len(counts), int(counts.max())

    def __call__(self, tokens: Tensor) -> Tensor:
        if self.plain:
            return tokens
        out = tokens.new_zeros(*self.shape, *tokens.shape[1:])
        out[self.owner, self.place] = tokens
        return out.flatten(1, 2)


Pairs = tuple[Tensor, Tensor, Tensor, Tensor]


def singular_pairs(gradients: Tensor, inputs: Tensor, start: Tensor, iterations: int = ITERATIONS) -> Pairs:
    """Return the strongest singular pairs of G = gradients^T inputs of each item, and its norm.

    Args:
        gradients: [n, T, out].
        inputs: [n, T, in].
        start: [r, in]: what the iterations start from, the same for every item, so that an item's pairs do not
            depend on its batch.
        iterations: each multiplies what is not among the r strongest by the squared ratio of singular values.

    Returns u [n, r, out], the singular values [n, r], descending, v [n, r, in], and |G| [n]. A pair of a gradient of
    lower rank is zero.
    """
    v = start.expand(len(inputs), -1, -1).transpose(1, 2)  # [n, in, r]
    for _ in range(iterations):
        u = _orthonormal(torch.bmm(gradients.transpose(1, 2), torch.bmm(inputs, v)))
        v = _orthonormal(torch.bmm(inputs.transpose(1, 2), torch.bmm(gradients, u)))
    images = torch.bmm(gradients.transpose(1, 2), torch.bmm(inputs, v))  # G v
    if v.shape[2] > 1:
        # Within the space found: the eigenvectors of (G v)^T (G v), strongest first.
        turn = torch.linalg.eigh(torch.bmm(images.transpose(1, 2), images)).eigenvectors.flip(2)
        v, images = torch.bmm(v, turn), torch.bmm(images, turn)
    norms = frobenius(gradients, inputs)
    values = torch.linalg.vector_norm(images, dim=1)
    real = values > 1e-6 * norms.unsqueeze(1)  # the rest is rounding
    values = values * real
    u = images * (real / values.clamp(min=TINY)).unsqueeze(1)
    return u.transpose(1, 2), values, (v * real.unsqueeze(1)).transpose(1, 2), norms


def _orthonormal(columns: Tensor) -> Tensor:
    """Make the columns of [n, d, r] orthonormal, one after the other; a column that depends on those before is zero."""
    done: list[Tensor] = []
    for i in range(columns.shape[2]):
        column = columns[:, :, i]
        length = torch.linalg.vector_norm(column, dim=1, keepdim=True)
        for _ in range(2 if done else 0):  # twice is enough
            for before in done:
                column = column - before * (before * column).sum(dim=1, keepdim=True)
        rest = torch.linalg.vector_norm(column, dim=1, keepdim=True)
        done.append(column * ((rest > 1e-6 * length) / rest.clamp(min=TINY)))
    return torch.stack(done, dim=2)


def frobenius(gradients: Tensor, inputs: Tensor) -> Tensor:
    """Return |G| [n], by the shorter of two ways."""
    n_tokens, n_out, n_in = gradients.shape[1], gradients.shape[2], inputs.shape[2]
    if n_tokens * (n_out + n_in) > n_out * n_in:
        norm: Tensor = torch.linalg.matrix_norm(torch.bmm(gradients.transpose(1, 2), inputs))
        return norm
    by_gradients = torch.bmm(gradients, gradients.transpose(1, 2))
    squares: Tensor = torch.linalg.vecdot(
        by_gradients.flatten(1), torch.bmm(inputs, inputs.transpose(1, 2)).flatten(1)
    )
    return squares.clamp(min=0).sqrt()
