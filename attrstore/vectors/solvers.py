"""Inverse-Hessian products in the projected space: psi = H^{-1} phi for query vectors, block by block.

H = R + lambda I, with R = E[phi phi^T] of a block and lambda the damping times R's mean eigenvalue, or an
approximation of it. `SOLVERS` names each way; all of them return psi in the order of the encoder's blocks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.errors import InputError, flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from attrstore.vectors.encoders import Block

TOLERANCE = 1e-10  # relative residual below which conjugate gradients leave a vector alone
POWER_STEPS = 1000  # at most; two eigenvalues that are so close that it is not enough are as good as one


@dataclass(frozen=True)
class System:
    """What a solver may ask for; nothing is computed before it does."""

    blocks: Sequence[Block]
    shapes: Callable[[], Sequence[tuple[int, int]]]  # (out, in) of each block as a matrix, row by row
    matrices: Callable[[], Sequence[Tensor]]  # R of each block: float32 [d, d]
    rows: Callable[[], Iterator[Tensor]]  # one pass over the corpus's phi: float32 [n, D]
    damping: float  # of the mean eigenvalue
    iterations: int


def ridge(mean: float, damping: float) -> float:
    """Return lambda; a block in which every example is zero scores zero with any."""
    return damping * mean if mean > 0 else 1.0


def damped(matrix: Tensor, damping: float) -> Tensor:
    """Return R + lambda I in float64."""
    wide = matrix.double()
    mean = float(wide.diagonal().mean())
    return wide + ridge(mean, damping) * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)


# From the whole matrix: each takes H [d, d] and vectors [q, d], float64


def cholesky(h: Tensor, vectors: Tensor) -> Tensor:
    """Solve exactly."""
    factor, failed = torch.linalg.cholesky_ex(h)
    if failed:
        raise InputError(
            f"{flag('damping')}: too small, the damped curvature is singular to float64. Raise it."
        )
    solution: Tensor = torch.cholesky_solve(vectors.T, factor).T
    return solution


def conjugate_gradients(h: Tensor, vectors: Tensor) -> Iterator[Tensor]:
    """Yield the iterate after each step, for all vectors at once; ends when every residual is small."""
    x = torch.zeros_like(vectors)
    residual, direction = vectors.clone(), vectors.clone()
    square = residual.square().sum(dim=1, keepdim=True)
    enough = square * TOLERANCE**2
    while True:
        image = direction @ h
        curved = (direction * image).sum(dim=1, keepdim=True)
        going = (square > enough) & (curved > 0)
        step = torch.where(going, square / curved.where(going, torch.ones_like(curved)), 0.0)
        x = x + step * direction
        residual = residual - step * image
        before, square = square, residual.square().sum(dim=1, keepdim=True)
        ratio = torch.where(going, square / before.where(going, torch.ones_like(before)), 0.0)
        direction = residual + ratio * direction
        yield x
        if not bool((square > enough).any()):
            return


def lissa(h: Tensor, vectors: Tensor) -> Iterator[Tensor]:
    """Yield sum_{j <= n} (I - H / scale)^j v / scale for n = 1, 2, ..., as h_n = v + (I - H / scale) h_{n-1}.

    The recursion of Agarwal et al. 2016 on the whole curvature instead of a sampled one. It converges where
    the scale exceeds half of H's largest eigenvalue, at a rate of 1 - smallest / scale.
    """
    scale = largest_eigenvalue(h)
    h_n = vectors
    while True:
        h_n = vectors + h_n - (h_n @ h) / scale
        yield h_n / scale


def largest_eigenvalue(h: Tensor) -> float:
    """Return an estimate from below by power iteration, from the row of the largest norm."""
    vector = h[h.norm(dim=1).argmax()]
    value = 0.0
    for _ in range(POWER_STEPS):
        vector = vector / vector.norm()
        image = h @ vector
        before, value = value, float(vector @ image)
        if value - before <= 1e-7 * value:
            break
        vector = image
    return value


def after(steps: Iterator[Tensor], iterations: int) -> Tensor:
    """Return the iterate after so many steps, or the last one where they end earlier."""
    return deque(islice(steps, iterations), maxlen=1)[0]


def _per_block(system: System, vectors: Tensor, solve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    out = torch.empty_like(vectors)
    for block, matrix in zip(system.blocks, system.matrices(), strict=True):
        where = slice(block.offset, block.offset + block.length)
        out[:, where] = solve(damped(matrix, system.damping), vectors[:, where].double()).to(out.dtype)
    return out


def _exact(system: System, vectors: Tensor) -> Tensor:
    return _per_block(system, vectors, cholesky)


def _cg(system: System, vectors: Tensor) -> Tensor:
    return _per_block(system, vectors, lambda h, v: after(conjugate_gradients(h, v), system.iterations))


def _lissa(system: System, vectors: Tensor) -> Tensor:
    return _per_block(system, vectors, lambda h, v: after(lissa(h, v), system.iterations))


# From the examples themselves


def _datainf(system: System, vectors: Tensor) -> Tensor:
    """The mean of inverses for the inverse of the mean (DataInf, arXiv 2310.00902).

    mean_i (phi_i phi_i^T + lambda I)^{-1} v = (v - mean_i phi_i <phi_i, v> / (lambda + |phi_i|^2)) / lambda

    A block with fewer queries than dimensions never sees a d x d matrix: the unprojected gradients of a LoRA
    adapter, for which the method is meant, are too wide for one.
    """
    n, squares = 0, torch.zeros(len(system.blocks), dtype=torch.float64, device=vectors.device)
    for rows in system.rows():
        n += len(rows)
        squares += torch.stack([part.square().sum(dtype=torch.float64) for part in _blocks_of(system, rows)])
    means = (squares / n).tolist()
    ridges = [
        ridge(mean / block.length, system.damping) for mean, block in zip(means, system.blocks, strict=True)
    ]
    queries = _blocks_of(system, vectors)
    sums = [v.new_zeros(min(v.shape), v.shape[1]) for v in queries]  # [q, d], or [d, d] where that is smaller
    for rows in system.rows():
        for total, v, phi, lam in zip(sums, queries, _blocks_of(system, rows), ridges, strict=True):
            left = v @ phi.T if len(total) == len(v) else phi.T
            total += (left / (lam + phi.square().sum(dim=1))) @ phi
    out = torch.empty_like(vectors)
    for block, total, v, lam in zip(system.blocks, sums, queries, ridges, strict=True):
        mean = (total if len(total) == len(v) else v @ total).double() / n
        out[:, block.offset : block.offset + block.length] = ((v.double() - mean) / lam).to(out.dtype)
    return out


def kronecker_factors(system: System) -> list[tuple[Tensor, Tensor]]:
    """Return G = E[Phi Phi^T] [out, out] and A = E[Phi^T Phi] [in, in] of each block, float64, in one pass.

    Phi is the block as a matrix. Both have the trace t = E|Phi|^2, and R is close to G (x) A / t where it
    is close to any Kronecker product.
    """
    shapes = system.shapes()
    sums: list[tuple[Tensor, Tensor]] = []
    n = 0
    for rows in system.rows():
        n += len(rows)
        for index, (phi, (n_out, n_in)) in enumerate(zip(_blocks_of(system, rows), shapes, strict=True)):
            phi = phi.unflatten(1, (n_out, n_in))
            by_out, by_in = phi.transpose(0, 1).reshape(n_out, -1), phi.reshape(-1, n_in)
            pair = ((by_out @ by_out.T).double(), (by_in.T @ by_in).double())
            if index == len(sums):
                sums.append(pair)
            else:
                sums[index] = (sums[index][0] + pair[0], sums[index][1] + pair[1])
    return [(g / n, a / n) for g, a in sums]


def _kfac(system: System, vectors: Tensor) -> Tensor:
    """t (G + gamma_G)^{-1} Phi (A + gamma_A)^{-1}, each gamma sqrt(damping) of its factor's mean eigenvalue.

    LoGra's form (arXiv 2405.13954); the split of the damping is Martens and Grosse's (2015, section 6.3), so
    that a large damping tends to the same multiple of the identity as in the other solvers.
    """
    out = torch.empty_like(vectors)
    for block, (g, a), (n_out, n_in) in zip(
        system.blocks, kronecker_factors(system), system.shapes(), strict=True
    ):
        where = slice(block.offset, block.offset + block.length)
        trace = float(g.trace()) or 1.0
        phi = vectors[:, where].double().unflatten(1, (n_out, n_in))
        g_inverse, a_inverse = (torch.linalg.inv(damped(f, system.damping**0.5)) for f in (g, a))
        out[:, where] = (trace * (g_inverse @ phi @ a_inverse)).flatten(1).to(out.dtype)
    return out


def _ekfac(system: System, vectors: Tensor) -> Tensor:
    """K-FAC's eigenbasis with the second moments that the examples have in it (arXiv 2308.03296)."""
    shapes = system.shapes()
    bases = [
        (torch.linalg.eigh(g).eigenvectors, torch.linalg.eigh(a).eigenvectors)
        for g, a in kronecker_factors(system)
    ]
    sums = [torch.zeros(shape, dtype=torch.float64, device=vectors.device) for shape in shapes]
    n = 0
    for rows in system.rows():
        n += len(rows)
        for total, phi, shape, (u_g, u_a) in zip(sums, _blocks_of(system, rows), shapes, bases, strict=True):
            turned = u_g.T.to(phi.dtype) @ phi.unflatten(1, shape) @ u_a.to(phi.dtype)
            total += turned.square().sum(dim=0, dtype=torch.float64)
    out = torch.empty_like(vectors)
    for block, total, shape, (u_g, u_a) in zip(system.blocks, sums, shapes, bases, strict=True):
        where = slice(block.offset, block.offset + block.length)
        second = total / n
        turned = u_g.T @ vectors[:, where].double().unflatten(1, shape) @ u_a
        solved = turned / (second + ridge(float(second.mean()), system.damping))
        out[:, where] = (u_g @ solved @ u_a.T).flatten(1).to(out.dtype)
    return out


def _blocks_of(system: System, rows: Tensor) -> list[Tensor]:
    return [rows[:, block.offset : block.offset + block.length] for block in system.blocks]


SOLVERS: dict[str, Callable[[System, Tensor], Tensor]] = {
    "exact": _exact,
    "cg": _cg,
    "lissa": _lissa,
    "datainf": _datainf,
    "kfac": _kfac,
    "ekfac": _ekfac,
}
