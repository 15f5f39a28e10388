"""Rank by stored vectors: methods that differ by a linear map and a norm, over one set of encodings.

Score of an example z for a query q: the inner product of A phi(q) and A phi(z), where phi is the encoding,
A is the identity or R^{-1/2} of a curvature R, divided by the norms that the method divides by:

    none    no norm
    vector  the norms of A phi(q) and A phi(z)
    block   in each block its own two norms, averaged over the blocks
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attrstore.errors import InputError
from attrstore.methods.base import Ranking

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from torch import Tensor

    from attrstore.encoders import Encoder
    from attrstore.methods.base import Request
    from attrstore.store import Store

CURVATURES = ("none", "corpus", "mixed")
NORMS = ("none", "vector", "block")
CURVATURE_ROWS = 65_536  # of the corpus; more would not change a matrix of some hundred rows
OPTIONS = frozenset({"encoder", "curvature", "norm", "mixing", "damping", "device"})


@dataclass(frozen=True)
class Recipe:
    """The parts of a gradient method; each can be replaced by an option of `attrstore score`."""

    curvature: str  # none, corpus, mixed
    norm: str  # none, vector, block
    mixing: float | str = "auto"  # lambda of the mixed curvature
    damping: float = 0.1  # of the mean eigenvalue


def rank(recipe: Recipe, kind: str, store: Store, request: Request) -> Ranking:
    """Rank by the recipe, as changed by the request's options, over the newest encoder of the kind."""
    encoder, recipe, device = resolve(store, recipe, kind, request.options)
    query_ids, vectors = _queries(store, encoder)
    _refuse_missing(store, encoder)
    return rank_vectors(store, encoder, recipe, query_ids, vectors.to(device), request)


def resolve(
    store: Store, recipe: Recipe, kind: str, options: Mapping[str, Any]
) -> tuple[Encoder, Recipe, torch.device]:
    """Apply a request's options: which encoder, which recipe, on which device."""
    from attrstore import encoders

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
    import torch

    from attrstore import curvature, scan

    device = vectors.device
    whitening, mixing = _whitening(store, encoder, recipe, vectors)
    blocks = encoder.blocks
    if whitening is not None:
        vectors = curvature.apply(vectors, blocks, whitening)
    vectors = _normalised(vectors, blocks, recipe.norm)
    n_selected = int(store.value("SELECT count(*) FROM selected_examples"))

    def score(chunk: scan.Chunk) -> Tensor:
        rows = chunk.directions
        if whitening is not None:
            rows = curvature.apply(rows, blocks, whitening)
        return vectors @ _scaled(rows, chunk.norms, blocks, recipe.norm).T

    def scored() -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        for chunk in scan.chunks(store, encoder, device=device):
            yield chunk.example_ids, score(chunk)
            done += len(chunk.example_ids)
            request.progress(done, n_selected)

    labelled = _labelled(store, encoder, query_ids, score, device)
    with torch.inference_mode():
        ranked, total = scan.rank(scored, query_ids, request.top_k, labelled, device)
    spec = {**asdict(recipe), "mixing": mixing, "code": encoder.code}
    return Ranking(ranked.table(), total, spec, encoder.encoder_id)


def _normalised(vectors: Tensor, blocks: Any, norm: str) -> Tensor:
    """Divide query vectors [q, D] by the norm that the method divides by."""
    import torch

    from attrstore.codes import runs_of_equal_length

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


def _scaled(rows: Tensor, norms: Tensor, blocks: Any, norm: str) -> Tensor:
    """Give each block of A direction(z) [n, D] its norm in phi(z), and divide by the method's norm."""
    import torch

    from attrstore.codes import runs_of_equal_length

    tiny = torch.finfo(rows.dtype).tiny
    factors = torch.empty_like(norms)
    squares = torch.zeros_like(norms[:, 0])
    for which, where, length in runs_of_equal_length(blocks):
        lengths = rows[:, where].unflatten(1, (-1, length)).norm(dim=2)
        squares += (norms[:, which] * lengths).square().sum(dim=1)
        factors[:, which] = 1 / lengths.clamp(min=tiny) if norm == "block" else norms[:, which]
    if norm == "vector":
        factors = factors / squares.sqrt().clamp(min=tiny).unsqueeze(1)
    out = torch.empty_like(rows)
    for which, where, length in runs_of_equal_length(blocks):
        part = rows[:, where].unflatten(1, (-1, length))
        out[:, where] = (part * factors[:, which].unsqueeze(2)).flatten(1)
    return out


def _whitening(
    store: Store, encoder: Encoder, recipe: Recipe, vectors: Tensor
) -> tuple[list[Tensor] | None, float | None]:
    """Return R^{-1/2} of each block, or None, and the lambda that was used."""
    from attrstore import curvature

    if recipe.curvature == "none":
        return None, None
    matrices = corpus_curvature(store, encoder, vectors.device)
    mixing: float | None = None
    if recipe.curvature == "mixed":
        moment = curvature.SecondMoment(encoder.blocks, vectors.device)
        _, stored = _queries(store, encoder)
        moment.add(stored.to(vectors.device))
        of_queries = moment.matrices()
        auto = recipe.mixing == "auto"
        mixing = curvature.choose_mixing(matrices, of_queries) if auto else float(recipe.mixing)
        matrices = curvature.mix(matrices, of_queries, mixing)
    return [curvature.power(m, -0.5, recipe.damping) for m in matrices], mixing


def corpus_curvature(store: Store, encoder: Encoder, device: torch.device) -> list[Tensor]:
    """Return the second moment of the corpus's encodings, block by block; kept in the store if it is small.

    It is kept when it takes less than a tenth of the codes' own bytes. On a smaller corpus reading it would
    save less than the file would grow, and it is computed anew.
    """
    import pyarrow

    from attrstore import codes, curvature, scan

    key = {"encoder": encoder.encoder_id, "side": "corpus"}
    encoded = int(
        store.value("SELECT count(code) FROM encodings WHERE encoder_id = $e", {"e": encoder.encoder_id})
    )
    one_in = max(1, encoded // CURVATURE_ROWS)
    kept = {
        block: (n, scale, matrix)
        for block, n, scale, matrix in store.named("scoring", "curvature", key).fetchall()
    }
    if kept and next(iter(kept.values()))[0] == encoded:
        return [
            curvature.unpack(kept[b.name][1], kept[b.name][2], b.length).to(device) for b in encoder.blocks
        ]
    moment = curvature.SecondMoment(encoder.blocks, device)
    for chunk in scan.chunks(store, encoder, "curvature_rows", device, one_in=one_in):
        moment.add(_scaled(chunk.directions, chunk.norms, encoder.blocks, "none"))
    if not moment.n:
        raise InputError(
            f"{store.path}: the encoder {encoder.name} has no encodings to take a curvature from."
        )
    matrices = moment.matrices()
    size = sum(block.length * (block.length + 1) for block in encoder.blocks)
    if store.writable and size * 10 < encoded * codes.CODES[encoder.code].n_bytes(encoder.dimensions):
        packed = [curvature.pack(matrix.cpu()) for matrix in matrices]
        table = pyarrow.table(
            {
                "block": [block.name for block in encoder.blocks],
                "n": pyarrow.array([encoded] * len(packed), pyarrow.int64()),
                "scale": [scale for scale, _ in packed],
                "matrix": pyarrow.array([matrix for _, matrix in packed], pyarrow.large_binary()),
            }
        )
        with store.transaction(), store.registered(moments=table):
            store.named("scoring", "drop_curvature", key)
            store.named("scoring", "insert_curvature", key)
    return matrices


def _labelled(
    store: Store, encoder: Encoder, query_ids: Sequence[int], score: Any, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (row, example_id, score) of the labelled pairs, from a pass over the labelled examples."""
    import torch

    from attrstore import scan

    row_of = {query_id: row for row, query_id in enumerate(query_ids)}
    wanted: dict[int, list[int]] = {}
    for query_id, example_id in store.named("scoring", "labelled_pairs").fetchall():
        if query_id in row_of:
            wanted.setdefault(example_id, []).append(row_of[query_id])
    rows: list[int] = []
    ids: list[int] = []
    scores: list[Tensor] = []
    for chunk in scan.chunks(store, encoder, "labelled_codes", device) if wanted else ():
        of_chunk = score(chunk)
        pairs = [(row, i) for i, e in enumerate(chunk.example_ids.tolist()) for row in wanted.get(e, [])]
        if pairs:
            in_rows, columns = (torch.tensor(part, device=device) for part in zip(*pairs, strict=True))
            scores.append(of_chunk[in_rows, columns])
            rows.extend(in_rows.tolist())
            ids.extend(chunk.example_ids[columns].tolist())
    return (
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(ids, dtype=torch.long),
        torch.cat(scores) if scores else torch.empty(0),
    )


def _queries(store: Store, encoder: Encoder) -> tuple[list[int], Tensor]:
    import torch

    rows = store.named("scoring", "query_vectors", {"encoder": encoder.encoder_id}).fetchall()
    if not rows:
        raise InputError(
            f"{store.path}: no query is encoded under {encoder.name}. First: attrstore ingest queries "
            f"{store.path} FILE, then attrstore ingest gradients again."
        )
    values = torch.frombuffer(bytearray(b"".join(vector for _, vector in rows)), dtype=torch.float32)
    return [query_id for query_id, _ in rows], values.view(len(rows), encoder.dimensions)


def _refuse_missing(store: Store, encoder: Encoder) -> None:
    ((missing,),) = store.named("scoring", "not_encoded", {"encoder": encoder.encoder_id}).fetchall()
    if missing:
        raise InputError(
            f"{store.path}: {missing:,} of the examples to rank are not encoded under {encoder.name}. "
            "Run the same attrstore ingest gradients command again: it encodes what is missing."
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
    return recipe


def _device(name: str) -> torch.device:
    import torch

    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
