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
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow

from attrstore.errors import InputError, Interrupted, MismatchError, flag
from attrstore.ingest.measure.one_step import LEARNING_RATES, OneStep
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
    *,
    top: int = 10,
    learning_rate: float | str | None = None,
    scorings: Sequence[str] = (),
    queries: int | None = None,
    optimizer_name: str | None = None,
    optimizer_state: str | Path | None = None,
    model: causal.Given | None = None,
    max_length: int | None = None,
    device: str = "auto",
    batch_tokens: int = 4096,
    progress: Progress = silent,
) -> Measured:
    """Write `tail_patches` for the strongest proponents of each query that have no row yet.

    From the checkpoint, one step is taken on the proponent's mean token loss; the change of the target's
    summed log-probability, in nats, and of its probability is what is kept. The model is as it was after it.

    Args:
        top: proponents of each query and scoring; a pair that several scorings have is measured once.
        learning_rate: of the step: 1e-6 for adamw and adam and 1e-3 for sgd, if not given; it must be small, or the
            step overshoots. `training` is the one that the optimizer's state was saved with, as in the paper.
        scorings: names; all there are, if none is given.
        queries: only the first so many, by query_id.
        optimizer_name: `adamw`, its own step but for momentum and weight decay, which are not the example's: the
            saved second moment takes this gradient in, with the saved betas, epsilon and step count. `adam`: the
            gradient over the root of the second moment as it was saved plus 1e-8, which has no bound where that is
            zero. `sgd`: the gradient. adamw where there is a state, else sgd.
        optimizer_state: file of the optimizer's state_dict (AdamW or Adafactor); `optimizer.pt` in the model's
            folder, if it is there and fits; `none` for none.
        model: the model's folder; where the store last saw its only model, if not given.
        max_length: tokens of a text, the model's context if not given.
        device: auto, cpu, cuda.
        batch_tokens: padded tokens of a batch of queries.

    Raises:
        InputError: nothing is scored, or an option, the model or its optimizer state is unusable.
        MismatchError: the store has measurements with another state or, at this path, another model.
        Interrupted: the user pressed Ctrl-C; what was measured is committed.
    """
    _check(top, learning_rate, queries, optimizer_name, optimizer_state, batch_tokens)
    names = _scorings(store, scorings)
    loaded = causal.load_known(store, model, device, max_length)
    if optimizer_name == "sgd":
        optimizer_state = chosen_state.NONE
    saved, said = chosen_state.choose(
        optimizer_state, loaded.path, partial(optimizer.parameter_moments, model=loaded.model)
    )
    setting = _setting(loaded, optimizer_name, saved, learning_rate)
    _refuse_other_state(store, setting)
    work = store.named(
        "tail_patch",
        "pending",
        {**setting.key, "top": top, "scorings": names, "queries": 2**62 if queries is None else queries},
    ).fetchall()
    with recorded(
        store, "tail-patch", model=loaded.path, model_fingerprint=loaded.fingerprint, optimizer=setting.optimizer,
        learning_rate=setting.learning_rate, state=setting.state, top=top, scorings=names, queries=queries,
    ) as run:  # fmt: skip
        causal.register(store, loaded)
        moments: Mapping[str, Moment] | None = saved
        if saved is not None and optimizer_name == "adam":
            moments = {name: optimizer.Full(moment.values) for name, moment in saved.items()}
        step = OneStep(loaded.model, setting.learning_rate, moments)
        return replace(Job(store, setting, loaded, step, batch_tokens, run, progress)(work), state=said)


def _setting(
    loaded: LoadedModel,
    optimizer_name: str | None,
    saved: Mapping[str, Saved] | None,
    learning_rate: float | str | None,
) -> Setting:
    """Say what identifies the measurements; the optimizer's name says what else a step depends on."""
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
    return Setting(loaded.fingerprint, chosen + shorter, rate, optimizer.fingerprint(saved))


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
            for item in sequences.examples(sorted(rows), tokenizer, context, "truncate"):
                yield item, shard[item.key]

    def _queries(self, ids: list[int]) -> dict[int, Item]:
        rows = self.store.named("tail_patch", "queries", {"ids": ids}).fetchall()
        items = sequences.queries(rows, self.loaded.tokenizer, self.loaded.context)
        return {item.key: item for item in items}


def _skip(measured: Measured, reason: str, pairs: int) -> None:
    if pairs:
        measured.skipped[reason] = measured.skipped.get(reason, 0) + pairs


def _check(
    top: int,
    learning_rate: float | str | None,
    queries: int | None,
    optimizer_name: str | None,
    optimizer_state: str | Path | None,
    batch_tokens: int,
) -> None:
    for option, number in (("--top", top), ("--queries", queries), ("--batch-tokens", batch_tokens)):
        if number is not None and number < 1:
            raise InputError(f"{option} {number}: must be at least 1")
    if learning_rate not in (None, "training") and not _is_rate(learning_rate):
        raise InputError(f"{flag('learning_rate')} {learning_rate}: must be above 0, or training")
    if optimizer_name not in (None, *LEARNING_RATES):
        raise InputError(
            f"{flag('optimizer')} {optimizer_name}: there is no such choice; there are {', '.join(LEARNING_RATES)}"
        )
    if optimizer_name == "sgd" and optimizer_state not in (None, chosen_state.NONE):
        raise InputError(
            f"{flag('optimizer')} sgd: uses no {flag('optimizer_state')}. Leave one of them out."
        )


def _is_rate(value: float | str | None) -> bool:
    return isinstance(value, float | int) and math.isfinite(value) and value > 0


def _scorings(store: Store, wanted: Sequence[str]) -> list[str]:
    known = [name for (name,) in store.rows("SELECT name FROM scorings ORDER BY created, name")]
    if not known:
        raise InputError(f"{store.path}: nothing is scored yet. First: attrstore score {store.path} METHOD")
    for name in wanted:
        if name not in known:
            raise InputError(
                f"{flag('scoring', 'scorings')} {name}: no scoring is called so; there are {', '.join(known)}"
            )
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
