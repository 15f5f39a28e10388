"""LESS: plain gradients of queries against Adam-scaled gradients of examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attrstore.errors import InputError, MismatchError, flag
from attrstore.methods import linear_map
from attrstore.methods.base import Method, Ranking, Reads
from attrstore.methods.parts import Parts
from attrstore.options import option
from attrstore.vectors import encoders, stored
from attrstore.vectors.devices import choose_device

if TYPE_CHECKING:
    from attrstore.methods.base import Request
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

# What must be the same for two encoders to project onto the same directions.
SAME_PROJECTION = ("model", "projection_dim", "modules", "seed", "blocks", "kronecker", "rank")


@dataclass(frozen=True)
class LessOptions(Parts):
    """The examples' encoder and the queries'."""

    query_encoder: str | None = option(
        None, "The encoder without correction.", unset="the first that projects as the examples' does"
    )


def rank_less(store: Store, request: Request) -> Ranking:
    """Cosine between plain gradients of queries and Adam-scaled gradients of examples.

    Adam's direction is the gradient over the root of the second moment; its momentum, which no single
    example has, is left out.
    """
    options = request.options_as(LessOptions)
    device = choose_device(options.device)
    encoder = encoders.choose(store, "gradient", options.encoder, fits=_corrected)
    unscaled = plain(store, encoder, options.query_encoder)
    stored.refuse_missing(store, encoder)
    stored.refuse_missing_queries(store, unscaled)
    query_ids, phi = stored.query_vectors(store, unscaled)
    ranking = linear_map.rank_vectors(store, encoder, options, query_ids, phi.to(device), request)
    return replace(ranking, spec={**ranking.spec, "query_encoder": unscaled.encoder_id})


def _corrected(encoder: Encoder) -> bool:
    return encoder.spec["correction"] != "none" and encoder.spec["kronecker"] is None


def plain(store: Store, encoder: Encoder, wanted: str | None = None) -> Encoder:
    """Return the uncorrected encoder that projects as `encoder` does: the one asked for, or the first that was made.

    Raises `InputError` where there is none, `MismatchError` where the one asked for projects otherwise.
    """
    how = "attrstore ingest gradients, once with --optimizer-state FILE and once without, never with --kronecker"
    if not _corrected(encoder):
        raise InputError(
            f"{flag('encoder')} {encoder.name}: less wants the examples' gradients corrected by the optimizer's state, "
            f"without Kronecker whitening. Make both sides: {how}."
        )
    fitting = [
        other
        for other in encoders.load_all(store, "gradient")
        if other.spec["correction"] == "none"
        and all(other.spec.get(key) == encoder.spec.get(key) for key in SAME_PROJECTION)
    ]
    if wanted is None:
        if not fitting:
            raise InputError(
                f"{store.path}: no uncorrected encoder projects as {encoder.name} does. Make one: {how}."
            )
        return fitting[0]
    asked = encoders.choose(store, "gradient", wanted)
    if asked not in fitting:
        keys = ("correction", *SAME_PROJECTION)
        there = ", ".join(f"{key} {asked.spec.get(key)} and {encoder.spec.get(key)}" for key in keys)
        raise MismatchError(
            f"{flag('query_encoder')} {asked.name}: does not go with {encoder.name}: {there}. All "
            f"but the correction must "
            "be the same, and the queries' must be none."
        )
    return asked


LESS = Method(
    name="less",
    family="influence",
    paper="Xia et al. 2024 (LESS), arXiv 2402.04333",
    reads=Reads("gradient", "both"),
    cost="one scan; two ingests",
    when="To select training data as LESS does: Adam's direction for the examples, cosine.",
    rank=rank_less,
    options=LessOptions(norm="vector"),
    differs="Adam's momentum, which no one example has, is left out; one checkpoint, not a sum over several.",
    takes=("encoder", "query_encoder", "norm", "device"),
)
