"""Find the linear maps of a model whose weight gradients are encoded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from attrstore.errors import InputError, flag
from attrstore.ingest.model import adapters, experts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

Role = Literal["layer", "embedding", "head"]


class LinearMap(NamedTuple):
    """A module that computes x Wᵀ (+ bias). Of the embedding, x is one-hot: the row of a token."""

    name: str
    module: nn.Module
    n_out: int
    n_in: int
    transposed: bool  # the weight is stored in x out (GPT-2's Conv1D)
    weight: str  # name of the weight among the model's parameters
    role: Role = "layer"
    expert: int | None = None  # which matrix of the weight, where that is a stack

    def oriented(self, matrix: Tensor) -> Tensor:
        """Return a matrix of the weight's shape as out x in."""
        return matrix.T if self.transposed else matrix


def find(model: PreTrainedModel, modules: str | None = None) -> list[LinearMap]:
    """Return the linear maps of the model's layers, or those that are asked for, in the order of its modules.

    Of a model with a LoRA adapter they are the adapter's own maps A and B and no others, since they are what was
    trained, named after the layer that they are on, `...q_proj.lora_A`. The token embedding and the output head are
    left out as in TrackStar (arXiv 2410.17413) unless they are asked for: where a method takes the norm of the whole
    vector, the head's large gradient outweighs the rest. A matrix that is both is two maps, one for each use.

    Args:
        modules: a regular expression that is searched for in the names of all maps, embedding and head included.

    Raises:
        InputError: there is none, or `modules` is no regular expression or finds none.
    """
    maps = _all(model)
    if modules is None:
        return [linear for linear in maps if linear.role == "layer"]
    try:
        chosen = [linear for linear in maps if re.search(modules, linear.name)]
    except re.error as error:
        raise InputError(f"{flag('modules')} {modules}: not a regular expression: {error}") from error
    if not chosen:
        raise InputError(f"{flag('modules')} {modules}: found in none of the names, such as {maps[0].name}.")
    return chosen


def refuse_stacks(model: PreTrainedModel, layers: Sequence[LinearMap]) -> None:
    """Refuse a model with stacks of matrices that are not read as experts: they would be left out in silence."""
    stacked = {
        f"{name}.{own}": parameter
        for name, module in model.named_modules()
        if not isinstance(module, _ConvNd)
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and own not in experts.stacks(module)
    }
    if not stacked or any(adapters.matrices(model)):
        return
    left_out = sum(parameter.numel() for parameter in stacked.values())
    encoded = sum(linear.n_out * linear.n_in for linear in layers)
    name, first = next(iter(stacked.items()))
    raise InputError(
        f"{type(model).__name__}: {name} is {tuple(first.shape)}, a stack of matrices that is not computed as "
        f"transformers computes experts, and is not encoded. That would leave out "
        f"{left_out / (left_out + encoded):.0%} of the layers' matrices. To encode the others all the same name them: "
        f"{flag('modules')} self_attn"
    )


def _all(model: PreTrainedModel) -> list[LinearMap]:
    maps = [
        LinearMap(name, module, module.out_features, module.in_features, False, f"{own_name}.weight")
        for name, own_name, module in adapters.matrices(model)
    ]
    if maps:
        return maps
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name, module in model.named_modules():
        maps += _of_experts(name, module)
        if isinstance(module, nn.Linear):
            shape, transposed = (module.out_features, module.in_features), False
        elif isinstance(module, Conv1D):
            shape, transposed = (module.weight.shape[1], module.weight.shape[0]), True
        elif module is embedding and isinstance(module, nn.Embedding):
            shape, transposed = (module.embedding_dim, module.num_embeddings), True
        else:
            continue
        role: Role = "head" if module is head else "embedding" if module is embedding else "layer"
        maps.append(LinearMap(name, module, *shape, transposed, names[id(module.weight)], role))
    if not any(linear.role == "layer" for linear in maps):
        raise InputError(f"{type(model).__name__}: no linear layers found (torch.nn.Linear or Conv1D).")
    return maps


def _of_experts(name: str, module: nn.Module) -> Iterator[LinearMap]:
    """Yield the maps of each expert: `...experts.3.down_proj`, of module, number and stack."""
    stacks = {own: getattr(module, own) for own in experts.stacks(module)}
    for expert in range(len(next(iter(stacks.values()), ()))):
        for own, stack in stacks.items():
            transposed = bool(module.is_transposed)
            n_out, n_in = stack.shape[:0:-1] if transposed else stack.shape[1:]
            yield LinearMap(
                f"{name}.{expert}.{own}", module, n_out, n_in, transposed, f"{name}.{own}", expert=expert
            )
