"""Encode the corpus and the queries as compressed gradients (TrackStar, arXiv 2410.17413)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch

from attrstore.errors import InputError, MismatchError, flag
from attrstore.ingest.encode import fitted, kronecker, principal, projection
from attrstore.ingest.encode.capture import GradientEncoder
from attrstore.ingest.encode.job import Encoded, in_store, ingest
from attrstore.ingest.encode.low_rank import LowRankEncoder
from attrstore.ingest.encode.plan import Plan
from attrstore.ingest.encode.recipes import OF_PAIRS, PRINCIPAL, WHITENING, GradientFields, GradientRecipe
from attrstore.ingest.model import causal, chosen_state, linear, optimizer, sequences, shares
from attrstore.ingest.model.rendering import chat_template
from attrstore.progress import silent
from attrstore.runs import writes
from attrstore.vectors import encoders, packing
from attrstore.vectors.encoders import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.progress import Progress
    from attrstore.store import Store


@writes
def ingest_gradients(
    store: Store,
    recipe: GradientRecipe | None = None,
    *,
    model: causal.Given,
    optimizer_state: str | Path | None = None,
    name: str | None = None,
    progress: Progress = silent,
    **fields: Unpack[GradientFields],
) -> Encoded:
    """Write `encodings` and `query_encodings` for everything that has none under this recipe.

    Args:
        recipe: how; the default one, if not given.
        model: folder of a Hugging Face causal LM, or of a LoRA adapter of one, whose gradients alone are encoded; or
            a model in memory.
        optimizer_state: file of the optimizer's state_dict (AdamW or Adafactor); its second moment corrects
            the gradients. `optimizer.pt` in the model's folder, if it is there and fits; `none` for none.
        name: of the encoder; made from the recipe if not given.
        progress: called with the examples encoded and those to encode.
        fields: of the recipe, `GradientRecipe`, that are to be otherwise.

    Raises:
        InputError: the model, its optimizer state or an option is unusable.
        MismatchError: an encoder of this name exists and was made differently.
    """
    planned = plan(store, recipe, model=model, optimizer_state=optimizer_state, name=name, **fields)
    return ingest(store, planned, progress)


def plan(
    store: Store,
    recipe: GradientRecipe | None = None,
    *,
    model: causal.Given,
    optimizer_state: str | Path | None = None,
    name: str | None = None,
    keeps_name: bool = False,
    **fields: Unpack[GradientFields],
) -> Plan:
    """Load the model and make its encoder; nothing is written. Arguments are those of `ingest_gradients`.

    With `keeps_name` an encoder that the store has keeps the name that it has there, whatever `name` says.
    """
    recipe = replace(recipe or GradientRecipe(), **fields)
    if not store.value("SELECT count(*) FROM examples"):
        raise InputError(f"{store.path}: no examples yet. First: attrstore ingest corpus {store.path} FILE")
    loaded = causal.load(
        model, device=recipe.device, dtype=recipe.dtype, max_length=recipe.max_length, offloads=True
    )
    maps = linear.find(loaded.model, recipe.modules)
    if recipe.modules is None:
        linear.refuse_stacks(loaded.model, maps)
    more = _seen_in_model(store, loaded, maps)
    moments, state = _moments(store, recipe, optimizer_state, loaded, maps)
    spec = recipe.spec(loaded, moments_fingerprint(moments)) | more
    projections = {
        m.name: projection.make(m, dim=recipe.projection_dim, seed=recipe.seed, moment=moments.get(m.name))
        for m in maps
    }
    gradient_encoder = _encoding(loaded, maps, projections, recipe)
    encoder = Encoder(
        "gradient",
        name or recipe.name(corrected=bool(moments)),
        loaded.fingerprint,
        spec,
        gradient_encoder.blocks,
    )
    encoder = in_store(store, encoder, None if keeps_name else name)
    prepare = partial(
        _prepare,
        encoder=encoder,
        loaded=loaded,
        maps=maps,
        projections=projections,
        gradient_encoder=gradient_encoder,
        batch_tokens=recipe.batch_tokens,
    )
    return Plan(
        encoder,
        loaded,
        gradient_encoder.encode,
        recipe,
        prepare,
        encode_queries=gradient_encoder.encode_queries,
        pack=gradient_encoder.pack if isinstance(gradient_encoder, LowRankEncoder) else packing.examples,
        state=state,
    )


def _seen_in_model(store: Store, loaded: LoadedModel, maps: list[LinearMap]) -> dict[str, object]:
    """Return the part of a spec that no option says: the chat template, and that experts' matrices are encoded."""
    seen: dict[str, object] = dict(chat_template(store, loaded.tokenizer))
    if any(m.expert is not None for m in maps):
        seen["experts"] = True
    return seen


def _moments(
    store: Store,
    recipe: GradientRecipe,
    wanted: str | Path | None,
    loaded: LoadedModel,
    maps: list[LinearMap],
) -> tuple[dict[str, optimizer.Moment], str]:
    """Return the second moments that correct, if any do, and which they are in a line.

    An encoder that was made without a state stays what the same command goes on with, when a file has come since.
    """

    def read(file: Path) -> dict[str, optimizer.Moment]:
        recipe.refuse_state()
        return optimizer.second_moments(file, loaded.model, maps, recipe.correction)

    moments, said = chosen_state.choose(wanted, loaded.path, read)
    if moments and wanted is None:
        more = _seen_in_model(store, loaded, maps)
        known = {encoder.encoder_id: encoder for encoder in encoders.load_all(store, "gradient")}
        corrected, plain = (
            Encoder("gradient", "", loaded.fingerprint, recipe.spec(loaded, state) | more, ()).encoder_id
            for state in (moments_fingerprint(moments), None)
        )
        if plain in known and corrected not in known:
            file = chosen_state.beside(loaded.path)
            return {}, (
                f"optimizer's state: none, as {known[plain].name} was made without one; "
                f"{flag('optimizer_state')} {file} makes another encoder beside it"
            )
    return moments or {}, said


def _prepare(
    store: Store,
    encoder: Encoder,
    loaded: LoadedModel,
    maps: list[LinearMap],
    projections: dict[str, Projection],
    gradient_encoder: GradientEncoder | LowRankEncoder,
    batch_tokens: int,
) -> None:
    """Record model and encoder; what is fitted to the corpus is fitted once and kept."""
    if not encoders.known(store, encoder):
        if encoder.spec["kronecker"] is not None:
            sample = sample_of(store, encoder, loaded, int(WHITENING["sample"]), batch_tokens)
            kronecker.whiten(projections, maps, gradient_encoder.backward, sample)
        if isinstance(gradient_encoder, LowRankEncoder) and gradient_encoder.principal:
            sample = sample_of(store, encoder, loaded, PRINCIPAL["sample"], batch_tokens)
            principal.fit(projections, gradient_encoder, sample)
        with store.transaction():
            causal.register(store, loaded)
            encoders.save(store, encoder)
            shares.record(store, encoder, loaded.model, maps)
            fitted.save(store, encoder, projections)
    else:
        causal.register(store, loaded)  # a model that was seen in memory only may be in a folder now
        if store.writable:  # which is not that of a worker that writes shards
            shares.record(store, encoder, loaded.model, maps)  # earlier versions did not write it
    fitted.load(store, encoder, projections)
    gradient_encoder.use(projections)


def sample_of(
    store: Store, encoder: Encoder, loaded: LoadedModel, size: int, batch_tokens: int, long: str = "truncate"
) -> list[sequences.Batch]:
    """Return batches of a sample of the corpus that does not depend on the order of ingest."""
    rows = store.named("encodings", "sample", {"n": size}).fetchall()
    loss = encoder.spec.get("loss", "auto")
    items = sequences.examples(rows, loaded.tokenizer, loaded.context, long, loss)
    return list(sequences.batches([item for item in items if item.windows], batch_tokens))


def reopen(
    store: Store, encoder: Encoder, *, model: causal.Given | None = None, device: str = "auto"
) -> tuple[LoadedModel, GradientEncoder | LowRankEncoder]:
    """Make an encoder of the store ready to encode new texts; nothing is written.

    Args:
        model: the model's folder; where the store last saw it, if not given.

    Raises:
        MismatchError: the folder holds another model.
        InputError: the folder is gone, or the recipe needs the optimizer's state (a full correction).
    """
    refuse_imported(encoder)
    recipe = GradientRecipe.from_spec(encoder.spec)
    if encoder.spec["correction"] == "full":
        raise InputError(
            f"{encoder.name}: made with {flag('correction')} full, whose matrices are too large to keep in a store, so "
            f"single prompts cannot be encoded. Use an encoder with {flag('correction')} factored."
        )
    if encoder.rank is not None and encoder.spec.get("pairs") != OF_PAIRS["pairs"]:
        raise InputError(
            f"{encoder.name}: its singular pairs are those of projected gradients, as an earlier version took them, "
            "and of new prompts those of whole gradients would be taken. What is encoded can be scored. To ask, "
            f"ingest gradients again under another {flag('name')}."
        )
    loaded = known_model(store, encoder, model, device)
    maps = linear.find(loaded.model, recipe.modules)
    projections = {
        m.name: projection.make(m, dim=recipe.projection_dim, seed=recipe.seed, moment=None) for m in maps
    }
    fitted.load(store, encoder, projections)
    return loaded, _encoding(loaded, maps, projections, recipe)


def refuse_imported(encoder: Encoder) -> None:
    """Refuse to run the model of an encoder whose vectors another tool computed."""
    if "imported" in encoder.spec:
        raise InputError(
            f"{encoder.name}: its gradients were imported ({encoder.spec['imported']}), and what projected them is not "
            "in the store: it can be scored, and no model can be run for it. Make an encoder: "
            "attrstore ingest gradients STORE --model PATH"
        )


def _encoding(
    loaded: LoadedModel, maps: list[LinearMap], projections: dict[str, Projection], recipe: GradientRecipe
) -> GradientEncoder | LowRankEncoder:
    if recipe.rank is not None:
        if recipe.principal:
            _refuse_principal(maps)
        return LowRankEncoder(
            loaded.model, maps, projections, recipe.rank, recipe.query_rank, whitened=recipe.kronecker_factors,
            principal=recipe.principal,
        )  # fmt: skip
    return GradientEncoder(loaded.model, maps, projections, block_of(recipe.blocks))


def known_model(store: Store, encoder: Encoder, model: causal.Given | None, device: str) -> LoadedModel:
    """Load the model that an encoder was made with: from `model`, or where the store last saw it."""
    known = "SELECT path FROM models WHERE fingerprint = $id"
    path = model or store.value(known, {"id": encoder.model_fingerprint})
    recipe = GradientRecipe.from_spec(encoder.spec)
    loaded = causal.load(path, device=device, dtype=recipe.dtype, max_length=recipe.max_length)
    if loaded.fingerprint != encoder.model_fingerprint:
        raise MismatchError(
            f"{flag('model')} {loaded.path}: fingerprint {loaded.fingerprint}, and {encoder.name} was made with "
            f"{encoder.model_fingerprint}. Give the folder of that model with {flag('model')}."
        )
    return loaded


def block_of(blocks: str) -> Callable[[LinearMap], str]:
    """Name the block of a map: itself, its part of the layer (`...3.mlp`), or its layer (`...3`)."""

    def name(m: LinearMap) -> str:
        layer = re.match(r"(.*?\.\d+)(?:\.([^.]+))?", m.name)
        if blocks == "module" or layer is None:
            return m.name
        return layer[1] if blocks == "layer" or layer[2] is None else f"{layer[1]}.{layer[2]}"

    return name


def moments_fingerprint(moments: dict[str, optimizer.Moment]) -> str | None:
    """Hash the second moments that are used: 16 hexadecimal digits."""
    if not moments:
        return None
    digest = hashlib.sha256()
    for name in sorted(moments):
        for part in moments[name]:
            digest.update(part.numpy().tobytes() if isinstance(part, torch.Tensor) else str(part).encode())
    return digest.hexdigest()[:16]


def _refuse_principal(maps: list[LinearMap]) -> None:
    wide = [linear.name for linear in maps if linear.role != "layer"]
    if wide:
        raise InputError(
            f"{flag('principal')}: the directions of {', '.join(wide)} are as many as the vocabulary, too many to "
            f"measure. Leave {flag('principal')} out, or encode the layers' maps alone (without {flag('modules')})."
        )
