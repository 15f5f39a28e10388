"""TracInCP: gradient products summed over the checkpoints of a run, each an encoder of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from attrstore.errors import InputError, flag
from attrstore.methods import linear_map
from attrstore.methods.base import Method, Ranking, Reads
from attrstore.methods.parts import Parts
from attrstore.options import option
from attrstore.statements import statement
from attrstore.vectors import encoders, stored
from attrstore.vectors.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import Tensor

    from attrstore.methods.base import Request
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder
    from attrstore.vectors.scan import Chunk

    Scorer = Callable[[Chunk], Tensor]

T = TypeVar("T")


@dataclass(frozen=True)
class TracInOptions(Parts):
    """The checkpoints, each an encoder, and how much each counts."""

    encoders: str | list[str] | tuple[str, ...] | None = option(
        None, "One encoder a checkpoint.", metavar="A,B"
    )
    weights: str | list[float] | tuple[float, ...] | None = option(
        None, "The checkpoints' learning rates.", metavar="X,Y", unset="all 1"
    )


def rank_tracincp(store: Store, request: Request) -> Ranking:
    """Sum over checkpoints of learning rate times inner product; each checkpoint is one encoder.

    The published method is that of encodings made without Kronecker whitening. An example that one of the encoders
    could not encode is left out.
    """
    options = request.options_as(TracInOptions)
    device = choose_device(options.device)
    names = _listed("encoders", options.encoders)
    weights = _weights(options.weights, len(names))
    members: list[tuple[Encoder, Scorer, float]] = []
    query_ids: list[int] = []
    spec: dict[str, object] = {}
    for name, weight in zip(names, weights, strict=True):
        encoder = encoders.choose(store, "gradient", name)
        stored.refuse_missing(store, encoder)
        stored.refuse_missing_queries(store, encoder)
        ids, phi = stored.query_vectors(store, encoder)
        if members and ids != query_ids:
            raise InputError(
                f"{store.path}: {members[0][0].name} has {len(query_ids):,} queries encoded and {encoder.name} "
                f"{len(ids):,}, not the same. Run attrstore ingest gradients again for both."
            )
        query_ids = ids
        score, spec = linear_map.scorer(store, encoder, options, phi.to(device))
        members.append((encoder, score, weight))
    encoder_ids = [encoder.encoder_id for encoder, _, _ in members]
    if len(set(encoder_ids)) < len(encoder_ids):
        raise InputError(f"{flag('encoders')} {','.join(names)}: the same encoder twice")

    def scored(name: str) -> Iterator[tuple[Tensor, Tensor]]:
        return _summed(store, members, device, labelled=name == "labelled_codes")

    pairs, total = linear_map.rank_scored(store, query_ids, scored, request, device)
    spec |= {"encoders": encoder_ids, "weights": weights}
    return Ranking(pairs, total, spec, encoder_ids[-1], query_ids=query_ids)


def _summed(
    store: Store, members: Sequence[tuple[Encoder, Scorer, float]], device: torch.device, *, labelled: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (example_ids, weighted sum of the scores), piece by piece: one connection streams one result."""
    import torch

    from attrstore.vectors import scan

    key = {"encoders": [encoder.encoder_id for encoder, _, _ in members], "labelled": labelled}
    common = store.sql(statement("scoring", "common_examples"), key).to_arrow_table()
    size = min(scan.rows_at_once(encoder) for encoder, _, _ in members)
    for start in range(0, len(common), size):
        piece = common.slice(start, size)
        total = torch.zeros((), device=device)
        with store.registered(piece=piece):
            for encoder, score, weight in members:
                parts = [score(chunk) for chunk in scan.chunks(store, encoder, "piece_codes", device)]
                total = total + weight * torch.cat(parts, dim=1)
        yield torch.from_numpy(piece.column(0).to_numpy().copy()).to(device), total


def _listed(name: str, value: str | Sequence[T] | None) -> list[str] | list[T]:
    """Split `a,b,c`; a list is taken as it is."""
    if value is None:
        raise InputError(f"{flag(name)}: needed, one for each checkpoint, with commas between them")
    items: list[str] | list[T]
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if not all(str(item) for item in items) or not items:
        raise InputError(f"{flag(name)} {value}: names with commas between them, none empty")
    return items


def _weights(value: str | Sequence[float] | None, n: int) -> list[float]:
    """Read the learning rates of the checkpoints; all 1 if not given."""
    if value is None:
        return [1.0] * n
    try:
        weights = [float(item) for item in _listed("weights", value)]
    except ValueError as error:
        raise InputError(f"{flag('weights')} {value}: numbers with commas between them") from error
    if not all(map(math.isfinite, weights)):
        raise InputError(f"{flag('weights')} {value}: numbers with commas between them")
    if len(weights) != n:
        raise InputError(f"{flag('weights')} {value}: {len(weights)} for {n} encoders; give one for each")
    return weights


TRACINCP = Method(
    name="tracincp",
    family="influence",
    paper="Pruthi et al. 2020 (TracInCP), arXiv 2002.08484",
    reads=Reads("gradient", several=True),
    cost="one scan a checkpoint",
    when="Several checkpoints of the run are at hand: --encoders and their learning rates.",
    rank=rank_tracincp,
    options=TracInOptions(),
    differs="An example's loss is the sum over its tokens.",
    takes=("encoders", "weights", "norm", "curvature", "mixing", "damping", "device"),
)
