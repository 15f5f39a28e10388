"""Encode texts as hidden states: RepSim of "Do Influence Functions Work on Large Language Models?"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.errors import InputError
from attrstore.ingest.encode.job import Counts, EncodingJob, refuse_other_recipe
from attrstore.ingest.model import causal
from attrstore.ingest.model.pooling import pool
from attrstore.runs import recorded
from attrstore.vectors import codes, encoders
from attrstore.vectors.encoders import Encoder, make_blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from attrstore.ingest.model.sequences import Batch
    from attrstore.store import Store

POOLINGS = ("last", "mean")


def ingest_representations(
    store: Store,
    *,
    model: str | Path,
    layer: int = -1,
    pooling: str = "last",
    code: str = "fp16",
    name: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int = 16384,
    long: str = "truncate",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counts:
    """Write hidden states of every example's text and every query's prompt that has none yet.

    Args:
        model: folder of a Hugging Face causal LM.
        layer: which hidden state; -1 is the last, 0 the embeddings.
        pooling: the `last` token's state, or the `mean` over tokens.
        code: quantisation of the corpus side. Hidden states are not random projections: fp16 is safe.

    Raises:
        InputError: the model or an option is unusable.
        MismatchError: an encoder of this name exists and was made differently.
    """
    codes.find(code)
    if pooling not in POOLINGS:
        raise InputError(f"--pooling {pooling}: there is no such choice; there are {', '.join(POOLINGS)}")
    loaded = causal.load(model, device=device, dtype=dtype)
    depth = loaded.model.config.num_hidden_layers
    if not -depth - 1 <= layer <= depth:
        raise InputError(f"--layer {layer}: the model has hidden states 0 to {depth}, or -1 to {-depth - 1}")
    spec = {
        "version": 1,
        "model": loaded.fingerprint,
        "tokenizer": loaded.tokenizer_fingerprint,
        "layer": layer % (depth + 1),
        "pooling": pooling,
        "code": code,
        "dtype": dtype,
        "context": loaded.context,
        "long": long,
    }
    blocks = make_blocks([("hidden", loaded.model.config.hidden_size)])
    name = name or f"layer{spec['layer']}-{pooling}"
    encoder = Encoder("representation", name, loaded.fingerprint, spec, blocks)
    refuse_other_recipe(store, encoder)
    encode = _HiddenStates(loaded.model, layer, pooling)
    with recorded(store, "ingest representations", encoder=encoder.encoder_id, model=str(model)) as run:
        with store.transaction():
            causal.register(store, loaded)
            encoders.save(store, encoder)
        return EncodingJob(store, encoder, loaded, encode, batch_tokens, long, run, progress)()


class _HiddenStates:
    """Pools one layer's hidden states over the tokens before the first target of a query, or over all."""

    def __init__(self, model: Any, layer: int, pooling: str) -> None:
        self.model, self.layer, self.pooling = model, layer, pooling
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        output = self.model(
            input_ids=batch.tokens.to(self.device), output_hidden_states=True, use_cache=False
        )
        hidden = output.hidden_states[self.layer].float()
        # A query is its prompt: its first target is where the prompt ends. An example is its whole text.
        ends = torch.tensor(
            [i.first_target if i.first_target > 1 else len(w) for i in batch.items for w in i.windows],
            device=self.device,
        )
        pooled = pool(hidden, ends, self.pooling)
        owner = batch.owner.to(self.device)
        whole = torch.zeros(len(batch.items), hidden.shape[2], device=self.device).index_add_(
            0, owner, pooled
        )
        return whole, torch.zeros(len(batch.items), device=self.device)
