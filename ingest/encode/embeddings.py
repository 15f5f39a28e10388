"""Encode texts with an embedding model, for dense passage retrieval (arXiv 2004.04906)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attrstore.errors import InputError
from attrstore.ingest.encode.job import Counts, EncodingJob, refuse_other_recipe
from attrstore.ingest.model import causal, embedding
from attrstore.ingest.model.pooling import pool
from attrstore.ingest.model.sequences import Item
from attrstore.runs import recorded
from attrstore.vectors import codes, encoders
from attrstore.vectors.encoders import Encoder, make_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from attrstore.ingest.model.embedding import EmbeddingModel
    from attrstore.ingest.model.sequences import Batch
    from attrstore.store import Store

POOLINGS = ("mean", "cls", "last")
LONG = ("truncate", "skip")


def ingest_embeddings(
    store: Store,
    *,
    model: str | Path,
    pooling: str | None = None,
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    code: str = "fp16",
    name: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int = 16384,
    long: str = "truncate",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counts:
    """Write the embedding of every example's text and every query's prompt and target that has none yet.

    Args:
        model: folder of a Hugging Face encoder or causal LM, or of a sentence-transformers model, whose own
            pooling, prompts and length are then the defaults.
        pooling: of the last hidden states: their `mean`, the first token's (`cls`) or the `last` one's; the
            folder's own, or the mean, if not given.
        query_prefix, passage_prefix: put before each query's and each example's text; the folder's own, or
            nothing, if not given.
        code: quantisation of the corpus side.
        long: what to do with a text longer than the model takes: `truncate` or `skip`.

    Raises:
        InputError: the model or an option is unusable.
        MismatchError: an encoder of this name exists and was made differently.
    """
    codes.find(code)
    if long not in LONG:
        raise InputError(f"--long {long}: there is no such choice; there are {', '.join(LONG)}")
    loaded = embedding.load(model, device=device, dtype=dtype)
    settings = loaded.settings
    texts = Texts(
        settings.query_prefix if query_prefix is None else query_prefix,
        settings.passage_prefix if passage_prefix is None else passage_prefix,
        settings.lower_case,
    )
    pooling = _checked_pooling(loaded, pooling, texts)
    encoder = _encoder(loaded, texts, pooling, code=code, dtype=dtype, long=long, name=name)
    refuse_other_recipe(store, encoder)
    encode = _Embed(loaded.model, pooling)
    with recorded(store, "ingest embeddings", encoder=encoder.encoder_id, model=str(model)) as run:
        with store.transaction():
            causal.register(store, loaded)
            encoders.save(store, encoder)
        return EncodingJob(store, encoder, loaded, encode, batch_tokens, long, run, progress, texts)()


def _checked_pooling(loaded: EmbeddingModel, wanted: str | None, texts: Texts) -> str:
    if wanted is not None and wanted not in POOLINGS:
        raise InputError(f"--pooling {wanted}: there is no such choice; there are {', '.join(POOLINGS)}")
    pooling = wanted or loaded.settings.pooling
    if pooling not in POOLINGS:
        raise InputError(
            f"--model {loaded.path}: made for pooling by {pooling}, which attrstore does not do. --pooling "
            f"{'|'.join(POOLINGS)} takes another, at a loss."
        )
    if not loaded.settings.pools_prefix and (texts.query_prefix or texts.passage_prefix):
        raise InputError(
            f"--model {loaded.path}: made for pooling without the prefix's tokens, which attrstore does not do. "
            "Use it without: --query-prefix '' --passage-prefix ''."
        )
    return pooling


def _encoder(loaded: EmbeddingModel, texts: Texts, pooling: str, *, name: str | None, **spec: str) -> Encoder:
    whole = {
        "version": 1,
        "model": loaded.fingerprint,
        "tokenizer": loaded.tokenizer_fingerprint,
        "pooling": pooling,
        "query_prefix": texts.query_prefix,
        "passage_prefix": texts.passage_prefix,
        "lower_case": texts.lower_case,
        "similarity": loaded.settings.similarity,
        "context": loaded.context,
        **spec,
    }
    name = name or f"{Path(loaded.path).absolute().name}-{pooling}"
    blocks = make_blocks([("embedding", loaded.model.config.hidden_size)])
    return Encoder("embedding", name, loaded.fingerprint, whole, blocks)


@dataclass(frozen=True)
class Texts:
    """Turns rows into items as an embedding model wants them: prefixed, with the tokenizer's special tokens."""

    query_prefix: str = ""
    passage_prefix: str = ""
    lower_case: bool = False

    def queries(self, rows: Iterable[tuple[int, str, str]], tokenizer: Any, context: int) -> list[Item]:
        """Tokenise queries (query_id, prompt, target): the text is both, as for BM25."""
        return self._items(
            [(key, self.query_prefix + prompt + target) for key, prompt, target in rows],
            tokenizer, context, "truncate",
        )  # fmt: skip

    def examples(
        self, rows: Iterable[tuple[int, str]], tokenizer: Any, context: int, long: str
    ) -> list[Item]:
        """Tokenise training examples (example_id, text)."""
        return self._items(
            [(key, self.passage_prefix + text) for key, text in rows], tokenizer, context, long
        )

    def _items(self, rows: list[tuple[int, str]], tokenizer: Any, context: int, long: str) -> list[Item]:
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

    def __init__(self, model: Any, pooling: str) -> None:
        self.model, self.pooling = model, pooling
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        lengths = batch.lengths.to(self.device)
        tokens = batch.tokens.to(self.device)
        mask = (torch.arange(tokens.shape[1], device=self.device) < lengths.unsqueeze(1)).long()
        hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        return pool(hidden, lengths, self.pooling), torch.zeros(len(batch.items), device=self.device)
