"""Encode texts as hidden states: RepSim of "Do Influence Functions Work on Large Language Models?"."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from attrstore.ingest.encode.job import Encoded, in_store, ingest, record
from attrstore.ingest.encode.plan import Plan
from attrstore.ingest.encode.recipes import RepresentationFields, RepresentationRecipe
from attrstore.ingest.model import causal
from attrstore.ingest.model.offload import device_of
from attrstore.ingest.model.pooling import pool
from attrstore.ingest.model.rendering import chat_template
from attrstore.progress import silent
from attrstore.runs import writes
from attrstore.vectors.encoders import Encoder, make_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attrstore.ingest.model.sequences import Batch, Item
    from attrstore.progress import Progress
    from attrstore.store import Store


@writes
def ingest_representations(
    store: Store,
    recipe: RepresentationRecipe | None = None,
    *,
    model: causal.Given,
    name: str | None = None,
    progress: Progress = silent,
    **fields: Unpack[RepresentationFields],
) -> Encoded:
    """Write hidden states of every example's text and every query's prompt that has none yet.

    Args:
        recipe: how; the default one, if not given.
        model: folder of a Hugging Face causal LM, or a model in memory.
        name: of the encoder; made from the recipe if not given.
        progress: called with the examples encoded and those to encode.
        fields: of the recipe, `RepresentationRecipe`, that are to be otherwise.

    Raises:
        InputError: the model or an option is unusable.
        MismatchError: an encoder of this name exists and was made differently.
    """
    return ingest(store, plan(store, recipe, model=model, name=name, **fields), progress)


def plan(
    store: Store,
    recipe: RepresentationRecipe | None = None,
    *,
    model: causal.Given,
    name: str | None = None,
    **fields: Unpack[RepresentationFields],
) -> Plan:
    """Load the model and make its encoder; nothing is written. Arguments are those of `ingest_representations`."""
    recipe = replace(recipe or RepresentationRecipe(), **fields)
    loaded = causal.load(
        model, device=recipe.device, dtype=recipe.dtype, max_length=recipe.max_length, offloads=True
    )
    recipe = recipe.of_depth(loaded.model.config.num_hidden_layers)
    blocks = make_blocks([("hidden", loaded.model.config.hidden_size)])
    made = f"layer{recipe.layer}-{recipe.pooling}"
    spec = recipe.spec(loaded) | chat_template(store, loaded.tokenizer)
    encoder = Encoder("representation", name or made, loaded.fingerprint, spec, blocks)
    encoder = in_store(store, encoder, name)
    encode = _HiddenStates(loaded.model, recipe.layer, recipe.pooling)
    prepare = partial(record, encoder=encoder, loaded=loaded)
    return Plan(encoder, loaded, encode, recipe, prepare)


class _HiddenStates:
    """Pools one layer's hidden states over the tokens before the first target of a query, or over all."""

    def __init__(self, model: PreTrainedModel, layer: int, pooling: str) -> None:
        self.model, self.layer, self.pooling = model, layer, pooling
        self.device = device_of(model)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        output = self.model(
            input_ids=batch.tokens.to(self.device), output_hidden_states=True, use_cache=False
        )
        hidden = output.hidden_states[self.layer].float()
        ends = [self._end(item, i) for item in batch.items for i in range(len(item.windows))]
        pooling = "last" if self.pooling == "prompt" else self.pooling
        pooled = pool(hidden, torch.tensor(ends, device=self.device), pooling)
        owner = batch.owner.to(self.device)
        whole = torch.zeros(len(batch.items), hidden.shape[2], device=self.device).index_add_(
            0, owner, pooled
        )
        return whole, torch.zeros(len(batch.items), device=self.device)

    def _end(self, item: Item, window: int) -> int:
        """Return how many tokens are pooled: of a query its prompt's, of an example all, or its prompt's too."""
        if item.first_target > 1:
            return item.first_target
        if self.pooling == "prompt" and item.marks is not None:
            return item.marks[window].index(True, 1)
        return len(item.windows[window])
