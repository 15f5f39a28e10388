"""Hooks on linear maps that turn one backward pass into every example's projected gradients."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.ingest.encode.projection import folded
from attrstore.ingest.model import experts
from attrstore.ingest.model.backward import Backward
from attrstore.vectors.encoders import make_blocks
from attrstore.vectors.rounding import silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from attrstore.ingest.encode.projection import Folded, Projection
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.sequences import Batch
    from attrstore.vectors.encoders import Block


@contextmanager
def hooked(
    maps: Sequence[LinearMap], batch: Batch, seen: Callable[[LinearMap, Tensor], Callable[[Tensor], None]]
) -> Iterator[None]:
    """Call `seen(map, inputs)` in the forward pass of a batch; what it returns is called with the output's gradient.

    Inputs are [windows, T, in], of the embedding token ids [windows, T], and gradients [windows, T, out]. Weights
    are frozen, so the graph starts at the first hooked outputs, which are made to require a gradient; nothing
    before them is differentiated.
    """

    def hook_of(linear: LinearMap) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not torch.is_grad_enabled():
                return
            if not output.requires_grad:
                output.requires_grad_()
            output.register_hook(seen(linear, inputs[0].detach()))

        return forward

    shape = (batch.tokens.shape[0], batch.tokens.shape[1])
    handles = [m.module.register_forward_hook(hook_of(m)) for m in maps if m.expert is None]
    try:
        with experts.watched([m for m in maps if m.expert is not None], shape, seen):
            yield
    finally:
        for handle in handles:
            handle.remove()


def head_apart(maps: Sequence[LinearMap], *, split: bool) -> tuple[list[LinearMap], LinearMap | None]:
    """Return the maps to hook, and the head where the backward pass is `split` from it."""
    head = next((linear for linear in maps if split and linear.role == "head"), None)
    return [linear for linear in maps if head is None or linear.role != "head"], head


class GradientEncoder:
    """Encodes batches as phi: each map's gradient projected, the maps of one block added up.

    Args:
        model: frozen, in evaluation mode.
        maps: the linear maps to hook.
        projections: one for each map, by name.
        block_of: the block's name of each map; maps of one block must have projections of one size.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        maps: Sequence[LinearMap],
        projections: Mapping[str, Projection],
        block_of: Callable[[LinearMap], str],
    ) -> None:
        self.model = model
        self.maps = list(maps)
        self.backward = Backward(model)
        self.use(projections)
        first: dict[str, Projection] = {}
        for linear in maps:
            block, projection = block_of(linear), projections[linear.name]
            of_block = first.setdefault(block, projection)
            if _shape(projection) != _shape(of_block):
                raise InputError(
                    f"{flag('blocks')}: {linear.name} is encoded in {_shape(projection)} numbers "
                    f"and others of the block "
                    f"{block} in {_shape(of_block)}, so they do not add up. Use {flag('blocks')} module, or a "
                    f"{flag('projection_dim')} no larger than the smallest side."
                )
        blocks = make_blocks([(name, projection.length) for name, projection in first.items()])
        self.blocks: tuple[Block, ...] = tuple(
            block._replace(rows=len(first[block.name].p_out)) for block in blocks
        )
        by_name = {block.name: block for block in self.blocks}
        self._block = {linear.name: by_name[block_of(linear)] for linear in maps}
        self._hooked, self._head = head_apart(maps, split=self.backward.split)

    def use(self, projections: Mapping[str, Projection]) -> None:
        """Take projections of the same sizes instead."""
        self.projections = folded(projections, self.model)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return phi float32 [items, D] and the summed loss float32 [items], on the model's device."""
        device = self.backward.device
        n_windows = len(batch.tokens)
        phi = torch.zeros(n_windows, sum(block.length for block in self.blocks), device=device)
        head = None if self._head is None else HeadFactors(self._head, self.projections, batch, device)

        def seen(linear: LinearMap, inputs: Tensor) -> Callable[[Tensor], None]:
            projection, part = self.projections[linear.name], self._part(phi, linear)
            elementwise = projection.elementwise
            if elementwise is not None:
                return lambda gradient: _add(part, _full(gradient, inputs, projection, elementwise))
            # [windows, T, k_in]; the inputs themselves are not kept
            small = projection.p_in.T[inputs] if linear.role == "embedding" else inputs @ projection.p_in.T
            return lambda gradient: _add(part, _outer(gradient @ projection.p_out.T, small))

        with hooked(self._hooked, batch, seen):
            losses = self.backward(batch, head)
        if head is not None:
            _add(self._part(phi, head.linear), head.outer())
        if n_windows == len(batch.items):
            return silence(phi, self.blocks), losses
        owner = batch.owner.to(device)
        whole = torch.zeros(len(batch.items), phi.shape[1], device=device).index_add_(0, owner, phi)
        return silence(whole, self.blocks), torch.zeros(len(batch.items), device=device).index_add_(
            0, owner, losses
        )

    encode_queries = encode

    def token_parts(self, batch: Batch, directions: Tensor) -> Tensor:
        """Split <direction, phi> of each window by token and block: float64 [windows, T, directions, blocks].

        A linear map's gradient is the sum over tokens of g_t a_t^T, so a token's part is g_t^T U a_t, in which U is
        the direction in the map's block. The parts of a window sum to the product.

        Args:
            batch: the windows.
            directions: float32 [n, D].
        """
        device = self.backward.device
        place = {block.name: i for i, block in enumerate(self.blocks)}
        parts = torch.zeros(
            *batch.tokens.shape, len(directions), len(self.blocks), dtype=torch.float64, device=device
        )
        head = None if self._head is None else HeadFactors(self._head, self.projections, batch, device)

        def add(linear: LinearMap, gradients: Tensor, inputs: Tensor) -> None:
            block = self._block[linear.name]
            matrices = directions[:, block.offset : block.offset + block.length].double()
            matrices = matrices.unflatten(1, (gradients.shape[-1], inputs.shape[-1]))
            parts[..., place[block.name]] += torch.einsum(
                "wto,noi,wti->wtn", gradients.double(), matrices, inputs.double()
            )

        def seen(linear: LinearMap, inputs: Tensor) -> Callable[[Tensor], None]:
            projection = self.projections[linear.name]
            small = projection.p_in.T[inputs] if linear.role == "embedding" else inputs @ projection.p_in.T
            return lambda gradient: add(linear, gradient @ projection.p_out.T, small)

        with hooked(self._hooked, batch, seen):
            self.backward(batch, head)
        if head is not None:
            add(head.linear, head.gradients, head.inputs)
        return parts

    def _part(self, phi: Tensor, linear: LinearMap) -> Tensor:
        block = self._block[linear.name]
        return phi[:, block.offset : block.offset + block.length]


def _shape(projection: Projection) -> str:
    return f"{len(projection.p_out)} x {len(projection.p_in)}"


class HeadFactors:
    """Collects the head's projected inputs and gradients while `Backward` goes through its chunks."""

    def __init__(
        self, linear: LinearMap, projections: Mapping[str, Folded], batch: Batch, device: torch.device
    ) -> None:
        self.linear, self.projection = linear, projections[linear.name]
        self.inputs, self.gradients = (
            torch.zeros(*batch.tokens.shape, len(p), dtype=p.dtype, device=device)
            for p in (self.projection.p_in, self.projection.p_out)
        )

    def __call__(self, windows: Tensor, positions: Tensor, inputs: Tensor, gradients: Tensor) -> None:
        """Take a chunk, as `Backward` gives it."""
        self.inputs[windows, positions] = inputs @ self.projection.p_in.T
        self.gradients[windows, positions] = gradients @ self.projection.p_out.T

    def outer(self) -> Tensor:
        """Return what the head adds to each window: [windows, k_out, k_in]."""
        return _outer(self.gradients, self.inputs)


def _add(part: Tensor, update: Tensor) -> None:
    part += update.flatten(1)


def _outer(gradients: Tensor, inputs: Tensor) -> Tensor:
    """Sum over tokens of gradient times input: [windows, out, in], accumulated in float32."""
    return torch.bmm(gradients.float().transpose(1, 2), inputs.float())


def _full(gradients: Tensor, inputs: Tensor, projection: Folded, elementwise: Tensor) -> Tensor:
    """Form each window's whole gradient, correct it elementwise, project it: [windows, k_out, k_in]."""
    corrected = _outer(gradients, inputs) * elementwise
    return projection.p_out.float() @ (corrected @ projection.p_in.float().T)
