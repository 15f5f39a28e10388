"""Encode beside readers: workers that open the store read-only and write what they encode as files.

The first to come records the encoder and encodes the queries, in one short opening for writing; everybody else waits
for that, and then takes its own ranges of examples. `attrstore.shards.attach` brings the files in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

import attrstore
from attrstore import shards
from attrstore.errors import HeldError, Interrupted
from attrstore.ingest.encode import embeddings, gradients, job, representations
from attrstore.ingest.encode.worker import Worker
from attrstore.ingest.stopping import ctrl_c
from attrstore.progress import Progress, silent
from attrstore.runs import recorded
from attrstore.vectors import encoders

if TYPE_CHECKING:
    from attrstore.ingest.encode.plan import Plan
    from attrstore.store import Store

PLANS: dict[str, Callable[..., Plan]] = {
    "gradient": gradients.plan,
    "representation": representations.plan,
    "embedding": embeddings.plan,
}
PAUSE = 0.2  # seconds between two tries to open a store that somebody else has open

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Written:
    """What one worker did."""

    encoder: str
    shards: int
    rows: int


@dataclass
class Waiting:
    """Opens a store as soon as nobody holds it who is in the way, and says once that it waits."""

    path: Path
    tell: Tell
    told: bool = False

    def open(self, *, writable: bool = False) -> Store:
        """Open it, however long that takes."""
        while True:
            try:
                return attrstore.open(self.path, writable=writable)
            except HeldError as error:
                self.wait(error)

    def wait(self, error: HeldError) -> None:
        """Let the holder go on for a moment."""
        if not self.told:
            self.tell(f"waiting: {error}")
        self.told = True
        time.sleep(PAUSE)


def write_shards(
    path: str | Path,
    kind: str,
    folder: str | Path,
    worker: Worker = Worker(),
    *,
    progress: Progress = silent,
    tell: Tell = lambda line: None,
    **options: Any,
) -> Written:
    """Encode this worker's share of what has no encoding, in the store or in the folder, and write it there.

    Args:
        path: the store; nobody may have it open in this process.
        kind: of encoder: gradient, representation, embedding.
        folder: made if it is not there. All workers write to the same one.
        worker: which of how many; it takes the ranges whose number, divided by how many there are, leaves its rank.
        progress: called with the examples encoded and those to encode, of this worker.
        tell: called with a line when it has to wait.
        options: of the command that makes such encodings: a recipe's, `model`, `name`.

    Raises:
        InputError: the model or an option is unusable.
        MismatchError: an encoder of this name exists and was made differently, or a shard of the folder is torn or
            of another encoder.
    """
    waiting, folder = Waiting(Path(path), tell), Path(folder)
    with waiting.open() as store:
        plan = PLANS[kind](store, **options)
    folder.mkdir(parents=True, exist_ok=True)
    there = shards.of_encoder(folder, plan.encoder)
    _prepare(waiting, plan)
    own = [file for file, shard in there.items() if worker.does(shard.part)]
    with waiting.open() as store, store.registered(sharded=shards.identities(own)), ctrl_c() as stopped:
        plan.prepare(store)
        return _Share(store, plan, folder, worker, progress, stopped)()


def _prepare(waiting: Waiting, plan: Plan) -> None:
    """See to it that the store has the encoder and the queries' encodings; whoever comes first writes them."""
    while True:
        with waiting.open() as store:
            if _is_prepared(store, plan):
                return
        try:
            with attrstore.open(waiting.path, writable=True) as store:
                if not _is_prepared(store, plan):
                    _write_queries(store, plan)
                return
        except HeldError as error:  # by another worker, who may prepare it
            waiting.wait(error)


def _is_prepared(store: Store, plan: Plan) -> bool:
    key = {"encoder": plan.encoder.encoder_id}
    return (
        encoders.known(store, plan.encoder)
        and not store.named("encodings", "pending_queries", key).fetchall()
    )


def _write_queries(store: Store, plan: Plan) -> None:
    job.refuse_other_recipe(store, plan.encoder)
    with recorded(store, f"ingest {plan.encoder.kind}s", **plan.parameters, shards=True) as run:
        plan.prepare(store)
        with ctrl_c() as stopped:
            job.EncodingJob(store, plan, run).queries(stopped)


@dataclass
class _Share:
    """The ranges of one worker that hold work, one file each; `sharded` in the store is what its files have."""

    store: Store
    plan: Plan
    folder: Path
    worker: Worker
    progress: Progress
    stopped: list[bool]
    done: int = 0

    def __call__(self) -> Written:
        key = {"encoder": self.plan.encoder.encoder_id, "size": job.SHARD}
        parts = self.store.named("shards", "ranges", key).fetchall()
        work = [(part, pending) for part, pending in parts if self.worker.does(part)]
        total = sum(pending for _, pending in work)
        for part, _ in work:
            rows = self.store.named("shards", "pending", {**key, "shard": part}).fetchall()
            shards.write(self.folder, part, self.plan.encoder, self._encoded(rows, total))
        return Written(self.plan.encoder.name, len(work), total)

    def _encoded(self, rows: list[Any], total: int) -> pyarrow.Table:
        """Encode (example_id, text, shape, original, content_hash); the hash goes with the encoding."""
        tables = []
        for table in self.plan.examples([row[:4] for row in rows]):
            tables.append(table)
            self.done += len(table)
            self.progress(self.done, total)
            if self.stopped[0]:
                raise Interrupted(
                    f"stopped; every finished file is in {self.folder}. Run the same command again to go on."
                )
        whole = pyarrow.concat_tables(tables)
        hashes = {row[0]: row[4] for row in rows}
        texts = pyarrow.array([hashes[key] for key in whole["example_id"].to_pylist()], pyarrow.string())
        return whole.append_column("content_hash", texts)
