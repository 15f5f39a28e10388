"""Rank by stored vectors: methods that differ by a linear map and a norm, over one set of encodings.

Score of an example z for a query q: the inner product of A phi(q) and A phi(z), where phi is the encoding,
A is the identity or R^{-1/2} of a curvature R, divided by the norms that the method divides by. (R^{-1/2} stands for
any W^T with W W^T = R^{-1}: products and norms are the same.)

    none    no norm
    vector  the norms of A phi(q) and A phi(z)
    block   in each block its own two norms, averaged over the blocks

With a solver (`attrstore.vectors.solvers`) the map is on the query's side only: the score is that of H^{-1} phi(q) and
phi(z), with the norms of these two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrstore.methods.base import Ranking
from attrstore.methods.parts import Parts
from attrstore.vectors import encoders, stored
from attrstore.vectors.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow
    import torch
    from torch import Tensor

    from attrstore.methods.base import Request
    from attrstore.store import Store
    from attrstore.vectors.encoders import Block, Encoder
    from attrstore.vectors.products import Products
    from attrstore.vectors.scan import Chunk
    from attrstore.vectors.solvers import System

TINY = 1e-30


def rank(kind: str, store: Store, request: Request) -> Ranking:
    """Rank by the request's `Parts`, over the encoder that they name or the first of the kind."""
    parts = request.options_as(Parts)
    device = choose_device(parts.device)
    encoder = encoders.choose(store, kind, parts.encoder)
    query_ids, vectors = stored.query_vectors(store, encoder)
    stored.refuse_missing_queries(store, encoder)
    stored.refuse_missing(store, encoder)
    return rank_vectors(store, encoder, parts, query_ids, vectors.to(device), request)


def rank_vectors(
    store: Store,
    encoder: Encoder,
    parts: Parts,
    query_ids: Sequence[int],
    vectors: Tensor,
    request: Request,
) -> Ranking:
    """Rank the selected examples for query vectors [q, D], which need not be in the store."""
    from attrstore.vectors import scan

    side, spec = asked_side(store, encoder, parts, vectors)
    score = side.scorer(store)

    def scored(statement: str) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in scan.chunks(store, encoder, statement, vectors.device):
            yield chunk.example_ids, score(chunk)

    ranked, total = rank_scored(store, query_ids, scored, request, vectors.device, side)
    spec |= {"code": encoder.code}
    return Ranking(ranked, total, spec, encoder.encoder_id, query_ids=query_ids)


@dataclass(frozen=True)
class Side:
    """The queries' side of a score, ready to be held against codes."""

    encoder: Encoder
    norm: str
    vectors: Tensor  # [q, D]: what is multiplied with phi(z); of low rank phi(q)
    # W of each block, a square root of R^{-1}; of low rank those of each block's two factors
    whitening: Sequence[Tensor] | None = None
    curved: bool = False  # a curvature's inverse is in the vectors

    def scorer(self, store: Store) -> Callable[[Chunk], Tensor]:
        """Return what scores a chunk for all queries: [q, n]."""
        from attrstore.vectors import low_rank, low_rank_scores, products
        from attrstore.vectors.kept import KeptWeights

        if self.encoder.rank is not None:
            laid_out = low_rank.layout_of(store, self.encoder)
            return low_rank_scores.scorer(self.encoder, self.norm, self.vectors, laid_out, self.whitening)
        prepared = products.prepare(self.encoder, self.vectors, curved=self.curved)
        kept = KeptWeights(store, self.encoder, self.norm, prepared.units, self.whitening)

        def score(chunk: Chunk) -> Tensor:
            prepared.load(chunk)
            weights = kept.of(chunk, lambda: _weights(prepared, chunk, self.whitening, self.norm))
            return prepared.scores(weights)

        return score


def asked_side(
    store: Store, encoder: Encoder, parts: Parts, vectors: Tensor
) -> tuple[Side, dict[str, object]]:
    """Prepare the queries' side for phi(q) [q, D]; return it, and the parts as they were applied."""
    from attrstore.vectors import low_rank, low_rank_curvature

    if encoder.rank is not None:
        if parts.solver not in (None, "kfac"):
            low_rank.refuse(encoder, f"the solver of {parts.solver}")
        if parts.curvature == "none":
            return Side(encoder, parts.norm, vectors), {**parts.spec, "mixing": None}
        _, of_store = stored.query_vectors(store, encoder)
        # A solver's damping is R's, half of it in the exponent for each factor (`solvers.SOLVERS["kfac"]`).
        damping = parts.damping if parts.solver is None else parts.damping**0.5
        roots, mixing = low_rank_curvature.whitening(
            store, encoder, parts.curvature, parts.mixing, damping, of_store.to(vectors.device)
        )
        spec = {**parts.spec, "mixing": mixing}
        if parts.solver is not None:
            return Side(encoder, parts.norm, low_rank_curvature.solved(encoder, vectors, roots)), spec
        return Side(encoder, parts.norm, vectors, roots), spec
    vectors, whitening, mixing = query_side(store, encoder, parts, vectors)
    curved = parts.curvature != "none"
    return Side(encoder, parts.norm, vectors, whitening, curved), {**parts.spec, "mixing": mixing}


def scorer(
    store: Store, encoder: Encoder, parts: Parts, vectors: Tensor
) -> tuple[Callable[[Chunk], Tensor], dict[str, object]]:
    """Return what scores a chunk for all queries [q, n], and the parts as they were applied."""
    side, spec = asked_side(store, encoder, parts, vectors)
    return side.scorer(store), spec


def query_side(
    store: Store, encoder: Encoder, parts: Parts, vectors: Tensor, whole: Tensor | None = None
) -> tuple[Tensor, list[Tensor] | None, float | None]:
    """Return what is multiplied with phi(z) [q, D], the whitening W of each block if any, and the lambda.

    Args:
        vectors: phi(q), or shares of one query's.
        whole: that query's phi [1, D]: its norms are divided by, so that the shares still sum to it.
    """
    from attrstore.vectors import curvature

    whitening: list[Tensor] | None = None
    mixing: float | None = None
    n = len(vectors)
    if whole is not None:
        import torch

        vectors = torch.cat([vectors, whole])
    if parts.solver is not None:
        vectors, mixing = _solved(store, encoder, parts, vectors)
    elif parts.curvature != "none":
        matrices, mixing = _curvature(store, encoder, parts, vectors.device)
        whitening = [curvature.whitening(m, parts.damping) for m in matrices]
        vectors = curvature.apply(vectors, encoder.blocks, whitening)
    vectors = _normalised(vectors[:n], encoder.blocks, parts.norm, vectors[n:])
    if whitening is not None:
        # <W^T q, W^T z> = <W W^T q, z>: only the lengths of W^T z are left to the examples' side.
        vectors = curvature.apply(vectors, encoder.blocks, [matrix.T for matrix in whitening])
    return vectors, whitening, mixing


def _weights(prepared: Products, chunk: Chunk, whitening: Sequence[Tensor] | None, norm: str) -> Tensor:
    """Return what each block of a code weighs in its example's score: [n, B].

    A code c stands for phi = |phi| c / |c|, block by block; the score divides A phi by the method's norm. A block
    of no length weighs nothing, whatever its code says.
    """
    import torch

    norms = chunk.scales.contiguous().view(torch.bfloat16).float()
    if norm == "block":
        return _inverse(prepared.lengths(whitening)) * (norms > 0)
    own = prepared.lengths(None)
    weights = norms * _inverse(own)
    if norm == "vector":
        after = prepared.lengths(whitening) if whitening is not None else own
        whole = torch.linalg.vector_norm(weights * after, dim=1, keepdim=True)
        weights = weights * _inverse(whole)
    return weights


def _inverse(lengths: Tensor) -> Tensor:
    """Return 1 / length, and 0 for no length: 1 / TINY would drown the other weights of its block when rounded."""
    import torch

    return torch.where(lengths > TINY, 1 / lengths, 0.0)


def rank_scored(
    store: Store,
    query_ids: Sequence[int],
    scored: Callable[[str], Iterator[tuple[Tensor, Tensor]]],
    request: Request,
    device: torch.device,
    side: Side | None = None,
) -> tuple[pyarrow.Table, int]:
    """Rank a stream of (example_ids [n], scores [q, n]); return the pairs and how many were ranked.

    Args:
        scored: starts the stream over the examples of a statement of `sql/statements/scoring.sql`: `encoded`, and
            `labelled_codes` for the labelled ones, whose exact ranks are wanted.
        side: what scores the codes, where the stream is a scan that may be made elsewhere.
    """
    import torch

    from attrstore.vectors import scan
    from attrstore.vectors.ends import Ends

    n_selected = int(store.value("SELECT count(*) FROM selected_examples"))
    with torch.inference_mode(), store.cache_of(scan.CACHE_BYTES):
        labelled = _labelled(store, query_ids, scored, device)
        ends = Ends(query_ids, request.top_k, labelled, device, opponents=request.opponents)
        if request.elsewhere is not None and side is not None:
            for part in request.elsewhere(store, side, ends):
                ends.merge(part)
                request.progress(ends.total, n_selected)
            return ends.ranked().table(), ends.total
        for ids, scores in scored("encoded"):
            ends.add(ids, scores)
            if request.observe is not None:
                request.observe(ids, scores)
            request.progress(ends.total, n_selected)
    return ends.ranked().table(), ends.total


def _normalised(vectors: Tensor, blocks: Sequence[Block], norm: str, of: Tensor) -> Tensor:
    """Divide vectors [q, D] by the norm that the method divides by: their own, or that of `of` if it has a row."""
    import torch

    from attrstore.vectors.codes import runs_of_equal_length

    of = of if len(of) else vectors
    tiny = torch.finfo(vectors.dtype).tiny
    if norm == "vector":
        scaled: Tensor = vectors / of.norm(dim=1, keepdim=True).clamp(min=tiny)
        return scaled
    if norm == "none":
        return vectors
    out = torch.empty_like(vectors)
    for _, where, length in runs_of_equal_length(blocks):
        part, whole = (v[:, where].unflatten(1, (-1, length)) for v in (vectors, of))
        out[:, where] = (part / whole.norm(dim=2, keepdim=True).clamp(min=tiny)).flatten(1) / len(blocks)
    return out


def _curvature(
    store: Store, encoder: Encoder, parts: Parts, device: torch.device
) -> tuple[list[Tensor], float | None]:
    """Return R of each block, and the lambda that was used if it is a mixture."""
    from attrstore.vectors import curvature

    matrices = stored.corpus_curvature(store, encoder, device)
    if parts.curvature != "mixed":
        return matrices, None
    moment = curvature.SecondMoment(encoder.blocks, device)
    _, of_store = stored.query_vectors(store, encoder)
    moment.add(of_store.to(device))
    of_queries = moment.matrices()
    auto = parts.mixing == "auto"
    mixing = curvature.choose_mixing(matrices, of_queries) if auto else float(parts.mixing)
    return curvature.mix(matrices, of_queries, mixing), mixing


def _solved(store: Store, encoder: Encoder, parts: Parts, vectors: Tensor) -> tuple[Tensor, float | None]:
    """Return H^{-1} phi(q) [q, D] by the parts' solver, and the lambda of a mixed curvature."""
    from attrstore.vectors import solvers

    mixing: list[float | None] = [None]

    def matrices() -> list[Tensor]:
        found, mixing[0] = _curvature(store, encoder, parts, vectors.device)
        return found

    inverted = solvers.SOLVERS[str(parts.solver)]
    return inverted(system(store, encoder, parts, vectors.device, matrices), vectors), mixing[0]


def system(
    store: Store,
    encoder: Encoder,
    parts: Parts,
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
        damping=parts.damping,
        iterations=parts.iterations or 0,
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
