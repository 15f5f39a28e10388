"""Encode the corpus and the queries as compressed gradients (TrackStar, arXiv 2410.17413)."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attrstore.errors import InputError, MismatchError
from attrstore.ingest.encode import fitted, kronecker, projection
from attrstore.ingest.encode.capture import GradientEncoder
from attrstore.ingest.encode.job import Counts, EncodingJob, refuse_other_recipe
from attrstore.ingest.model import causal, linear, optimizer, sequences
from attrstore.runs import recorded
from attrstore.vectors import codes, encoders
from attrstore.vectors.encoders import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.store import Store

ENCODING_VERSION = 1  # raised when the same spec would give other vectors
SAMPLE = 512  # examples on which the Kronecker factors are measured
BLOCKS = ("module", "part", "layer")


def ingest_gradients(
    store: Store,
    *,
    model: str | Path,
    optimizer_state: str | Path | None = None,
    correction: str = "factored",
    kronecker_factors: bool = False,
    projection_dim: int = 32,
    modules: str | None = None,
    blocks: str = "module",
    code: str = "halfbit",
    seed: int = 0,
    name: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int = 4096,
    long: str = "truncate",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counts:
    """Write `encodings` and `query_encodings` for everything that has none under this recipe.

    Args:
        model: folder of a Hugging Face causal LM, or of a LoRA adapter of one, whose gradients alone are encoded.
        optimizer_state: file of the optimizer's state_dict (AdamW or Adafactor); its second moment corrects
            the gradients.
        correction: how: `factored` (Adafactor's form) or `full` (elementwise, slower).
        kronecker_factors: whiten inputs and output gradients, measured on a sample, before projecting. Finds
            stated facts better without an optimizer's state, but what it ranks first moves the model less.
        projection_dim: k; each linear map is encoded in k x k numbers.
        modules: a regular expression; the linear maps in whose names it is found are encoded, the token embedding
            and the output head too. By default the linear maps of the layers.
        blocks: what has its own norm and curvature: each `module`, each `part` of a layer (attention, MLP),
            or each `layer`.
        code: quantisation of the corpus side: fp16, int8, 4bit, 2bit, 1bit, halfbit.
        seed: of the projection.
        name: of the encoder; made from the recipe if not given.
        device: auto, cpu, cuda.
        dtype: float32 or bfloat16, of the model's weights and activations.
        batch_tokens: padded tokens of a batch.
        long: an example longer than the context is truncated, split or skipped, and its status says so.

    Raises:
        InputError: the model, its optimizer state or an option is unusable.
        MismatchError: an encoder of this name exists and was made differently.
    """
    _check(projection_dim, batch_tokens, code, blocks, correction, long)
    if kronecker_factors and optimizer_state is not None and correction == "full":
        raise InputError(
            "--correction full cannot be combined with --kronecker: use factored, or leave --kronecker out."
        )
    if not store.value("SELECT count(*) FROM examples"):
        raise InputError(f"{store.path}: no examples yet. First: attrstore ingest corpus {store.path} FILE")
    loaded = causal.load(model, device=device, dtype=dtype)
    maps = linear.find(loaded.model, modules)
    moments: dict[str, optimizer.SecondMoment] = {}
    if optimizer_state is not None:
        moments = optimizer.second_moments(optimizer_state, loaded.model, maps, correction)
    spec = {
        "version": ENCODING_VERSION,
        "model": loaded.fingerprint,
        "tokenizer": loaded.tokenizer_fingerprint,
        "correction": correction if moments else "none",
        "optimizer_state": _moments_fingerprint(moments),
        "kronecker": {"sample": SAMPLE, "damping": kronecker.DAMPING} if kronecker_factors else None,
        "projection_dim": projection_dim,
        "modules": modules,
        "seed": seed,
        "blocks": blocks,
        "code": code,
        "dtype": dtype,
        "context": loaded.context,
        "long": long,
    }
    projections = {
        m.name: projection.make(m, dim=projection_dim, seed=seed, moment=moments.get(m.name)) for m in maps
    }
    gradient_encoder = GradientEncoder(loaded.model, maps, projections, _block_of(blocks))
    encoder = Encoder("gradient", name or _name(spec), loaded.fingerprint, spec, gradient_encoder.blocks)
    refuse_other_recipe(store, encoder)
    with recorded(
        store, "ingest gradients", encoder=encoder.encoder_id, model=str(model), device=device
    ) as run:
        _prepare(store, encoder, loaded, maps, projections, gradient_encoder, batch_tokens)
        job = EncodingJob(store, encoder, loaded, gradient_encoder.encode, batch_tokens, long, run, progress)
        return job()


def _check(dim: int, batch_tokens: int, code: str, blocks: str, correction: str, long: str) -> None:
    codes.find(code)
    for option, value, allowed in (
        ("--blocks", blocks, BLOCKS),
        ("--correction", correction, optimizer.CORRECTIONS),
        ("--long", long, sequences.LONG),
    ):
        if value not in allowed:
            raise InputError(f"{option} {value}: there is no such choice; there are {', '.join(allowed)}")
    for option, number in (("--projection-dim", dim), ("--batch-tokens", batch_tokens)):
        if number < 1:
            raise InputError(f"{option} {number}: must be at least 1")


def _prepare(
    store: Store,
    encoder: Encoder,
    loaded: LoadedModel,
    maps: list[LinearMap],
    projections: dict[str, Projection],
    gradient_encoder: GradientEncoder,
    batch_tokens: int,
) -> None:
    """Record model and encoder; what is fitted to the corpus is fitted once and kept."""
    if not store.value("SELECT count(*) FROM encoders WHERE encoder_id = $id", {"id": encoder.encoder_id}):
        if encoder.spec["kronecker"] is not None:
            rows = store.named("encodings", "sample", {"n": SAMPLE}).fetchall()
            items = sequences.examples(rows, loaded.tokenizer, loaded.context, "truncate")
            sample = list(sequences.batches([item for item in items if item.windows], batch_tokens))
            kronecker.whiten(projections, maps, gradient_encoder.backward, sample)
        with store.transaction():
            causal.register(store, loaded)
            encoders.save(store, encoder)
            fitted.save(store, encoder, projections)
    fitted.load(store, encoder, projections)
    gradient_encoder.use(projections)


def reopen(
    store: Store, encoder: Encoder, *, model: str | Path | None = None, device: str = "auto"
) -> tuple[LoadedModel, GradientEncoder]:
    """Make an encoder of the store ready to encode new texts; nothing is written.

    Args:
        model: the model's folder; where the store last saw it, if not given.

    Raises:
        MismatchError: the folder holds another model.
        InputError: the folder is gone, or the recipe needs the optimizer's state (a full correction).
    """
    spec = encoder.spec
    if spec["correction"] == "full":
        raise InputError(
            f"{encoder.name}: made with --correction full, whose matrices are too large to keep in a store, so "
            "single prompts cannot be encoded. Use an encoder with --correction factored."
        )
    known = "SELECT path FROM models WHERE fingerprint = $id"
    path = model or store.value(known, {"id": encoder.model_fingerprint})
    loaded = causal.load(path, device=device, dtype=spec["dtype"])
    if loaded.fingerprint != encoder.model_fingerprint:
        raise MismatchError(
            f"--model {path}: fingerprint {loaded.fingerprint}, and {encoder.name} was made with "
            f"{encoder.model_fingerprint}. Give the folder of that model with --model."
        )
    maps = linear.find(loaded.model, spec["modules"])
    projections = {
        m.name: projection.make(m, dim=spec["projection_dim"], seed=spec["seed"], moment=None) for m in maps
    }
    fitted.load(store, encoder, projections)
    return loaded, GradientEncoder(loaded.model, maps, projections, _block_of(spec["blocks"]))


def _block_of(blocks: str) -> Callable[[LinearMap], str]:
    """Name the block of a map: itself, its part of the layer (`...3.mlp`), or its layer (`...3`)."""

    def name(m: LinearMap) -> str:
        layer = re.match(r"(.*?\.\d+)(?:\.([^.]+))?", m.name)
        if blocks == "module" or layer is None:
            return m.name
        return layer[1] if blocks == "layer" or layer[2] is None else f"{layer[1]}.{layer[2]}"

    return name


def _name(spec: dict[str, Any]) -> str:
    parts = [f"k{spec['projection_dim']}", spec["code"]]
    if spec["correction"] != "none":
        parts.append(spec["correction"])
    if spec["kronecker"] is not None:
        parts.append("kronecker")
    if spec["modules"] is not None:
        parts.append(re.sub(r"\W+", "-", spec["modules"]).strip("-") or "all")
    return "-".join(parts)


def _moments_fingerprint(moments: dict[str, optimizer.SecondMoment]) -> str | None:
    """Hash the second moments that are used: 16 hexadecimal digits."""
    if not moments:
        return None
    digest = hashlib.sha256()
    for name in sorted(moments):
        for part in moments[name]:
            digest.update(part.numpy().tobytes() if isinstance(part, torch.Tensor) else str(part).encode())
    return digest.hexdigest()[:16]
