"""The job behind every encoder: what is not encoded yet is batched, encoded, quantised and committed.

The work list is a join, so a killed job goes on where it was, and appended examples are all it does.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from attrstore.errors import Interrupted, MismatchError, flag
from attrstore.ingest.model import causal
from attrstore.ingest.stopping import ctrl_c
from attrstore.progress import Progress, silent
from attrstore.runs import recorded
from attrstore.vectors import encoders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow

    from attrstore.ingest.encode.plan import Plan
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.runs import Run
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

SHARD = 2048  # examples that are sorted by length together, and one file of a sharded ingest
CHECKPOINT_AT = "1GB"  # of log; codes are large, and a checkpoint rewrites the open row group


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
    """Encodes what the plan's encoder has not encoded yet, queries first."""

    store: Store
    plan: Plan
    run: Run
    progress: Progress = silent

    def __call__(self) -> Encoded:
        """Do all pending work; raises `Interrupted` after the open batch when the user presses Ctrl-C."""
        counts = Encoded(self.plan.encoder.name, state=self.plan.state)
        self.store.execute("SET checkpoint_threshold = $size", {"size": CHECKPOINT_AT})
        with ctrl_c() as stopped:
            counts.queries = self.queries(stopped)
            counts.examples = self._examples(stopped)
        counts.outcomes = dict(self.store.named("encodings", "statuses", self._key).fetchall())
        counts.query_outcomes = dict(self.store.named("encodings", "query_statuses", self._key).fetchall())
        return counts

    def queries(self, stopped: list[bool]) -> int:
        """Encode the queries that have no encoding, and return how many."""
        rows = self.store.named("encodings", "pending_queries", self._key).fetchall()
        return self._write_all(self.plan.queries(rows), "insert_query_encodings", stopped, lambda done: None)

    def _examples(self, stopped: list[bool]) -> int:
        shards = self.store.named("encodings", "shards", {**self._key, "size": SHARD}).fetchall()
        total = sum(pending for _, pending in shards)
        done = 0
        for shard, _ in shards:
            where = {**self._key, "size": SHARD, "shard": shard}
            rows = self.store.named("encodings", "pending_examples", where).fetchall()
            report = partial(self._report, done, total)
            done += self._write_all(self.plan.examples(rows), "insert_encodings", stopped, report)
        return done

    def _report(self, before: int, total: int, done: int) -> None:
        self.progress(before + done, total)

    def _write_all(
        self,
        tables: Iterable[pyarrow.Table],
        statement: str,
        stopped: list[bool],
        report: Callable[[int], None],
    ) -> int:
        """Write each table in one transaction, while the next one is computed."""
        done = 0
        with ThreadPoolExecutor(1, "attrstore-writer") as writer:
            pending: Future[None] | None = None
            for table in tables:
                if pending is not None:
                    pending.result()
                pending = writer.submit(self._write, statement, table)
                done += len(table)
                report(done)
                if stopped[0]:
                    pending.result()
                    raise Interrupted(
                        f"stopped after {self.run.rows:,} rows of {self.plan.encoder.name}, all committed. "
                        "Run the same command again to go on."
                    )
            if pending is not None:
                pending.result()
        return done

    def _write(self, statement: str, table: pyarrow.Table) -> None:
        with self.store.transaction(), self.store.registered(encoded=table):
            self.store.named("encodings", statement, self._key)
        self.run.rows += len(table)

    @property
    def _key(self) -> dict[str, object]:
        return {"encoder": self.plan.encoder.encoder_id}


def ingest(store: Store, plan: Plan, progress: Progress) -> Encoded:
    """Prepare a plan and encode all that is pending, recorded as a run."""
    with recorded(store, f"ingest {plan.encoder.kind}s", **plan.parameters) as run:
        plan.prepare(store)
        return EncodingJob(store, plan, run, progress)()


def record(store: Store, encoder: Encoder, loaded: LoadedModel) -> None:
    """Write model and encoder unless the encoder is known."""
    if not encoders.known(store, encoder):
        with store.transaction():
            causal.register(store, loaded)
            encoders.save(store, encoder)


def in_store(store: Store, encoder: Encoder, name: str | None) -> Encoder:
    """Return the encoder under the name that the store has for its recipe, or as it is where it is new.

    Args:
        name: that was asked for; None for one that was made from the recipe.

    Raises `MismatchError` where the name is taken by another recipe, showing what differs, and where the recipe has
    another name than was asked for: nothing would be called so.
    """
    there = encoders.load_all(store)
    for known in there:
        if known.encoder_id == encoder.encoder_id:
            if name not in (None, known.name):
                raise MismatchError(
                    f"{store.path}: this recipe is the encoder {known.name} already, and {name} would be a second name "
                    f"of it. Leave {flag('name')} out, or change the recipe."
                )
            return replace(encoder, name=known.name)
    for known in there:
        if known.name != encoder.name:
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
    return encoder
