"""Encode beside readers: workers that open the store read-only and write what they encode as files.

The first to come records the encoder and encodes the queries, in one short opening for writing; everybody else waits
for that, and then takes its own ranges of examples. `attrstore.shards.attach` brings the files in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

import attrstore
from attrstore import shards
from attrstore.errors import HeldError, Interrupted
from attrstore.folders import folder_at
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
        folder: or URL; made if it is not there. All workers write to the same one.
        worker: which of how many; it takes the ranges whose number, divided by how many there are, leaves its rank.
        progress: called with the examples encoded and those to encode, of this worker.
        tell: called with a line when it has to wait.
        options: of the command that makes such encodings: a recipe's, `model`, `name`.

    Raises:
        InputError: the model or an option is unusable.
        MismatchError: an encoder of this name exists and was made differently, or a shard of the folder is torn or
            of another encoder.
    """
    with closing(Ranges(path, kind, folder, tell=tell, **options)) as ranges, ctrl_c() as stopped:
        work = ranges.pending(worker)
        total = sum(pending for _, pending in work)
        done = 0

        def report(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done, total)
            if stopped[0]:
                raise Interrupted(
                    f"stopped; every finished file is in {folder}. Run the same command again to go on."
                )

        for part, _ in work:
            ranges.write(part, report)
        return Written(ranges.plan.encoder.name, len(work), total)


class Ranges:
    """The ranges of a store's examples, and a model that encodes one at a time into a file of the folder.

    The store is open for reading only until it is closed. Arguments and errors are those of `write_shards`.

    Args:
        size: examples of a range.
    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        folder: str | Path,
        *,
        tell: Tell = lambda line: None,
        size: int | None = None,
        **options: Any,
    ) -> None:
        waiting, self.folder = Waiting(Path(path), tell), folder_at(folder)
        with waiting.open() as store:
            self.plan = PLANS[kind](store, **options)
        self.folder.make()
        self.there = shards.of_encoder(self.folder, self.plan.encoder)
        self.key = {"encoder": self.plan.encoder.encoder_id, "size": size or job.SHARD}
        _prepare(waiting, self.plan)
        self.store = waiting.open()
        self.plan.prepare(self.store)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def pending(self, worker: Worker = Worker()) -> list[tuple[int, int]]:
        """Return the worker's ranges that hold work, by number, each with how many examples have no encoding."""
        own = [file for file, shard in self.there.items() if worker.does(shard.part)]
        with self.store.registered(sharded=shards.identities(self.folder, own)):
            parts = self.store.named("shards", "ranges", self.key).fetchall()
        return [(part, pending) for part, pending in parts if worker.does(part)]

    def write(self, part: int, report: Callable[[int], None] = lambda rows: None) -> int:
        """Encode what has no encoding in a range, write it and return how many examples that were.

        Args:
            report: called with the examples of each batch.
        """
        known = [file for file, shard in self.there.items() if shard.part == part]
        with self.store.registered(sharded=shards.identities(self.folder, known)):
            rows = self.store.named("shards", "pending", {**self.key, "shard": part}).fetchall()
        if rows:
            shards.write(self.folder, part, self.plan.encoder, self._encoded(rows, report))
        return len(rows)

    def _encoded(self, rows: list[Any], report: Callable[[int], None]) -> pyarrow.Table:
        """Encode (example_id, text, shape, original, content_hash); the hash goes with the encoding."""
        tables = []
        for table in self.plan.examples([row[:4] for row in rows]):
            tables.append(table)
            report(len(table))
        whole = pyarrow.concat_tables(tables)
        hashes = {row[0]: row[4] for row in rows}
        texts = pyarrow.array([hashes[key] for key in whole["example_id"].to_pylist()], pyarrow.string())
        return whole.append_column("content_hash", texts)


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
    job.in_store(store, plan.encoder, plan.encoder.name)
    with recorded(store, f"ingest {plan.encoder.kind}s", **plan.parameters, shards=True) as run:
        plan.prepare(store)
        with ctrl_c() as stopped:
            job.EncodingJob(store, plan, run).queries(stopped)
