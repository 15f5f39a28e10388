"""Inner products of whole gradients: no projection and no code, from the token factors of both sides.

The weight gradient of a linear map is G = sum_t g_t a_t^T, so that <G, G'> = sum_{t, t'} <g_t, g'_t'> <a_t, a'_t'>. The
queries' factors are held, and an example's are contracted with them while its backward pass makes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attrstore.ingest.encode.capture import hooked
from attrstore.ingest.model.backward import Backward

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.sequences import Batch, Item


class Scales(NamedTuple):
    """The optimizer's correction of one map."""

    inputs: Tensor  # [in]
    gradients: Tensor  # [out]
    elementwise: Tensor | None  # [out, in]


class Factors(NamedTuple):
    """Some tokens' part in one map's gradient, corrected unless the correction is elementwise."""

    gradients: Tensor  # [t, out]
    inputs: Tensor  # [t, in]; of the embedding the token ids [t]


class Held(NamedTuple):
    """The queries' factors in one map, those of one query side by side."""

    factors: Factors
    starts: Tensor  # int64 [q + 1]: where each query's tokens start

    def of(self, queries: Tensor) -> tuple[Factors, Tensor]:
        """Return the factors of some queries [p], and for each token which of them it belongs to."""
        lengths = self.starts[queries + 1] - self.starts[queries]
        owner = torch.arange(len(queries), device=lengths.device).repeat_interleave(lengths)
        if len(queries) == len(self.starts) - 1:  # all of them, in order: nothing to copy
            return self.factors, owner
        first = self.starts[queries] - (lengths.cumsum(0) - lengths)
        tokens = torch.arange(len(owner), device=lengths.device) + first[owner]
        return Factors(*(part[tokens] for part in self.factors)), owner


class Products(NamedTuple):
    """What a batch of examples gives, item by item."""

    of_pairs: list[Tensor]  # float64 [p, B]: with each wanted query, block by block
    squares: Tensor  # float64 [items, B]: of the examples' own norms


class ExactGradients:
    """Contracts gradients of examples with gradients of queries.

    Args:
        model: frozen, in evaluation mode.
        maps: the linear maps whose gradients count.
        corrections: the optimizer's correction of each map, by name.
        block_of: the block's name of each map.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        maps: Sequence[LinearMap],
        corrections: Mapping[str, Projection],
        block_of: Callable[[LinearMap], str],
    ) -> None:
        self.maps = list(maps)
        self.backward = Backward(model)
        # A hook on the head sees the gradients only where the model goes through its own forward.
        self.backward.split &= all(linear.role != "head" for linear in maps)
        self.device = self.backward.device
        self.blocks = list(dict.fromkeys(block_of(linear) for linear in maps))
        self._block = {linear.name: self.blocks.index(block_of(linear)) for linear in maps}
        self._scales = {
            name: Scales(*(None if part is None else part.to(self.device) for part in parts))  # type: ignore[arg-type]
            for name, parts in (
                (name, (p.scale_in, p.scale_out, p.elementwise)) for name, p in corrections.items()
            )
        }
        self._held: dict[str, Held] = {}

    def hold(self, batches: Sequence[Batch]) -> tuple[list[Item], Tensor]:
        """Take the queries in the place of those held before: their items, and squared norms float64 [q, B]."""
        parts: dict[str, list[list[Factors]]] = {linear.name: [] for linear in self.maps}
        squares = [self._each(batch, _Keep(parts)) for batch in batches]
        self._held = {name: _joined(each) for name, each in parts.items()}
        return [item for batch in batches for item in batch.items], torch.cat(squares)

    def products(self, batch: Batch, wanted: Sequence[Tensor]) -> Products:
        """Return the products of each item with the queries wanted of it: int64 [p], rows of what is held."""
        wanted = [queries.to(self.device) for queries in wanted]
        of_pairs = [
            torch.zeros(len(queries), len(self.blocks), dtype=torch.float64, device=self.device)
            for queries in wanted
        ]

        def contract(linear: LinearMap, items: list[Factors]) -> None:
            held, scales, block = self._held[linear.name], self._scales[linear.name], self._block[linear.name]
            for own, queries, out in zip(items, wanted, of_pairs, strict=True):
                theirs, owner = held.of(queries)
                by_token = _by_token(own, theirs, linear, scales)
                out[:, block].index_add_(0, owner, by_token.double())

        return Products(of_pairs, self._each(batch, contract))

    def _each(self, batch: Batch, use: Callable[[LinearMap, list[Factors]], None]) -> Tensor:
        """Run a batch; `use` is told of each map's factors, item by item. Returns the squared norms [items, B]."""
        n_items = len(batch.items)
        squares = torch.zeros(n_items, len(self.blocks), dtype=torch.float64, device=self.device)
        windows = [(batch.owner == item).nonzero().flatten().to(self.device) for item in range(n_items)]

        def seen(linear: LinearMap, inputs: Tensor) -> Callable[[Tensor], None]:
            def take(gradients: Tensor) -> None:
                scales, block = self._scales[linear.name], self._block[linear.name]
                items = [_factors(gradients[own], inputs[own], linear, scales) for own in windows]
                use(linear, items)
                for item, own in enumerate(items):
                    squares[item, block] += _by_token(own, own, linear, scales).sum(dtype=torch.float64)

            return take

        with hooked(self.maps, batch, seen):
            self.backward(batch)
        return squares


class _Keep:
    """Keeps what it is told, map by map."""

    def __init__(self, parts: dict[str, list[list[Factors]]]) -> None:
        self.parts = parts

    def __call__(self, linear: LinearMap, items: list[Factors]) -> None:
        self.parts[linear.name].append(items)


def _joined(batches: list[list[Factors]]) -> Held:
    items = [item for batch in batches for item in batch]
    lengths = torch.tensor([0, *(len(item.gradients) for item in items)], device=items[0].gradients.device)
    gradients, inputs = (torch.cat(part) for part in zip(*items, strict=True))
    return Held(Factors(gradients, inputs), lengths.cumsum(0))


def _factors(gradients: Tensor, inputs: Tensor, linear: LinearMap, scales: Scales) -> Factors:
    """Flatten one item's windows to its tokens that have a gradient; scale both sides."""
    gradients, inputs = gradients.flatten(0, 1).float(), inputs.flatten(0, 1)
    alive = gradients.any(dim=1)
    gradients, inputs = gradients[alive], inputs[alive]
    if linear.role != "embedding":
        inputs = inputs.float()
    if scales.elementwise is not None:
        return Factors(gradients, inputs)
    if linear.role == "embedding":  # one-hot: the scale of a token is one number, which the gradient takes
        return Factors(gradients * scales.gradients * scales.inputs[inputs].unsqueeze(1), inputs)
    return Factors(gradients * scales.gradients, inputs * scales.inputs)


def _by_token(own: Factors, theirs: Factors, linear: LinearMap, scales: Scales) -> Tensor:
    """Return what each of their tokens adds to the inner product with our gradient: [their t]."""
    if scales.elementwise is not None:
        whole = (own.gradients.T @ own.inputs).mul_(scales.elementwise.square())
        return ((theirs.gradients @ whole) * theirs.inputs).sum(dim=1)
    if linear.role == "embedding":
        alike = (own.inputs.unsqueeze(1) == theirs.inputs).float()
    else:
        alike = own.inputs @ theirs.inputs.T
    return alike.mul_(own.gradients @ theirs.gradients.T).sum(dim=0)
