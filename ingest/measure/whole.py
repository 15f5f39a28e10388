"""Whole gradients of an encoder's recipe, from which model, by which methods, in which metric."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

from attrstore.errors import InputError, MismatchError, flag
from attrstore.ingest.encode import fitted, gradients, projection
from attrstore.ingest.measure import ekfac
from attrstore.ingest.measure.exact import ExactGradients, Solve
from attrstore.ingest.measure.gauss_newton import GaussNewton, solve
from attrstore.ingest.model import linear, optimizer

if TYPE_CHECKING:
    from typing import Any

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.measure.options import Source
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder


# What an encoder's gradients depend on; its projection and its code are not among it.
RECIPE = (
    "model", "tokenizer", "correction", "optimizer_state", "modules", "blocks", "dtype", "context", "long", "loss",
    "chat_template",
)  # fmt: skip


class Opened(NamedTuple):
    """What computes the products of one recipe."""

    recipe: str  # a digest of what they depend on
    loaded: LoadedModel
    exact: ExactGradients
    spec: dict[str, Any]  # of the curvature, for the scoring
    solve: Solve | None = None  # what stands for the queries, where it is not their gradients


def open_gradients(store: Store, encoder: Encoder, source: Source, curvature: str = "none") -> Opened:
    """Load the encoder's model and its correction; fit or load the curvature.

    Raises:
        InputError: the encoder's gradients are not to be had from a model, or the curvature is not of them.
        MismatchError: the folder holds another model, or the file another optimizer state.
    """
    loaded, maps, corrections = _corrected(store, encoder, source)
    block_of = gradients.block_of(encoder.spec["blocks"])
    recipe = _digest({key: encoder.spec[key] for key in RECIPE if key in encoder.spec})
    if curvature == "none":
        return Opened(recipe, loaded, ExactGradients(loaded.model, maps, corrections, block_of), {})
    sample = ekfac.sample_of(store, encoder, loaded, source.curvature_sample)
    found, of = ekfac.load_or_fit(store, recipe, loaded.model, maps, corrections, sample)
    spec: dict[str, Any] = {"damping": source.damping, "curvature_sample": source.curvature_sample}
    if curvature == "ekfac":
        curved = {name: of_map.curved(source.damping) for name, of_map in found.items()}
        exact = ExactGradients(loaded.model, maps, corrections, block_of, curved)
        return Opened(_digest([recipe, of, spec]), loaded, exact, spec)
    spec |= {"cg_sample": source.cg_sample, "iterations": source.iterations}
    few = ekfac.sample_of(store, encoder, loaded, min(source.cg_sample, source.curvature_sample))
    matrix = GaussNewton(loaded.model, maps, corrections, few)
    return Opened(
        _digest([recipe, of, spec]), loaded, ExactGradients(loaded.model, maps, corrections, block_of), spec,
        lambda vectors: solve(matrix, found, source.damping, source.iterations, vectors),
    )  # fmt: skip


def _digest(of: object) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]


def _corrected(
    store: Store, encoder: Encoder, source: Source
) -> tuple[LoadedModel, list[LinearMap], dict[str, Projection]]:
    """Load the encoder's model and its correction."""
    gradients.refuse_imported(encoder)
    spec = encoder.spec
    if spec["kronecker"] is not None:
        raise InputError(
            f"{encoder.name}: made with {flag('kronecker', 'kronecker_factors')}, whose whitening is part of "
            f"its projection and not kept apart. Give {flag('encoder')} NAME of one that was made without."
        )
    loaded = gradients.known_model(store, encoder, source.model, source.device)
    maps = linear.find(loaded.model, spec["modules"])
    moments: dict[str, optimizer.Moment] = {}
    if spec["correction"] == "full":
        if source.optimizer_state is None:
            raise InputError(
                f"{encoder.name}: made with {flag('correction')} full, which the store does not keep. Give "
                f"{flag('optimizer_state')} FILE."
            )
        moments = optimizer.second_moments(source.optimizer_state, loaded.model, maps, "full")
        found = gradients.moments_fingerprint(moments)
        if found != spec["optimizer_state"]:
            raise MismatchError(
                f"{flag('optimizer_state')} {source.optimizer_state}: fingerprint {found}, and {encoder.name} was "
                f"made with {spec['optimizer_state']}. Give the same file."
            )
    corrections = {m.name: projection.make(m, dim=1, seed=0, moment=moments.get(m.name)) for m in maps}
    fitted.load(store, encoder, corrections)
    return loaded, maps, corrections
