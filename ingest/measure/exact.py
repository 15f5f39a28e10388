"""Inner products of whole gradients: no projection and no code.

The weight gradient of a linear map is G = sum_t g_t a_t^T. Queries are held in one of two ways, and an example's are
contracted with them while its backward pass makes them. As token factors, so that <G, G'> = sum_{t, t'} <g_t, g'_t'>
<a_t, a'_t'>: little memory, and the way for a model whose gradients do not fit it. Or formed, [out, in] each, which
costs a fraction where every example is wanted with every query; a curvature's inverse is applied to such only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attrstore.ingest.encode.capture import hooked
from attrstore.ingest.model.backward import Backward

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from transformers import PreTrainedModel

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.sequences import Batch, Item


FORMED_AT_ONCE = 2**24  # entries of examples' gradients: 64 MiB in float32


class Curved(NamedTuple):
    """The inverse of one map's curvature, in a basis of its own."""

    left: Tensor  # [out, out]: its columns are the basis of the output gradients
    right: Tensor  # [in, in]: of the inputs
    inverse: Tensor  # [out, in]: by which an entry in this basis is multiplied


class Scales(NamedTuple):
    """The optimizer's correction of one map, and the curvature of what is corrected."""

    inputs: Tensor  # [in]
    gradients: Tensor  # [out]
    elementwise: Tensor | None  # [out, in]
    curved: Curved | None


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


# Given the queries' gradients by map, formed [q, out, in], returns what stands for them.
Solve = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class ExactGradients:
    """Contracts gradients of examples with gradients of queries.

    Args:
        model: frozen, in evaluation mode.
        maps: the linear maps whose gradients count.
        corrections: the optimizer's correction of each map, by name.
        block_of: the block's name of each map.
        curvature: of each map, by name: products and norms are in the metric of its inverse. None is elementwise
            corrected, and all are of the layers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        maps: Sequence[LinearMap],
        corrections: Mapping[str, Projection],
        block_of: Callable[[LinearMap], str],
        curvature: Mapping[str, Curved] | None = None,
    ) -> None:
        self.maps = list(maps)
        self.backward = Backward(model)
        # A hook on the head sees the gradients only where the model goes through its own forward.
        self.backward.split &= all(linear.role != "head" for linear in maps)
        self.device = self.backward.device
        self.blocks = list(dict.fromkeys(block_of(linear) for linear in maps))
        self._block = {linear.name: self.blocks.index(block_of(linear)) for linear in maps}
        curvature = curvature or {}
        self._scales = {
            name: Scales(
                p.scale_in.to(self.device),
                p.scale_out.to(self.device),
                None if p.elementwise is None else p.elementwise.to(self.device),
                Curved(*(part.to(self.device) for part in curvature[name])) if name in curvature else None,
            )
            for name, p in corrections.items()
        }
        self._held: dict[str, Held] = {}
        self._formed: dict[str, Tensor] = {}  # [q, out * in]: what an example's gradient is multiplied with

    @property
    def width(self) -> tuple[int, int]:
        """Numbers that are held of a query: of each token, and of the whole where gradients are formed."""
        of_token = sum(m.n_out + (1 if m.role == "embedding" else m.n_in) for m in self.maps)
        return of_token, sum(m.n_out * m.n_in for m in self.maps if m.role == "layer")

    def hold(
        self, batches: Sequence[Batch], *, formed: bool = False, solve: Solve | None = None
    ) -> tuple[list[Item], Tensor]:
        """Take the queries in the place of those held before: their items, and squared norms float64 [q, B].

        Args:
            batches: the queries.
            formed: hold the gradients of the layers' maps formed.
            solve: makes what stands for the queries, whose norms are then its own; for formed gradients alone.
        """
        parts: dict[str, list[list[Factors]]] = {linear.name: [] for linear in self.maps}
        squares = torch.cat([self._each(batch, _Keep(parts)) for batch in batches])
        self._held, self._formed = {}, {}
        for linear in self.maps:
            items = [item for batch in parts.pop(linear.name) for item in batch]
            if formed and linear.role == "layer":
                whole = torch.stack([_formed(item, self._scales[linear.name]) for item in items])
                curved = self._scales[linear.name].curved
                self._formed[linear.name] = whole if curved is None else whole.mul_(curved.inverse)
            else:
                self._held[linear.name] = _joined(items)
        if solve is not None:
            self._formed = solve(self._formed)
            squares = torch.zeros_like(squares)
            for name, whole in self._formed.items():
                squares[:, self._block[name]] += whole.double().square().sum(dim=(1, 2))
        self._formed = {name: whole.flatten(1) for name, whole in self._formed.items()}
        return [item for batch in batches for item in batch.items], squares

    def products(self, batch: Batch, wanted: Sequence[Tensor]) -> Products:
        """Return the products of each item with the queries wanted of it: int64 [p], rows of what is held."""
        wanted = [queries.to(self.device) for queries in wanted]
        of_pairs = [
            torch.zeros(len(queries), len(self.blocks), dtype=torch.float64, device=self.device)
            for queries in wanted
        ]
        asked = torch.cat(wanted).unique()  # by any of the items
        rows = [torch.searchsorted(asked, queries) for queries in wanted]

        def by_token(linear: LinearMap, items: list[Factors]) -> None:
            held, scales, block = self._held[linear.name], self._scales[linear.name], self._block[linear.name]
            for own, queries, out in zip(items, wanted, of_pairs, strict=True):
                theirs, owner = held.of(queries)
                out[:, block].index_add_(0, owner, _by_token(own, theirs, linear, scales).double())

        def formed(linear: LinearMap, own: Tensor, items: slice) -> None:
            held, block = self._formed[linear.name], self._block[linear.name]
            theirs = held if len(asked) == len(held) else held[asked]
            products = own.flatten(1) @ theirs.T
            for of_item, which, out in zip(products, rows[items], of_pairs[items], strict=True):
                out[:, block] += of_item[which]

        return Products(of_pairs, self._each(batch, by_token, formed, self._formed))

    def moments(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Return the mean square of each entry of the examples' gradients in the curvature's basis: [out, in], by map.

        All maps are of the layers.
        """
        sums = {
            linear.name: torch.zeros(linear.n_out, linear.n_in, device=self.device) for linear in self.maps
        }

        def add(linear: LinearMap, own: Tensor, _: slice) -> None:
            sums[linear.name] += own.square().sum(dim=0)

        for batch in batches:
            self._each(batch, lambda linear, items: None, add, sums)
        n = sum(len(batch.items) for batch in batches)
        return {name: total / n for name, total in sums.items()}

    def _each(
        self,
        batch: Batch,
        by_token: Callable[[LinearMap, list[Factors]], None],
        formed: Callable[[LinearMap, Tensor, slice], None] = lambda linear, own, items: None,
        of: Container[str] = (),
    ) -> Tensor:
        """Run a batch and return the squared norms float64 [items, B].

        Args:
            batch: examples or queries.
            by_token: told of a map's factors, item by item.
            formed: told of some items' gradients [n, out, in] of a map, and which items they are.
            of: the maps that `formed` is told of, the others being `by_token`'s.
        """
        n_items = len(batch.items)
        squares = torch.zeros(n_items, len(self.blocks), dtype=torch.float64, device=self.device)
        windows = [(batch.owner == item).nonzero().flatten().to(self.device) for item in range(n_items)]

        def seen(linear: LinearMap, inputs: Tensor) -> Callable[[Tensor], None]:
            scales, block = self._scales[linear.name], self._block[linear.name]

            def take(gradients: Tensor) -> None:
                items = [_factors(gradients[own], inputs[own], linear, scales) for own in windows]
                if linear.name not in of:
                    by_token(linear, items)
                    for item, own in enumerate(items):
                        squares[item, block] += _by_token(own, own, linear, scales).sum(dtype=torch.float64)
                    return
                at_once = max(1, FORMED_AT_ONCE // (linear.n_out * linear.n_in))
                for start in range(0, n_items, at_once):
                    some = slice(start, min(n_items, start + at_once))
                    whole = torch.stack([_formed(own, scales) for own in items[some]])
                    formed(linear, whole, some)
                    square = (
                        whole.square_()
                        if scales.curved is None
                        else whole.square_().mul_(scales.curved.inverse)
                    )
                    squares[some, block] += square.sum(dim=(1, 2), dtype=torch.float64)

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


def _joined(items: list[Factors]) -> Held:
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
    gradients, inputs = gradients * scales.gradients, inputs * scales.inputs
    if scales.curved is None:
        return Factors(gradients, inputs)
    return Factors(gradients @ scales.curved.left, inputs @ scales.curved.right)


def _formed(own: Factors, scales: Scales) -> Tensor:
    """Return one item's gradient: [out, in]."""
    whole = own.gradients.T @ own.inputs
    return whole if scales.elementwise is None else whole.mul_(scales.elementwise)


def _by_token(own: Factors, theirs: Factors, linear: LinearMap, scales: Scales) -> Tensor:
    """Return what each of their tokens adds to the inner product with our gradient: [their t]."""
    weights = scales.elementwise.square() if scales.elementwise is not None else None
    if scales.curved is not None:
        weights = scales.curved.inverse
    if weights is not None:
        whole = (own.gradients.T @ own.inputs).mul_(weights)
        return ((theirs.gradients @ whole) * theirs.inputs).sum(dim=1)
    if linear.role == "embedding":
        alike = (own.inputs.unsqueeze(1) == theirs.inputs).float()
    else:
        alike = own.inputs @ theirs.inputs.T
    return alike.mul_(own.gradients @ theirs.gradients.T).sum(dim=0)
