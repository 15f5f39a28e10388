"""Mixtures that keep the experts of a layer as stacks of matrices: each expert's matrices as linear maps of their own.

transformers 5 writes them in one way: a module with `gate_up_proj` (or `up_proj`) and `down_proj` of three dimensions,
and switches that say how they lie there. While such a module is watched, its experts are computed one after the other,
each on the tokens that were routed to it, so that inputs and output gradients of each can be seen.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from attrstore.ingest.model.linear import LinearMap

    Seen = Callable[[LinearMap, Tensor], Callable[[Tensor], None]]

_SWITCHES = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm", "num_experts")


def stacks(module: nn.Module) -> tuple[str, ...]:
    """Name the parameters of a module that are stacks which are read, in the order in which a token meets them."""
    if not all(hasattr(module, switch) for switch in _SWITCHES) or getattr(
        module, "_is_expert_parallel", False
    ):
        return ()
    names = ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")
    own = dict(module.named_parameters(recurse=False))
    return names if all(name in own and own[name].ndim == 3 for name in names) else ()


@contextmanager
def watched(maps: Sequence[LinearMap], shape: tuple[int, int], seen: Seen) -> Iterator[None]:
    """Call `seen(map, inputs)` in each forward pass; what it returns is called with the output's gradient.

    A token that is not routed to an expert is zero there: inputs are [windows, T, in], gradients [windows, T, out].

    Args:
        maps: of experts.
        shape: windows and T of the batch that runs.
    """
    of_module: dict[nn.Module, dict[tuple[int, str], LinearMap]] = {}
    for linear in maps:
        assert linear.expert is not None
        of_module.setdefault(linear.module, {})[linear.expert, linear.name.rpartition(".")[2]] = linear
    before: list[tuple[Any, str, Any]] = []
    for module, known in of_module.items():
        # accelerate's hook, which fetches a layer's weights, stays around what is computed.
        name = "_old_forward" if hasattr(module, "_hf_hook") else "forward"
        before.append((module, name, vars(module).get(name)))
        setattr(module, name, _Forward(module, known, shape, seen))
    try:
        yield
    finally:
        for module, name, own in before:
            if own is None:
                delattr(module, name)
            else:
                setattr(module, name, own)


class _Forward:
    """What a module of stacks computes, an expert at a time."""

    def __init__(
        self, module: Any, maps: Mapping[tuple[int, str], LinearMap], shape: tuple[int, int], seen: Seen
    ) -> None:
        self.module, self.maps, self.shape, self.seen = module, maps, shape, seen
        self.first, self.last = stacks(module)

    def __call__(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return what the experts add up to: [tokens, H].

        Args:
            hidden: [tokens, H], tokens of all windows side by side.
            chosen: [tokens, k]: the experts that each token is routed to.
            weights: [tokens, k]: of each of them.
        """
        module = self.module
        parts: list[tuple[Tensor, Tensor]] = []
        for expert in range(module.num_experts):
            # One without tokens is computed too: whoever watches it is told of every batch.
            tokens, place = torch.where(chosen == expert)
            inner = self._linear(expert, self.first, hidden[tokens], tokens)
            inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
            done = self._linear(expert, self.last, inner, tokens)
            if module.has_post_expert_norm:
                done = module.post_expert_norm(done)
            done = done * weights[tokens, place].unsqueeze(1)
            parts.append((tokens, done.to(hidden.dtype)))
        where, rows = (torch.cat(side) for side in zip(*parts, strict=True))
        return torch.zeros_like(hidden).index_add(0, where, rows)

    def _linear(self, expert: int, name: str, rows: Tensor, tokens: Tensor) -> Tensor:
        weight = getattr(self.module, name)[expert]
        bias = getattr(self.module, f"{name}_bias")[expert] if self.module.has_bias else None
        output = functional.linear(rows, weight.T if self.module.is_transposed else weight, bias)
        linear = self.maps.get((expert, name))
        if linear is not None and torch.is_grad_enabled():
            if not output.requires_grad:
                output.requires_grad_()
            take = self.seen(linear, self._spread(rows.detach(), tokens))
            output.register_hook(lambda gradient: take(self._spread(gradient, tokens)))
        return output

    def _spread(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Put the rows of some tokens where these are in the batch: [windows, T, d], zeros elsewhere."""
        windows, length = self.shape
        return (
            rows.new_zeros(windows * length, rows.shape[1])
            .index_copy(0, tokens, rows)
            .view(windows, length, -1)
        )
