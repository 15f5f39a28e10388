"""Find the linear maps of a model whose weight gradients are encoded."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attrstore.errors import InputError


class LinearMap(NamedTuple):
    """A module that computes x Wᵀ (+ bias)."""

    name: str
    module: nn.Module
    n_out: int
    n_in: int
    transposed: bool  # the weight is stored in x out (GPT-2's Conv1D)

    @property
    def weight(self) -> str:
        """Name of the weight among the model's parameters."""
        return f"{self.name}.weight"

    def oriented(self, matrix: Tensor) -> Tensor:
        """Return a matrix of the weight's shape as out x in."""
        return matrix.T if self.transposed else matrix


def find(model: Any) -> list[LinearMap]:
    """Return the model's linear maps in the order of its modules, without the output embedding.

    The output embedding is left out as in TrackStar (arXiv 2410.17413, appendix): its gradient is mostly the
    identity of the target tokens.
    """
    head = model.get_output_embeddings()
    maps = []
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear):
            maps.append(LinearMap(name, module, module.out_features, module.in_features, False))
        elif isinstance(module, Conv1D):
            n_in, n_out = module.weight.shape
            maps.append(LinearMap(name, module, n_out, n_in, True))
    if not maps:
        raise InputError(f"{type(model).__name__}: no linear layers found (torch.nn.Linear or Conv1D).")
    return maps
