"""Encode gradients by their strongest singular pairs, found by power iterations on the token factors.

The gradient G = sum_t g_t a_t^T of a linear map is never formed: G x is sum_t g_t <a_t, x>, so an iteration costs
T (in + out) for each pair, and where tokens are few it is made among them, on the T x T products of the factors. The
pairs are those of the whole gradient; only they are projected, not every token: at random, or on principal directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.ingest.encode.capture import HeadFactors, head_apart, hooked
from attrstore.ingest.encode.projection import folded, sign_matrix
from attrstore.ingest.encode.recipes import OF_PAIRS
from attrstore.ingest.model.backward import Backward
from attrstore.vectors import low_rank
from attrstore.vectors.encoders import make_blocks
from attrstore.vectors.low_rank import Spread
from attrstore.vectors.rounding import is_rounding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel

    from attrstore.ingest.encode.projection import Folded, Projection
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.sequences import Batch
    from attrstore.vectors.encoders import Block, Encoder
    from attrstore.vectors.spread import Layout

ITERATIONS = int(OF_PAIRS["iterations"])
# Up to so many tokens the products of each two of them cost less than to go through all of them in each iteration.
AMONG_TOKENS = 256
TINY = 1e-30


class Whole(NamedTuple):
    """What a map's pairs need whose whole gradient is taken: the correction of its sides, and what projects them."""

    scale_in: Tensor | None  # [in]; None where there is no correction
    scale_out: Tensor | None  # [out]
    p_in: Tensor | None = None  # [k_in, in]; None where nothing is projected
    p_out: Tensor | None = None  # [k_out, out]
    principal: bool = False

    @classmethod
    def of(cls, projection: Projection, device: torch.device, *, principal: bool) -> Whole:
        """Move what is not trivial to the model's device."""
        scale_in, scale_out = (
            None if bool((part == 1).all()) else part.to(device)
            for part in (projection.scale_in, projection.scale_out)
        )
        p_in, p_out = (
            None if p.shape[0] == p.shape[1] and not principal else p.to(device)
            for p in (projection.p_in, projection.p_out)
        )
        return cls(scale_in, scale_out, p_in, p_out, principal)

    def projected(self, pairs: Pairs) -> Pairs:
        """Project pairs of the whole gradient.

        Directions stay of length 1, but for principal ones: there the length says what they hold.
        """
        left, values, right, norms = pairs
        return self._projected(left, self.p_out), values, self._projected(right, self.p_in), norms

    def _projected(self, directions: Tensor, projection: Tensor | None) -> Tensor:
        if projection is None:
            return directions
        found = directions @ projection.T
        if self.principal:
            return found
        length: Tensor = torch.linalg.vector_norm(found, dim=2, keepdim=True)
        return found / length.clamp(min=TINY)


def _scaled(tokens: Tensor, scale: Tensor | None) -> Tensor:
    return tokens.float() if scale is None else tokens.float() * scale


class LowRankEncoder:
    """Encodes batches as projected singular pairs of each map's gradient; each map is a block.

    Args:
        model: frozen, in evaluation mode.
        maps: the linear maps to hook.
        projections: one for each map, by name; without an elementwise correction.
        rank: pairs that an example keeps.
        query_rank: pairs that a query keeps.
        whitened: the projections whiten too, so that pairs are those of what they make of each token.
        principal: the projections are on principal directions, once they are fitted.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        maps: Sequence[LinearMap],
        projections: Mapping[str, Projection],
        rank: int,
        query_rank: int,
        *,
        whitened: bool = False,
        principal: bool = False,
    ) -> None:
        self.model, self.maps = model, list(maps)
        self.rank, self.query_rank = rank, query_rank
        self.whitened, self.principal = whitened, principal
        self.backward = Backward(model)
        self.use(projections)
        for linear in maps:
            smallest = min(self._shape[linear.name])
            if max(rank, query_rank) > smallest:
                raise InputError(
                    f"{flag('rank')} {rank}, {flag('query_rank')} {query_rank}: the gradient of {linear.name} has at "
                    f"most {smallest} singular pairs after projection. Use less, or a larger {flag('projection_dim')}."
                )
        blocks = make_blocks([(linear.name, rank * sum(self._shape[linear.name])) for linear in maps])
        self.blocks: tuple[Block, ...] = tuple(
            block._replace(rows=self._shape[linear.name][0])
            for block, linear in zip(blocks, maps, strict=True)
        )
        self._hooked, self._head = head_apart(maps, split=self.backward.split)

    def use(self, projections: Mapping[str, Projection]) -> None:
        """Take projections of the same sizes instead."""
        self._shape = {name: (len(p.p_out), len(p.p_in)) for name, p in projections.items()}
        # One side of the embedding and of the head is as long as the vocabulary: these are projected token by token.
        self._whole = {
            linear.name: Whole.of(projections[linear.name], self.backward.device, principal=self.principal)
            for linear in self.maps
            if linear.role == "layer" and not self.whitened
        }
        apart = {name: p for name, p in projections.items() if name not in self._whole}
        self.projections: dict[str, Folded] = folded(apart, self.model)
        self._layouts: dict[str, Layout | None] = {}  # of what is fitted now, by encoder
        self._spreads = {
            name: Spread(p.spread_out, p.spread_in, p.pair_weights.flatten())
            for name, p in projections.items()
            if p.spread_out is not None and p.spread_in is not None and p.pair_weights is not None
        }

    def pack(self, encoder: Encoder, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise examples as `attrstore.vectors.low_rank.encode` does, by the layout of what was fitted."""
        if encoder.encoder_id not in self._layouts:
            self._layouts[encoder.encoder_id] = low_rank.layout(encoder, self._spreads)
        return low_rank.encode(encoder, vectors, self._layouts[encoder.encoder_id])

    def whole_pairs(self, batch: Batch, maps: Sequence[LinearMap]) -> dict[str, Pairs]:
        """Return the pairs of some of the layers' maps before they are projected, by name."""
        bare = {m.name: self._whole[m.name]._replace(p_in=None, p_out=None) for m in maps}
        return _real(self._found(batch, self.rank, maps, bare)[0])

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
        found, losses = self._found(batch, rank, self._hooked, self._whole)
        summed = torch.zeros(len(batch.items), device=self.backward.device)
        summed.index_add_(0, batch.owner.to(summed.device), losses)
        found = _real(found)
        return [found[linear.name] for linear in self.maps], summed

    def _found(
        self, batch: Batch, rank: int, maps: Sequence[LinearMap], wholes: Mapping[str, Whole]
    ) -> tuple[dict[str, Pairs], Tensor]:
        """Return the pairs of each of the maps by name, and the losses of the windows."""
        device = self.backward.device
        found: dict[str, Pairs] = {}
        head = None
        if self._head is not None and maps is self._hooked:
            head = HeadFactors(self._head, self.projections, batch, device)
        group = _Grouping(batch, device)

        def pairs(linear: LinearMap, gradients: Tensor, inputs: Tensor) -> Pairs:
            start = sign_matrix(f"{linear.name}/start", rank, inputs.shape[2]).to(device)[:rank]
            return singular_pairs(group(gradients), group(inputs), start)

        def take(linear: LinearMap, gradients: Tensor, inputs: Tensor) -> None:
            found[linear.name] = pairs(linear, gradients.float(), inputs.float())

        def take_whole(linear: LinearMap, gradients: Tensor, inputs: Tensor, whole: Whole) -> None:
            sides = _scaled(gradients, whole.scale_out), _scaled(inputs, whole.scale_in)
            found[linear.name] = whole.projected(pairs(linear, *sides))

        def seen(linear: LinearMap, inputs: Tensor) -> Callable[[Tensor], None]:
            whole = wholes.get(linear.name)
            if whole is not None:
                return lambda gradient: take_whole(linear, gradient, inputs, whole)
            projection = self.projections[linear.name]
            small = projection.p_in.T[inputs] if linear.role == "embedding" else inputs @ projection.p_in.T
            return lambda gradient: take(linear, gradient @ projection.p_out.T, small)

        with hooked(maps, batch, seen):
            losses = self.backward(batch, head)
        if head is not None:
            take(head.linear, head.gradients, head.inputs)
        return found, losses


def _real(found: dict[str, Pairs]) -> dict[str, Pairs]:
    """Set the pairs of blocks that are rounding to zero."""
    norms = torch.stack([norm for _, _, _, norm in found.values()], dim=1)
    real = ~is_rounding(norms.double().square())
    return {
        name: (left, values * counts.unsqueeze(1), right, norm * counts)
        for (name, (left, values, right, norm)), counts in zip(found.items(), real.T, strict=True)
    }


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
    v = start.expand(len(inputs), -1, -1)
    if inputs.shape[1] <= AMONG_TOKENS:
        v, norms = _among_tokens(gradients, inputs, v, iterations)
    else:
        norms = frobenius(gradients, inputs)
        for _ in range(iterations):
            u = _orthonormal(_image(v, inputs, gradients))
            v = _orthonormal(_image(u, gradients, inputs))
    images = _image(v, inputs, gradients)  # G v
    if v.shape[1] > 1:
        # Within the space found: the eigenvectors of (G v)^T (G v), strongest first.
        turn = (
            torch.linalg.eigh(torch.bmm(images, images.transpose(1, 2))).eigenvectors.flip(2).transpose(1, 2)
        )
        v, images = torch.bmm(turn, v), torch.bmm(turn, images)
    values = torch.linalg.vector_norm(images, dim=2)
    real = values > 1e-6 * norms.unsqueeze(1)  # the rest is rounding
    values = values * real
    u = images * (real / values.clamp(min=TINY)).unsqueeze(2)
    return u, values, v * real.unsqueeze(2), norms


def _image(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Multiply rows [n, r, d] with one^T other, of factors [n, T, d] and [n, T, e]: [n, r, e].

    Rows, since few columns times a transposed matrix are ten times as slow on a processor.
    """
    return torch.bmm(torch.bmm(one, rows.transpose(1, 2)).transpose(1, 2), other)


def _among_tokens(gradients: Tensor, inputs: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Iterate on what tokens weigh in v = x inputs, through their inner products; return v, and |G| [n].

    v G^T G = (x K_a K_g) inputs, in which K_a and K_g are the T x T products of inputs and of gradients. The weights
    are kept apart from each other in the same sense as v is: x K_a x^T is v v^T.
    """
    k_a, trace_a = _products(inputs)
    k_g, trace_g = _products(gradients)
    squares = torch.linalg.vecdot(k_a.flatten(1), k_g.flatten(1)).clamp(min=0)
    images = torch.bmm(inputs, v.transpose(1, 2)).transpose(1, 2)  # x K_a, up to a factor
    for _ in range(iterations):
        x = torch.bmm(images, k_g)
        x, images = _apart(x, torch.bmm(x, k_a))
    return _orthonormal(torch.bmm(x, inputs)), (squares * trace_a).sqrt() * trace_g.sqrt()


def _products(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens' inner products [n, T, T] over their trace, and the trace [n]: their own do not underflow."""
    products = torch.bmm(tokens, tokens.transpose(1, 2))
    trace = products.diagonal(dim1=1, dim2=2).sum(dim=1)
    return products / trace.clamp(min=TINY).view(-1, 1, 1), trace


def _apart(x: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Make the rows of x [n, r, T] orthonormal in the sense of K, given x K; return them and theirs.

    A row that depends on those before is zero.
    """
    done: list[tuple[Tensor, Tensor]] = []
    for i in range(x.shape[1]):
        row, image = x[:, i], images[:, i]
        scale = torch.linalg.vector_norm(row, dim=1, keepdim=True).clamp(min=TINY)
        row, image = row / scale, image / scale
        whole = (row * image).sum(dim=1, keepdim=True)
        for before, its_image in done:
            share = (its_image * row).sum(dim=1, keepdim=True)
            row, image = row - before * share, image - its_image * share
        square = (row * image).sum(dim=1, keepdim=True)
        over = (square > 1e-5 * whole) / square.clamp(
            min=TINY
        ).sqrt()  # of squares, float32 keeps half the digits
        done.append((row * over, image * over))
    return torch.stack([row for row, _ in done], 1), torch.stack([image for _, image in done], 1)


def _orthonormal(rows: Tensor) -> Tensor:
    """Make the rows of [n, r, d] orthonormal, one after the other; a row that depends on those before is zero."""
    done: list[Tensor] = []
    for i in range(rows.shape[1]):
        row = rows[:, i]
        length = torch.linalg.vector_norm(row, dim=1, keepdim=True)
        for _ in range(2 if done else 0):  # twice is enough
            for before in done:
                row = row - before * (before * row).sum(dim=1, keepdim=True)
        rest = torch.linalg.vector_norm(row, dim=1, keepdim=True)
        done.append(row * ((rest > 1e-6 * length) / rest.clamp(min=TINY)))
    return torch.stack(done, dim=1)


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
