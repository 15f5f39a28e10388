"""Measure how far each way to invert the curvature is from the exact inverse, on the store's own queries.

"Do Influence Functions Work on Large Language Models?" (arXiv 2409.19998) names the error of the inverse-Hessian
product as one reason why they fail; this says how large it is here, and how it falls with iterations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Unpack

from attrstore.evaluation.options import DiagnoseOptions
from attrstore.progress import Progress, silent
from attrstore.runs import recorded, writes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from torch import Tensor

    from attrstore.evaluation.options import DiagnoseFields
    from attrstore.store import Store
    from attrstore.vectors.encoders import Block
    from attrstore.vectors.solvers import System

QUERIES = 256  # at most; a mean over more says the same


class Residual(NamedTuple):
    """One block under one way to invert; the columns of the table `residuals`."""

    method: str
    iterations: int | None
    block: str
    n_queries: int
    residual: float
    cosine: float


@writes
def diagnose(
    store: Store,
    options: DiagnoseOptions | None = None,
    *,
    progress: Progress = silent,
    **fields: Unpack[DiagnoseFields],
) -> list[tuple[Any, ...]]:
    """Write the table `residuals` for an encoder and a damping, and return its rows of `residual_report`.

    Args:
        options: of which encoder, with which damping; the default ones, if not given.
        progress: called with the blocks measured and those to measure.
        fields: of the options, `DiagnoseOptions`, that are to be otherwise: `iterations=[1, 10]`.

    Raises:
        InputError: nothing is encoded, or an option is out of range.
    """
    import pyarrow

    from attrstore.methods import inverse, linear_map
    from attrstore.vectors import encoders, stored
    from attrstore.vectors.devices import choose_device

    asked = replace(options or DiagnoseOptions(), **fields)
    damping = asked.damping
    parts = replace(inverse.PARTS["influence"], damping=damping)
    placed = choose_device(asked.device)
    chosen = encoders.choose(store, "gradient", asked.encoder)
    with recorded(store, "diagnose", encoder=chosen.encoder_id, damping=damping) as run:
        _, phi = stored.query_vectors(store, chosen)
        matrices = stored.corpus_curvature(store, chosen, placed)
        system = linear_map.system(store, chosen, parts, placed, lambda: matrices)
        found = list(_measure(system, phi[:QUERIES].to(placed), asked.steps, progress))
        key = {"encoder": chosen.encoder_id, "damping": damping}
        columns = zip(*found, strict=True)
        table = pyarrow.table(dict(zip(Residual._fields, map(list, columns), strict=True)))
        with store.transaction(), store.registered(measured=table):
            store.named("diagnostics", "drop_residuals", key)
            store.named("diagnostics", "insert_residuals", key)
        run.rows = len(found)
    key = {"encoder": chosen.name, "damping": damping}
    return store.named("diagnostics", "residuals", key).fetchall()


def _measure(
    system: System, phi: Tensor, iterations: Sequence[int], progress: Progress
) -> Iterator[Residual]:
    from attrstore.vectors import solvers

    closed = {name: solvers.SOLVERS[name](system, phi) for name in ("datainf", "kfac", "ekfac")}
    for done, (block, matrix) in enumerate(zip(system.blocks, system.matrices(), strict=True)):
        part = slice(block.offset, block.offset + block.length)
        used = phi[:, part].norm(dim=1) > 0
        if not used.any():
            continue
        vectors = phi[used, part].double()
        h = solvers.damped(matrix, system.damping)
        exact = solvers.cholesky(h, vectors)
        yield _residual("exact", None, block, h, vectors, exact, exact)
        yield _residual("identity", None, block, h, vectors, vectors / h.diagonal().mean(), exact)
        for name, psi in closed.items():
            yield _residual(name, None, block, h, vectors, psi[used, part].double(), exact)
        for name, steps in (("cg", solvers.conjugate_gradients), ("lissa", solvers.lissa)):
            for n, psi in _looked_at(steps(h, vectors), iterations):
                yield _residual(name, n, block, h, vectors, psi, exact)
        progress(done + 1, len(system.blocks))


def _looked_at(steps: Iterator[Tensor], iterations: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Yield (n, iterate) for the wanted n, ascending; a solver that has converged stays where it is."""
    current = next(steps)
    n = 1
    for wanted in iterations:
        while n < wanted:
            current = next(steps, current)
            n += 1
        yield wanted, current


def _residual(
    method: str,
    iterations: int | None,
    block: Block,
    h: Tensor,
    vectors: Tensor,
    psi: Tensor,
    exact: Tensor,
) -> Residual:
    residual = (psi @ h - vectors).norm(dim=1) / vectors.norm(dim=1)
    cosine = (psi / psi.norm(dim=1, keepdim=True) * exact / exact.norm(dim=1, keepdim=True)).sum(dim=1)
    return Residual(
        method, iterations, block.name, len(vectors), float(residual.mean()), float(cosine.mean())
    )
