"""The inverse of the true Gauss-Newton matrix on a vector, by conjugate gradients that EK-FAC preconditions.

The matrix is E_z[sum_t J_t^T (diag(p_t) - p_t p_t^T) J_t], in which J_t is the Jacobian of the logits before a target
of the example z, and p_t what they predict (Martens 2014, arXiv 1412.1193). It is never formed: a product takes the
derivative of the logits along the vector, and one backward pass.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attrstore.errors import InputError, flag
from attrstore.ingest.measure.exact import Curved
from attrstore.vectors.solvers import ridge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedModel

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.measure.ekfac import Curvature
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.sequences import Batch

LOGITS_AT_ONCE = 2**26  # entries of the vectors' images that are held: 256 MiB in float32
TOLERANCE = 1e-6  # relative residual below which a vector is left alone
Vectors = dict[str, Tensor]  # [q, out, in] of each map, by name


class GaussNewton:
    """Multiplies vectors with the matrix of some maps' corrected weights, over a sample.

    Args:
        model: frozen, in evaluation mode.
        maps: of the layers.
        corrections: the optimizer's, by name, not elementwise: what multiplies a gradient multiplies the Jacobian.
        sample: examples.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        maps: Sequence[LinearMap],
        corrections: Mapping[str, Projection],
        sample: Sequence[Batch],
    ) -> None:
        for linear in maps:
            if linear.expert is not None:
                raise InputError(
                    f"{flag('method')} cg: {linear.name} is an expert of a stack. Use ekfac, which takes them."
                )
        self.model, self.maps, self.sample = model, list(maps), list(sample)
        parameters = dict(model.named_parameters())
        self.weights = [parameters[linear.weight] for linear in maps]
        self.scales = {
            linear.name: torch.outer(
                corrections[linear.name].scale_out, corrections[linear.name].scale_in
            ).to(model.device)
            for linear in maps
        }
        self.n_examples = sum(len(batch.items) for batch in sample)

    def __call__(self, vectors: Vectors) -> Vectors:
        """Return the products with vectors [q, out, in] of each map."""
        along = tuple(
            self._stored(linear, vectors[linear.name] * self.scales[linear.name]) for linear in self.maps
        )
        total = [torch.zeros_like(part) for part in along]
        with _trained(self.weights), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            for batch in self.sample:
                for sum_, part in zip(total, self._of_batch(batch, along), strict=True):
                    sum_ += part
        return {
            linear.name: self._stored(linear, part) * self.scales[linear.name] / self.n_examples
            for linear, part in zip(self.maps, total, strict=True)
        }

    @staticmethod
    def _stored(linear: LinearMap, matrices: Tensor) -> Tensor:
        """Turn matrices [q, out, in] as the weight is stored, or back."""
        return matrices.transpose(1, 2) if linear.transposed else matrices

    def _of_batch(self, batch: Batch, along: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        device = self.model.device
        there = (batch.targets[:, 1:] != -100).to(device)
        logits = self.model(input_ids=batch.tokens.to(device), use_cache=False).logits[:, :-1][there].float()
        # J^T u is linear in u, so that its derivative by u along v is J v.
        u = torch.zeros_like(logits, requires_grad=True)
        pulled = torch.autograd.grad(logits, self.weights, u, create_graph=True)
        p = logits.detach().softmax(dim=1)
        at_once = max(1, LOGITS_AT_ONCE // logits.numel())
        found = []
        for some in zip(*(part.split(at_once) for part in along), strict=True):
            (pushed,) = torch.autograd.grad(pulled, u, some, retain_graph=True, is_grads_batched=True)
            curved = p * (pushed - (p * pushed).sum(dim=2, keepdim=True))
            found.append(
                torch.autograd.grad(logits, self.weights, curved, retain_graph=True, is_grads_batched=True)
            )
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


@contextmanager
def _trained(weights: Sequence[Tensor]) -> Iterator[None]:
    """Let frozen weights have gradients for a while."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def solve(
    matrix: GaussNewton, preconditioner: Curvature, damping: float, iterations: int, vectors: Vectors
) -> Vectors:
    """Return (H + lambda)^{-1} v by conjugate gradients, lambda of a map being `damping` of its mean eigenvalue.

    Args:
        matrix: H.
        preconditioner: EK-FAC of the same maps; its inverse on the vectors is where the iterations start.
        damping: of the mean eigenvalue.
        iterations: at most; all vectors at once, each until its residual is small.
        vectors: float32 [q, out, in] of each map.
    """
    ridges = {name: ridge(float(of_map.moments.mean()), damping) for name, of_map in preconditioner.items()}
    device = next(iter(vectors.values())).device
    curved = {
        name: Curved(*(part.to(device) for part in of_map.curved(damping)))
        for name, of_map in preconditioner.items()
    }

    def times(x: Vectors) -> Vectors:
        return {name: part.add_(x[name], alpha=ridges[name]) for name, part in matrix(x).items()}

    def preconditioned(x: Vectors) -> Vectors:
        return {
            name: of_map.left @ ((of_map.left.T @ x[name] @ of_map.right) * of_map.inverse) @ of_map.right.T
            for name, of_map in curved.items()
        }

    enough = _dot(vectors, vectors) * TOLERANCE**2
    x = preconditioned(vectors)
    residual = {name: vectors[name] - part for name, part in times(x).items()}
    direction = z = preconditioned(residual)
    square = _dot(residual, z)
    for _ in range(iterations):
        going = _dot(residual, residual) > enough
        if not bool(going.any()):
            break
        image = times(direction)
        step = torch.where(going, square / _dot(direction, image).clamp(min=1e-300), 0.0)
        x = _plus(x, step, direction)
        residual = _plus(residual, -step, image)
        z = preconditioned(residual)
        before, square = square, _dot(residual, z)
        direction = _plus(z, torch.where(going, square / before.clamp(min=1e-300), 0.0), direction)
    return x


def _dot(one: Vectors, other: Vectors) -> Tensor:
    """Return the inner products of the vectors: float64 [q]."""
    return torch.stack(
        [(part * other[name]).sum(dim=(1, 2), dtype=torch.float64) for name, part in one.items()]
    ).sum(dim=0)


def _plus(one: Vectors, factors: Tensor, other: Vectors) -> Vectors:
    factors = factors.float().view(-1, 1, 1)
    return {name: part + factors * other[name] for name, part in one.items()}
