"""Rank by stored vectors: methods that differ by a linear map and a norm, over one set of encodings.

Score of an example z for a query q: the inner product of A phi(q) and A phi(z), where phi is the encoding,
A is the identity or R^{-1/2} of a curvature R, divided by the norms that the method divides by:

    none    no norm
    vector  the norms of A phi(q) and A phi(z)
    block   in each block its own two norms, averaged over the blocks

With a solver (`attrstore.vectors.solvers`) the map is on the query's side only: the score is that of H^{-1} phi(q) and
phi(z), with the norms of these two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attrstore.errors import InputError
from attrstore.methods.base import Ranking
from attrstore.vectors import stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow
    import torch
    from torch import Tensor

    from attrstore.methods.base import Request
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder
    from attrstore.vectors.products import Products
    from attrstore.vectors.scan import Chunk
    from attrstore.vectors.solvers import System

CURVATURES = ("none", "corpus", "mixed")
NORMS = ("none", "vector", "block")
TINY = 1e-30
OPTIONS = frozenset({"encoder", "curvature", "norm", "mixing", "damping", "device"})


@dataclass(frozen=True)
class Recipe:
    """The parts of a gradient method; each can be replaced by an option of `attrstore score`."""

    curvature: str  # none, corpus, mixed
    norm: str  # none, vector, block
    mixing: float | str = "auto"  # lambda of the mixed curvature
    damping: float = 0.1  # of the mean eigenvalue
    solver: str | None = (
        None  # of attrstore.vectors.solvers: H^{-1} on the queries instead of R^{-1/2} on both sides
    )
    iterations: int | None = None  # of the solver, if it iterates


def rank(recipe: Recipe, kind: str, store: Store, request: Request) -> Ranking:
    """Rank by the recipe, as changed by the request's options, over the newest encoder of the kind."""
    encoder, recipe, device = resolve(store, recipe, kind, request.options)
    query_ids, vectors = stored.query_vectors(store, encoder)
    stored.refuse_missing(store, encoder)
    return rank_vectors(store, encoder, recipe, query_ids, vectors.to(device), request)


def resolve(
    store: Store, recipe: Recipe, kind: str, options: Mapping[str, Any]
) -> tuple[Encoder, Recipe, torch.device]:
    """Apply a request's options: which encoder, which recipe, on which device."""
    from attrstore.vectors import encoders

    changed = dict(options)
    device = _device(changed.pop("device", "auto"))
    encoder = encoders.choose(store, kind, changed.pop("encoder", None))
    return encoder, _checked(Recipe(**{**asdict(recipe), **changed})), device


def rank_vectors(
    store: Store,
    encoder: Encoder,
    recipe: Recipe,
    query_ids: Sequence[int],
    vectors: Tensor,
    request: Request,
) -> Ranking:
    """Rank the selected examples for query vectors [q, D], which need not be in the store."""
    from attrstore.vectors import scan

    score, spec = scorer(store, encoder, recipe, vectors)

    def scored(statement: str) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in scan.chunks(store, encoder, statement, vectors.device):
            yield chunk.example_ids, score(chunk)

    ranked, total = rank_scored(store, query_ids, scored, request, vectors.device)
    spec |= {"code": encoder.code}
    return Ranking(ranked, total, spec, encoder.encoder_id, query_ids=query_ids)


def scorer(
    store: Store, encoder: Encoder, recipe: Recipe, vectors: Tensor
) -> tuple[Callable[[Chunk], Tensor], dict[str, Any]]:
    """Prepare the query side: what scores a chunk for all queries [q, n], and the recipe as it was applied."""
    from attrstore.vectors import curvature, products
    from attrstore.vectors.kept import KeptWeights

    blocks = encoder.blocks
    whitening: list[Tensor] | None = None
    mixing: float | None = None
    if recipe.solver is not None:
        vectors, mixing = _solved(store, encoder, recipe, vectors)
    elif recipe.curvature != "none":
        matrices, mixing = _curvature(store, encoder, recipe, vectors.device)
        whitening = [curvature.power(m, -0.5, recipe.damping) for m in matrices]
        vectors = curvature.apply(vectors, blocks, whitening)
    vectors = _normalised(vectors, blocks, recipe.norm)
    if whitening is not None:
        # <A q, A z> = <A A q, z>: only the lengths of A z are left to the examples' side.
        vectors = curvature.apply(vectors, blocks, whitening)
    prepared = products.prepare(encoder, vectors)
    kept = KeptWeights(store, encoder, recipe.norm, prepared.units, whitening)

    def score(chunk: Chunk) -> Tensor:
        prepared.load(chunk)
        weights = kept.of(chunk, lambda: _weights(prepared, chunk, whitening, recipe.norm))
        return prepared.scores(weights)

    return score, {**asdict(recipe), "mixing": mixing}


def _weights(prepared: Products, chunk: Chunk, whitening: list[Tensor] | None, norm: str) -> Tensor:
    """Return what each block of a code weighs in its example's score: [n, B].

    A code c stands for phi = |phi| c / |c|, block by block; the score divides A phi by the method's norm.
    """
    import torch

    if norm == "block":
        return 1 / prepared.lengths(whitening).clamp(min=TINY)
    own = prepared.lengths(None)
    weights = chunk.scales.contiguous().view(torch.bfloat16).float() / own.clamp(min=TINY)
    if norm == "vector":
        after = prepared.lengths(whitening) if whitening is not None else own
        whole = torch.linalg.vector_norm(weights * after, dim=1, keepdim=True)
        weights /= whole.clamp(min=TINY)
    return weights


def rank_scored(
    store: Store,
    query_ids: Sequence[int],
    scored: Callable[[str], Iterator[tuple[Tensor, Tensor]]],
    request: Request,
    device: torch.device,
) -> tuple[pyarrow.Table, int]:
    """Rank a stream of (example_ids [n], scores [q, n]); return the pairs and how many were ranked.

    Args:
        scored: starts the stream over the examples of a statement of `sql/statements/scoring.sql`: `encoded`, and
            `labelled_codes` for the labelled ones, whose exact ranks are wanted.
    """
    import torch

    from attrstore.vectors import scan

    n_selected = int(store.value("SELECT count(*) FROM selected_examples"))

    def watched() -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        for ids, scores in scored("encoded"):
            yield ids, scores
            done += len(ids)
            request.progress(done, n_selected)

    with torch.inference_mode(), store.cache_of(scan.CACHE_BYTES):
        labelled = _labelled(store, query_ids, scored, device)
        ranked, total = scan.rank(
            watched, query_ids, request.top_k, labelled, device, opponents=request.opponents
        )
    return ranked.table(), total


def _normalised(vectors: Tensor, blocks: Any, norm: str) -> Tensor:
    """Divide query vectors [q, D] by the norm that the method divides by."""
    import torch

    from attrstore.vectors.codes import runs_of_equal_length

    tiny = torch.finfo(vectors.dtype).tiny
    if norm == "vector":
        whole: Tensor = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=tiny)
        return whole
    if norm == "none":
        return vectors
    out = torch.empty_like(vectors)
    for _, where, length in runs_of_equal_length(blocks):
        part = vectors[:, where].unflatten(1, (-1, length))
        out[:, where] = (part / part.norm(dim=2, keepdim=True).clamp(min=tiny)).flatten(1) / len(blocks)
    return out


def _curvature(
    store: Store, encoder: Encoder, recipe: Recipe, device: torch.device
) -> tuple[list[Tensor], float | None]:
    """Return R of each block, and the lambda that was used if it is a mixture."""
    from attrstore.vectors import curvature

    matrices = stored.corpus_curvature(store, encoder, device)
    if recipe.curvature != "mixed":
        return matrices, None
    moment = curvature.SecondMoment(encoder.blocks, device)
    _, of_store = stored.query_vectors(store, encoder)
    moment.add(of_store.to(device))
    of_queries = moment.matrices()
    auto = recipe.mixing == "auto"
    mixing = curvature.choose_mixing(matrices, of_queries) if auto else float(recipe.mixing)
    return curvature.mix(matrices, of_queries, mixing), mixing


def _solved(store: Store, encoder: Encoder, recipe: Recipe, vectors: Tensor) -> tuple[Tensor, float | None]:
    """Return H^{-1} phi(q) [q, D] by the recipe's solver, and the lambda of a mixed curvature."""
    from attrstore.vectors import solvers

    mixing: list[float | None] = [None]

    def matrices() -> list[Tensor]:
        found, mixing[0] = _curvature(store, encoder, recipe, vectors.device)
        return found

    inverted = solvers.SOLVERS[str(recipe.solver)]
    return inverted(system(store, encoder, recipe, vectors.device, matrices), vectors), mixing[0]


def system(
    store: Store,
    encoder: Encoder,
    recipe: Recipe,
    device: torch.device,
    matrices: Callable[[], Sequence[Tensor]],
) -> System:
    """Return what a solver asks for; `matrices` gives the curvature if it does."""
    from attrstore.vectors import solvers

    return solvers.System(
        blocks=encoder.blocks,
        shapes=lambda: [encoder.shape(block) for block in encoder.blocks],
        matrices=matrices,
        rows=lambda: stored.corpus_rows(store, encoder, device),
        damping=recipe.damping,
        iterations=recipe.iterations or 0,
    )


def _labelled(
    store: Store,
    query_ids: Sequence[int],
    scored: Callable[[str], Iterator[tuple[Tensor, Tensor]]],
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (row, example_id, score) of the labelled pairs, from a pass over the labelled examples."""
    import torch

    row_of = {query_id: row for row, query_id in enumerate(query_ids)}
    wanted: dict[int, list[int]] = {}
    for query_id, example_id in store.named("scoring", "labelled_pairs").fetchall():
        if query_id in row_of:
            wanted.setdefault(example_id, []).append(row_of[query_id])
    rows: list[int] = []
    ids: list[int] = []
    scores: list[Tensor] = []
    for example_ids, of_chunk in scored("labelled_codes") if wanted else ():
        pairs = [(row, i) for i, e in enumerate(example_ids.tolist()) for row in wanted.get(e, [])]
        if pairs:
            in_rows, columns = (torch.tensor(part, device=device) for part in zip(*pairs, strict=True))
            scores.append(of_chunk[in_rows, columns])
            rows.extend(in_rows.tolist())
            ids.extend(example_ids[columns].tolist())
    return (
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(ids, dtype=torch.long),
        torch.cat(scores) if scores else torch.empty(0),
    )


def _checked(recipe: Recipe) -> Recipe:
    for option, value, allowed in (
        ("--curvature", recipe.curvature, CURVATURES),
        ("--norm", recipe.norm, NORMS),
    ):
        if value not in allowed:
            raise InputError(f"{option} {value}: there is no such choice; there are {', '.join(allowed)}")
    if recipe.mixing != "auto" and not 0 <= float(recipe.mixing) <= 1:
        raise InputError(f"--mixing {recipe.mixing}: must be between 0 and 1, or auto")
    if recipe.damping < 0:
        raise InputError(f"--damping {recipe.damping}: must not be negative")
    if recipe.solver is not None:
        _check_solver(recipe)
    return recipe


def _check_solver(recipe: Recipe) -> None:
    if recipe.curvature == "none":
        raise InputError("--curvature none: there is nothing to invert. Use the method dot or cosine.")
    if recipe.damping == 0:
        raise InputError("--damping 0: the inverse needs a damping above 0")
    if recipe.iterations is not None and recipe.iterations < 1:
        raise InputError(f"--iterations {recipe.iterations}: must be at least 1")


def _device(name: str) -> torch.device:
    import torch

    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
