"""Measure what one training step on a proponent does to the target (tail-patch, arXiv 2410.17413).

It says what one more step from the checkpoint does, not what training without the example would have done. At so
small a learning rate it is to first order <g_q, g_z / sqrt(V)>, so scores that estimate that product do well by it by
definition; labels and retraining (LDS, leave-out) judge independently.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

import pyarrow

from attrstore.chosen import no_scoring, scoring_names
from attrstore.errors import InputError, Interrupted, MismatchError, flag
from attrstore.ingest.measure.one_step import OneStep
from attrstore.ingest.measure.options import LEARNING_RATES, TailPatchFields, TailPatchOptions
from attrstore.ingest.model import causal, chosen_state, optimizer, sequences
from attrstore.ingest.stopping import ctrl_c
from attrstore.progress import Progress, silent
from attrstore.runs import recorded, writes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from attrstore.ingest.measure.one_step import Moment
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.optimizer import Saved
    from attrstore.ingest.model.sequences import Item
    from attrstore.runs import Run
    from attrstore.store import Store

COMMIT_SECONDS = 2.0  # a killed job loses at most so much work
SHARD = 256  # proponents whose texts are read at once
COLUMNS = ("query_id", "example_id", "base_logprob", "delta_logprob", "base_prob", "delta_prob")


@dataclass
class Measured:
    """What a job did."""

    optimizer: str
    learning_rate: float
    pairs: int = 0
    examples: int = 0
    skipped: dict[str, int] = field(default_factory=dict)  # reason: pairs
    state: str = ""  # in a line: which optimizer's state was used


@dataclass(frozen=True)
class Setting:
    """What identifies a measurement, apart from its pair."""

    model: str  # fingerprint
    optimizer: str
    learning_rate: float
    state: str | None  # fingerprint of the optimizer's state, if it is used
    loss: str = (
        "auto"  # which tokens of an example carry it; part of the optimizer's name where it is no other
    )

    @property
    def meta_key(self) -> str:
        """Under what the store remembers the state with which it was measured."""
        return f"tail_patch {self.model} {self.optimizer} {self.learning_rate!r}"

    @property
    def key(self) -> dict[str, object]:
        """As parameters of a statement."""
        return {"model": self.model, "optimizer": self.optimizer, "learning_rate": self.learning_rate}


@writes
def tail_patch(
    store: Store,
    options: TailPatchOptions | None = None,
    *,
    model: causal.Given | None = None,
    progress: Progress = silent,
    **fields: Unpack[TailPatchFields],
) -> Measured:
    """Write `tail_patches` for the strongest proponents of each query that have no row yet.

    From the checkpoint, one step is taken on the proponent's mean token loss; the change of the target's
    summed log-probability, in nats, and of its probability is what is kept. The model is as it was after it.

    Args:
        options: which proponents, and by which step; the default ones, if not given. A pair that several scorings
            have is measured once. `adamw` is its own step but for momentum and weight decay, which are not the
            example's: the saved second moment takes this gradient in, with the saved betas, epsilon and step count.
            `adam` is the gradient over the root of the second moment as it was saved plus 1e-8.
        model: the model's folder, or a model in memory; where the store last saw its only model, if not given.
        progress: called with the proponents measured and those to measure.
        fields: of the options, `TailPatchOptions`, that are to be otherwise: `top=5, queries=100`.

    Raises:
        InputError: nothing is scored, or an option, the model or its optimizer state is unusable.
        MismatchError: the store has measurements with another state or, at this path, another model.
        Interrupted: the user pressed Ctrl-C; what was measured is committed.
    """
    asked = replace(options or TailPatchOptions(), **fields)
    names = _scorings(store, asked.scorings)
    loaded = causal.load_known(store, model, asked.device, asked.max_length)
    wanted = chosen_state.NONE if asked.optimizer_name == "sgd" else asked.optimizer_state
    saved, said = chosen_state.choose(
        wanted, loaded.path, partial(optimizer.parameter_moments, model=loaded.model)
    )
    setting = _setting(loaded, asked, saved)
    _refuse_other_state(store, setting)
    work = store.named(
        "tail_patch",
        "pending",
        {
            **setting.key,
            "top": asked.top,
            "scorings": names,
            "queries": 2**62 if asked.queries is None else asked.queries,
        },
    ).fetchall()
    with recorded(
        store, "tail-patch", model=loaded.path, model_fingerprint=loaded.fingerprint, optimizer=setting.optimizer,
        learning_rate=setting.learning_rate, state=setting.state, top=asked.top, scorings=names,
        queries=asked.queries,
    ) as run:  # fmt: skip
        causal.register(store, loaded)
        moments: Mapping[str, Moment] | None = saved
        if saved is not None and asked.optimizer_name == "adam":
            moments = {name: optimizer.Full(moment.values) for name, moment in saved.items()}
        step = OneStep(loaded.model, setting.learning_rate, moments)
        return replace(Job(store, setting, loaded, step, asked.batch_tokens, run, progress)(work), state=said)


def _setting(loaded: LoadedModel, asked: TailPatchOptions, saved: Mapping[str, Saved] | None) -> Setting:
    """Say what identifies the measurements; the optimizer's name says what else a step depends on."""
    optimizer_name, learning_rate = asked.optimizer_name, asked.learning_rate
    if saved is None and optimizer_name in ("adamw", "adam"):
        raise InputError(
            f"{flag('optimizer')} {optimizer_name}: needs the saved second moment. Give {flag('optimizer_state')} FILE."
        )
    chosen = optimizer_name or ("sgd" if saved is None else "adamw")
    if learning_rate == "training":
        if saved is None or not (rate := next(iter(saved.values())).rate):
            raise InputError(f"{flag('learning_rate')} training: needs an optimizer's state that has one.")
    else:
        rate = LEARNING_RATES[chosen] if learning_rate is None else float(learning_rate)
    shorter = f", {loaded.context} tokens" if loaded.context < loaded.longest else ""
    other = f", loss {asked.loss}" if asked.loss != "auto" else ""
    return Setting(
        loaded.fingerprint, chosen + shorter + other, rate, optimizer.fingerprint(saved), asked.loss
    )


@dataclass
class Job:
    """Takes a step on each proponent and evaluates all its queries before the next."""

    store: Store
    setting: Setting
    loaded: LoadedModel
    step: OneStep
    batch_tokens: int
    run: Run
    progress: Progress
    rows: list[tuple[float, ...]] = field(default_factory=list)  # measured and not yet committed
    committed_at: float = field(default_factory=time.monotonic)

    def __call__(self, work: list[tuple[int, list[int]]]) -> Measured:
        """Measure the work list of (example_id, query_ids)."""
        measured = Measured(self.setting.optimizer, self.setting.learning_rate)
        targets = self._queries(sorted({query for _, queries in work for query in queries}))
        with ctrl_c() as stopped:
            for done, (example, queries) in enumerate(self._examples(work), start=1):
                self._measure(example, [targets[query] for query in queries], measured)
                self.progress(done, len(work))
                if stopped[0] or time.monotonic() - self.committed_at > COMMIT_SECONDS:
                    self._commit()
                if stopped[0]:
                    raise Interrupted(
                        f"stopped after {self.run.rows:,} pairs, all committed. Run the same command again to go on."
                    )
            self._commit()
        return measured

    def _measure(self, example: Item, queries: list[Item], measured: Measured) -> None:
        usable = [query for query in queries if query.windows]
        _skip(measured, "the query's target has no tokens or does not fit", len(queries) - len(usable))
        if not usable:
            return
        if not example.windows:
            _skip(measured, "the example has no token to predict", len(usable))
            return
        if not self.step(example):
            _skip(measured, "the example's gradient is not finite", len(usable))
            return
        for batch in sequences.batches(usable, self.batch_tokens):
            # Both in the same batch, so that the rounding that depends on a batch's shape cancels.
            before, after = self.step.logprobs(batch)
            for item, base, delta in zip(
                batch.items, before.tolist(), (after - before).tolist(), strict=True
            ):
                if not math.isfinite(delta):
                    _skip(measured, "the target's log-probability is not finite", 1)
                    continue
                probability = math.exp(base)
                change = probability * math.expm1(delta)
                self.rows.append((item.key, example.key, base, delta, probability, change))
                measured.pairs += 1
        measured.examples += 1

    def _commit(self) -> None:
        if self.rows:
            table = pyarrow.table(dict(zip(COLUMNS, zip(*self.rows, strict=True), strict=True)))
            with self.store.transaction(), self.store.registered(measured=table):
                self.store.named("tail_patch", "insert", self.setting.key)
                if self.setting.state is not None:
                    self.store.set_meta({self.setting.meta_key: self.setting.state})
            self.run.rows += len(self.rows)
            self.rows = []
        self.committed_at = time.monotonic()

    def _examples(self, work: list[tuple[int, list[int]]]) -> Iterator[tuple[Item, list[int]]]:
        for start in range(0, len(work), SHARD):
            shard = dict(work[start : start + SHARD])
            rows = self.store.named("tail_patch", "examples", {"ids": list(shard)}).fetchall()
            tokenizer, context = self.loaded.tokenizer, self.loaded.context
            for item in sequences.examples(sorted(rows), tokenizer, context, "truncate", self.setting.loss):
                yield item, shard[item.key]

    def _queries(self, ids: list[int]) -> dict[int, Item]:
        rows = self.store.named("tail_patch", "queries", {"ids": ids}).fetchall()
        items = sequences.queries(rows, self.loaded.tokenizer, self.loaded.context)
        return {item.key: item for item in items}


def _skip(measured: Measured, reason: str, pairs: int) -> None:
    if pairs:
        measured.skipped[reason] = measured.skipped.get(reason, 0) + pairs


def _scorings(store: Store, wanted: Sequence[str]) -> list[str]:
    known = scoring_names(store)
    if not known:
        raise InputError(f"{store.path}: nothing is scored yet. First: attrstore score {store.path} METHOD")
    for name in wanted:
        if name not in known:
            raise no_scoring(name, known)
    return list(wanted) or known


def _refuse_other_state(store: Store, setting: Setting) -> None:
    """Refuse to mix measurements that were made with different optimizer states."""
    known = store.meta(setting.meta_key)
    if known in (None, setting.state):
        return
    if store.named("tail_patch", "measured", setting.key).fetchall()[0][0]:
        raise MismatchError(
            f"{store.path}: pairs were measured with optimizer state {known} at this learning rate, and "
            f"{flag('optimizer_state')} is {setting.state}. Use the same file, another "
            f"{flag('learning_rate')}, or a copy of the "
            "store."
        )
