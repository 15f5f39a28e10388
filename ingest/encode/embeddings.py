"""Encode texts with an embedding model, for dense passage retrieval (arXiv 2004.04906)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.ingest.encode.job import Encoded, in_store, ingest, record
from attrstore.ingest.encode.plan import Plan
from attrstore.ingest.encode.recipes import EmbeddingFields, EmbeddingRecipe
from attrstore.ingest.model import embedding
from attrstore.ingest.model.pooling import pool
from attrstore.ingest.model.sequences import Item
from attrstore.options import options_of
from attrstore.progress import silent
from attrstore.runs import writes
from attrstore.vectors.encoders import Encoder, make_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from attrstore.ingest.model.embedding import EmbeddingModel
    from attrstore.ingest.model.sequences import Batch, ExampleRow, QueryRow
    from attrstore.progress import Progress
    from attrstore.store import Store


@writes
def ingest_embeddings(
    store: Store,
    recipe: EmbeddingRecipe | None = None,
    *,
    model: str | Path,
    name: str | None = None,
    progress: Progress = silent,
    **fields: Unpack[EmbeddingFields],
) -> Encoded:
    """Write the embedding of every example's text and every query's prompt and target that has none yet.

    Args:
        recipe: how; the default one, if not given.
        model: folder of a Hugging Face encoder or causal LM, or of a sentence-transformers model, whose own
            pooling, prompts and length are then the defaults.
        name: of the encoder; the folder's name and the pooling if not given.
        progress: called with the examples encoded and those to encode.
        fields: of the recipe, `EmbeddingRecipe`, that are to be otherwise.

    Raises:
        InputError: the model or an option is unusable.
        MismatchError: an encoder of this name exists and was made differently.
    """
    return ingest(store, plan(store, recipe, model=model, name=name, **fields), progress)


def plan(
    store: Store,
    recipe: EmbeddingRecipe | None = None,
    *,
    model: str | Path,
    name: str | None = None,
    **fields: Unpack[EmbeddingFields],
) -> Plan:
    """Load the model and make its encoder; nothing is written. Arguments are those of `ingest_embeddings`."""
    recipe = replace(recipe or EmbeddingRecipe(), **fields)
    loaded = embedding.load(model, device=recipe.device, dtype=recipe.dtype, max_length=recipe.max_length)
    recipe, texts = _as_the_folder_says(recipe, loaded)
    spec = recipe.spec(loaded, lower_case=texts.lower_case, similarity=loaded.settings.similarity)
    made = f"{Path(loaded.path).absolute().name}-{recipe.pooling}"
    blocks = make_blocks([("embedding", loaded.model.config.hidden_size)])
    encoder = Encoder("embedding", name or made, loaded.fingerprint, spec, blocks)
    encoder = in_store(store, encoder, name)
    encode = _Embed(loaded.model, str(recipe.pooling))
    prepare = partial(record, encoder=encoder, loaded=loaded)
    return Plan(encoder, loaded, encode, recipe, prepare, texts)


def _as_the_folder_says(recipe: EmbeddingRecipe, loaded: EmbeddingModel) -> tuple[EmbeddingRecipe, Texts]:
    """Fill in what the recipe leaves to the model's folder."""
    settings = loaded.settings
    texts = Texts(
        settings.query_prefix if recipe.query_prefix is None else recipe.query_prefix,
        settings.passage_prefix if recipe.passage_prefix is None else recipe.passage_prefix,
        settings.lower_case,
    )
    pooling = recipe.pooling or settings.pooling
    known = options_of(EmbeddingRecipe)["pooling"].choices
    if pooling not in known:
        raise InputError(
            f"{flag('model')} {loaded.path}: made for pooling by {pooling}, which attrstore does not do. "
            f"{flag('pooling')} {'|'.join(known)} takes another, at a loss."
        )
    if not settings.pools_prefix and (texts.query_prefix or texts.passage_prefix):
        raise InputError(
            f"{flag('model')} {loaded.path}: made for pooling without the prefix's tokens, which attrstore does not "
            f"do. Use it without: {flag('query_prefix')} '' {flag('passage_prefix')} ''."
        )
    filled = replace(
        recipe, pooling=pooling, query_prefix=texts.query_prefix, passage_prefix=texts.passage_prefix
    )
    return filled, texts


@dataclass(frozen=True)
class Texts:
    """Turns rows into items as an embedding model wants them: prefixed, with the tokenizer's special tokens."""

    query_prefix: str = ""
    passage_prefix: str = ""
    lower_case: bool = False

    def queries(
        self, rows: Iterable[QueryRow], tokenizer: PreTrainedTokenizerBase, context: int
    ) -> list[Item]:
        """Tokenise queries (query_id, prompt, target): the text is both, as for BM25."""
        return self._items(
            [(key, self.query_prefix + prompt + target) for key, prompt, target, *_ in rows],
            tokenizer, context, "truncate",
        )  # fmt: skip

    def examples(
        self,
        rows: Iterable[ExampleRow],
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        long: str,
        loss: str = "auto",
    ) -> list[Item]:
        """Tokenise training examples (example_id, text)."""
        return self._items(
            [(key, self.passage_prefix + text) for key, text, *_ in rows], tokenizer, context, long
        )

    def _items(
        self, rows: list[tuple[int, str]], tokenizer: PreTrainedTokenizerBase, context: int, long: str
    ) -> list[Item]:
        if not rows:
            return []
        texts = [text.lower() if self.lower_case else text for _, text in rows]
        whole = tokenizer(texts, verbose=False)["input_ids"]
        # Cut by the tokenizer, which keeps its special tokens at the end.
        cut = tokenizer(texts, truncation=True, max_length=context)["input_ids"]
        return [
            _item(key, len(tokens), kept, context, long)
            for (key, _), tokens, kept in zip(rows, whole, cut, strict=True)
        ]


def _item(key: int, n_tokens: int, kept: list[int], context: int, long: str) -> Item:
    if not kept:
        return Item(key, status="skipped: no token")
    if n_tokens <= context:
        return Item(key, [kept])
    if long == "skip":
        return Item(key, status=f"skipped: {n_tokens} tokens, context {context}")
    return Item(key, [kept], status=f"truncated: kept {len(kept)} of {n_tokens} tokens")


class _Embed:
    """Pools the last hidden state; vectors keep their length, so that a dot product is possible too."""

    def __init__(self, model: PreTrainedModel, pooling: str) -> None:
        self.model, self.pooling = model, pooling
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        lengths = batch.lengths.to(self.device)
        tokens = batch.tokens.to(self.device)
        mask = (torch.arange(tokens.shape[1], device=self.device) < lengths.unsqueeze(1)).long()
        hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        return pool(hidden, lengths, self.pooling), torch.zeros(len(batch.items), device=self.device)
