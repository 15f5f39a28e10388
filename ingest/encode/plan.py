"""How an encoder turns rows of a store into rows of encodings: items, batches, one Arrow table a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pyarrow
import torch
from torch import Tensor

from attrstore.ingest.model import sequences
from attrstore.vectors import packing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from attrstore.ingest.encode.recipes import EncodingRecipe
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.sequences import Batch, ExampleRow, Item, QueryRow
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder


class Encode(Protocol):
    """Turns a batch into vectors float32 [items, D] and losses float32 [items]."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode one batch."""
        ...


class Itemise(Protocol):
    """Turns rows into items."""

    def queries(
        self, rows: Iterable[QueryRow], tokenizer: PreTrainedTokenizerBase, context: int
    ) -> list[Item]:
        """Tokenise (query_id, prompt, target)."""
        ...

    def examples(
        self,
        rows: Iterable[ExampleRow],
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        long: str,
        loss: str = "auto",
    ) -> list[Item]:
        """Tokenise (example_id, text)."""
        ...


@dataclass(frozen=True)
class Plan:
    """An encoder that is ready to encode, and what its tables are made with."""

    encoder: Encoder
    loaded: LoadedModel
    encode: Encode
    recipe: EncodingRecipe
    prepare: Callable[[Store], None]  # record the encoder, or take from the store what was fitted for it
    texts: Itemise = sequences
    encode_queries: Encode | None = None  # `encode`, if not given
    pack: Callable[[Encoder, Tensor], tuple[Tensor, Tensor]] = packing.examples  # vectors to codes and scales
    state: str | None = None  # in a line, of encodings that an optimizer's state may correct: which one does

    @property
    def parameters(self) -> dict[str, object]:
        """What a run of it is recorded with."""
        return {
            "encoder": self.encoder.encoder_id,
            "model": str(self.loaded.path),
            "device": self.recipe.device,
        }

    def queries(self, rows: Iterable[QueryRow]) -> Iterator[pyarrow.Table]:
        """Yield the encodings of queries, one Arrow table a batch."""
        items = self.texts.queries(rows, self.loaded.tokenizer, self.loaded.context)
        return map(self._query_table, _work(items, self.recipe.batch_tokens))

    def examples(self, rows: Iterable[ExampleRow]) -> Iterator[pyarrow.Table]:
        """Yield the encodings of examples, one Arrow table a batch."""
        loss = self.encoder.spec.get("loss", "auto")
        tokenizer, context = self.loaded.tokenizer, self.loaded.context
        items = self.texts.examples(rows, tokenizer, context, self.recipe.long, loss)
        return map(self._example_table, _work(items, self.recipe.batch_tokens))

    def _example_table(self, batch: Batch | list[Item]) -> pyarrow.Table:
        if isinstance(batch, list):
            columns = _common(batch, None, "example_id", self.encoder.kind)
            return pyarrow.table({**columns, "code": _nulls(batch), "scales": _nulls(batch)})
        encoded = self.encode(batch)
        columns = _common(batch.items, encoded, "example_id", self.encoder.kind)
        quantised, scales = self.pack(self.encoder, encoded[0])
        finite = _finite(encoded[0])
        return pyarrow.table({**columns, "code": _blobs(quantised, finite), "scales": _blobs(scales, finite)})

    def _query_table(self, batch: Batch | list[Item]) -> pyarrow.Table:
        if isinstance(batch, list):
            columns = _common(batch, None, "query_id", self.encoder.kind)
            return pyarrow.table({**columns, "vector": _nulls(batch)})
        encoded = (self.encode_queries or self.encode)(batch)
        columns = _common(batch.items, encoded, "query_id", self.encoder.kind)
        packed = packing.queries(self.encoder, encoded[0])
        return pyarrow.table({**columns, "vector": _blobs(packed, _finite(encoded[0]))})


def _work(items: Sequence[Item], batch_tokens: int) -> Iterator[Batch | list[Item]]:
    skipped = [item for item in items if not item.windows]
    if skipped:
        yield skipped
    yield from sequences.batches([item for item in items if item.windows], batch_tokens)


def _common(
    items: Sequence[Item], encoded: tuple[Tensor, Tensor] | None, key: str, kind: str
) -> dict[str, object]:
    """The columns of both tables; a vector that is not finite turns its row's status."""
    statuses = [item.status for item in items]
    losses: list[float | None] = [None] * len(items)
    if encoded is not None:
        finite = _finite(encoded[0]).tolist()
        losses = encoded[1].tolist()
        statuses = [
            s if ok else f"skipped: {kind} is not finite" for s, ok in zip(statuses, finite, strict=True)
        ]
    return {
        key: pyarrow.array([item.key for item in items], pyarrow.int64()),
        "n_tokens": pyarrow.array([sum(map(len, item.windows)) for item in items], pyarrow.int32()),
        "loss": pyarrow.array(losses, pyarrow.float32()),
        "status": pyarrow.array(statuses, pyarrow.string()),
    }


def _finite(vectors: Tensor) -> Tensor:
    return vectors.isfinite().all(dim=1)


def _nulls(items: Sequence[Item]) -> pyarrow.Array:
    return pyarrow.nulls(len(items), pyarrow.large_binary())


def _blobs(rows: Tensor, valid: Tensor) -> pyarrow.Array:
    """One blob a row of a uint8 matrix, without copying; NULL where not valid."""
    values = rows.contiguous().cpu().numpy()
    n, width = values.shape
    offsets = pyarrow.py_buffer((torch.arange(n + 1) * width).numpy())
    array = pyarrow.Array.from_buffers(pyarrow.large_binary(), n, [None, offsets, pyarrow.py_buffer(values)])
    if bool(valid.all()):
        return array
    return pyarrow.array([blob if ok else None for blob, ok in zip(array.to_pylist(), valid.tolist(), strict=True)],
                         pyarrow.large_binary())  # fmt: skip
