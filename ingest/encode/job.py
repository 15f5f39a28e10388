"""The job behind every encoder: what is not encoded yet is batched, encoded, quantised and committed.

The work list is a join, so a killed job goes on where it was, and appended examples are all it does.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow
import torch
from torch import Tensor

from attrstore.errors import Interrupted, MismatchError, flag
from attrstore.ingest.model import sequences
from attrstore.ingest.stopping import ctrl_c
from attrstore.progress import Progress, silent
from attrstore.vectors import encoders, packing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.sequences import Batch, ExampleRow, Item, QueryRow
    from attrstore.runs import Run
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

SHARD = 32768  # examples that are sorted by length together
CHECKPOINT_AT = "1GB"  # of log; codes are large, and a checkpoint rewrites the open row group


class Encode(Protocol):
    """Turns a batch into vectors float32 [items, D] and losses float32 [items]."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode one batch."""
        ...


class Itemise(Protocol):
    """Turns rows into items."""

    def queries(self, rows: Iterable[QueryRow], tokenizer: Any, context: int) -> list[Item]:
        """Tokenise (query_id, prompt, target)."""
        ...

    def examples(
        self, rows: Iterable[ExampleRow], tokenizer: Any, context: int, long: str, loss: str = "auto"
    ) -> list[Item]:
        """Tokenise (example_id, text)."""
        ...


@dataclass
class Encoded:
    """What a job did."""

    encoder: str = ""
    queries: int = 0
    examples: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)  # of all examples of the encoder: ok, skipped, ...
    query_outcomes: dict[str, int] = field(default_factory=dict)
    state: str | None = None  # in a line, of encodings that an optimizer's state may correct: which one does


@dataclass
class EncodingJob:
    """Encodes what `encoder` has not encoded yet, queries first."""

    store: Store
    encoder: Encoder
    loaded: LoadedModel
    encode: Encode
    batch_tokens: int
    long: str
    run: Run
    progress: Progress = silent
    texts: Itemise = sequences
    encode_queries: Encode | None = None  # `encode`, if not given

    def __call__(self) -> Encoded:
        """Do all pending work; raises `Interrupted` after the open batch when the user presses Ctrl-C."""
        counts = Encoded(self.encoder.name)
        self.store.execute("SET checkpoint_threshold = $size", {"size": CHECKPOINT_AT})
        with ctrl_c() as stopped:
            counts.queries = self._queries(stopped)
            counts.examples = self._examples(stopped)
        counts.outcomes = dict(self.store.named("encodings", "statuses", self._key).fetchall())
        counts.query_outcomes = dict(self.store.named("encodings", "query_statuses", self._key).fetchall())
        return counts

    def _queries(self, stopped: list[bool]) -> int:
        rows = self.store.named("encodings", "pending_queries", self._key).fetchall()
        items = self.texts.queries(rows, self.loaded.tokenizer, self.loaded.context)
        return self._encode_all(
            items, self._query_table, "insert_query_encodings", stopped, lambda done: None
        )

    def _examples(self, stopped: list[bool]) -> int:
        shards = self.store.named("encodings", "shards", {**self._key, "size": SHARD}).fetchall()
        total = sum(pending for _, pending in shards)
        done = 0
        loss = self.encoder.spec.get("loss", "auto")
        for shard, _ in shards:
            where = {**self._key, "size": SHARD, "shard": shard}
            rows = self.store.named("encodings", "pending_examples", where).fetchall()
            items = self.texts.examples(rows, self.loaded.tokenizer, self.loaded.context, self.long, loss)
            report = partial(self._report, done, total)
            done += self._encode_all(items, self._example_table, "insert_encodings", stopped, report)
        return done

    def _report(self, before: int, total: int, done: int) -> None:
        self.progress(before + done, total)

    def _encode_all(
        self,
        items: Sequence[Item],
        table_of: Callable[[Batch | list[Item]], pyarrow.Table],
        statement: str,
        stopped: list[bool],
        report: Callable[[int], None],
    ) -> int:
        """Encode items and write each batch in one transaction, while the next one is computed."""
        done = 0
        with ThreadPoolExecutor(1, "attrstore-writer") as writer:
            pending: Future[None] | None = None
            for batch in self._work(items):
                table = table_of(batch)
                if pending is not None:
                    pending.result()
                pending = writer.submit(self._write, statement, table)
                done += len(table)
                report(done)
                if stopped[0]:
                    pending.result()
                    raise Interrupted(
                        f"stopped after {self.run.rows:,} rows of {self.encoder.name}, all committed. "
                        "Run the same command again to go on."
                    )
            if pending is not None:
                pending.result()
        return done

    def _work(self, items: Sequence[Item]) -> Iterator[Batch | list[Item]]:
        skipped = [item for item in items if not item.windows]
        if skipped:
            yield skipped
        yield from sequences.batches([item for item in items if item.windows], self.batch_tokens)

    def _write(self, statement: str, table: pyarrow.Table) -> None:
        with self.store.transaction(), self.store.registered(encoded=table):
            self.store.named("encodings", statement, self._key)
        self.run.rows += len(table)

    @property
    def _key(self) -> dict[str, Any]:
        return {"encoder": self.encoder.encoder_id}

    # One Arrow table a batch

    def _example_table(self, batch: Batch | list[Item]) -> pyarrow.Table:
        if isinstance(batch, list):
            columns = _common(batch, None, "example_id", self.encoder.kind)
            return pyarrow.table({**columns, "code": _nulls(batch), "scales": _nulls(batch)})
        encoded = self.encode(batch)
        columns = _common(batch.items, encoded, "example_id", self.encoder.kind)
        quantised, scales = packing.examples(self.encoder, encoded[0])
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


def _common(
    items: Sequence[Item], encoded: tuple[Tensor, Tensor] | None, key: str, kind: str
) -> dict[str, Any]:
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


def refuse_other_recipe(store: Store, encoder: Encoder) -> None:
    """Refuse an encoder whose name is taken by another recipe, showing what differs."""
    for known in encoders.load_all(store):
        if known.name != encoder.name or known.encoder_id == encoder.encoder_id:
            continue
        keys = sorted(known.spec.keys() | encoder.spec.keys())
        differences = ", ".join(
            f"{key} {known.spec.get(key)} there and {encoder.spec.get(key)} now"
            for key in keys
            if known.spec.get(key) != encoder.spec.get(key)
        )
        raise MismatchError(
            f"{store.path}: the encoder {encoder.name} was made with another recipe: {differences}. "
            f"Use the same, or make a second encoder with {flag('name')}."
        )
