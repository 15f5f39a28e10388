"""Compare checkpoints: how far the parameters moved, and what that did to the queries' targets."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import pyarrow

from attrstore.errors import AttrstoreError, InputError, Interrupted, flag
from attrstore.ingest.measure.options import CheckpointFields, CheckpointOptions
from attrstore.ingest.model import causal, sequences, weights
from attrstore.ingest.model.backward import Backward
from attrstore.ingest.model.logprobs import target_logprobs
from attrstore.ingest.stopping import ctrl_c
from attrstore.progress import Progress, silent
from attrstore.runs import recorded, writes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from torch import Tensor

    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.sequences import Item
    from attrstore.runs import Run
    from attrstore.store import Store


@writes
def compare_checkpoints(
    store: Store,
    folders: Sequence[str | Path],
    options: CheckpointOptions | None = None,
    *,
    progress: Progress = silent,
    **fields: Unpack[CheckpointFields],
) -> list[tuple[Any, ...]]:
    """Write `query_losses` of each checkpoint and `parameter_changes` of each two; return `behaviour_change`.

    What is there already is not measured again, so appended queries and checkpoints are all that is done.

    Args:
        folders: of two or more checkpoints of one model, in the order of training.
        options: how the forward passes are run.
        progress: called with the queries measured and those to measure.
        fields: of the options, `CheckpointOptions`, that are to be otherwise.

    Raises:
        InputError: fewer than two checkpoints, one twice, or the store has no queries.
        MismatchError: the checkpoints' tensors differ in name or shape.
        Interrupted: the user pressed Ctrl-C; what was measured is committed.
    """
    running = replace(options or CheckpointOptions(), **fields)
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise InputError(
            f"{flag('model')}: give it twice or more, once for each checkpoint, in the order of training"
        )
    n_queries = int(store.value("SELECT count(*) FROM queries"))
    if not n_queries:
        raise InputError(f"{store.path}: no queries yet. First: attrstore ingest queries {store.path} FILE")
    weights.refuse_other_shapes(paths)
    fingerprint_of: dict[str, Path] = {}
    with recorded(
        store, "compare-checkpoints", models=[str(path) for path in paths], dtype=running.dtype
    ) as run:
        for path in paths:
            loaded = causal.load(path, device=running.device, dtype=running.dtype)
            if loaded.fingerprint in fingerprint_of:
                raise InputError(
                    f"{flag('model')} {path}: the same model as {fingerprint_of[loaded.fingerprint]}"
                )
            causal.register(store, loaded)
            before = n_queries * len(fingerprint_of)
            fingerprint_of[loaded.fingerprint] = path
            _Losses(store, loaded, running.batch_tokens, run)(
                lambda done, before=before: progress(before + done, n_queries * len(paths))  # type: ignore[misc]
            )
        for one, other in combinations(fingerprint_of, 2):
            _write_changes(store, one, other, fingerprint_of, run)
    return store.named("checkpoints", "behaviour", {"models": list(fingerprint_of)}).fetchall()


class _Losses:
    """Measures the queries' target losses under one checkpoint and commits them batch by batch."""

    def __init__(self, store: Store, loaded: LoadedModel, batch_tokens: int, run: Run) -> None:
        self.store, self.loaded, self.batch_tokens, self.run = store, loaded, batch_tokens, run
        self.key = {"model": loaded.fingerprint}

    def __call__(self, report: Callable[[int], None]) -> None:
        rows = self.store.named("checkpoints", "pending_queries", self.key).fetchall()
        if not rows:
            return
        items = sequences.queries(rows, self.loaded.tokenizer, self.loaded.context)
        skipped = [item for item in items if not item.windows]
        self._write(skipped, None)
        done = len(skipped)
        split = Backward(self.loaded.model).split
        with ctrl_c() as stopped:
            for batch in sequences.batches([item for item in items if item.windows], self.batch_tokens):
                self._write(batch.items, -target_logprobs(self.loaded.model, batch, split=split))
                done += len(batch.items)
                report(done)
                if stopped[0]:
                    raise Interrupted(
                        f"stopped after {self.run.rows:,} rows, all committed. Run the same command again to go on."
                    )

    def _write(self, items: Sequence[Item], losses: Tensor | None) -> None:
        if not items:
            return
        values: list[float | None] = [None] * len(items)
        statuses = [item.status for item in items]
        if losses is not None:
            finite = losses.isfinite().tolist()
            values = [value if ok else None for value, ok in zip(losses.tolist(), finite, strict=True)]
            statuses = [
                s if ok else "skipped: loss is not finite" for s, ok in zip(statuses, finite, strict=True)
            ]
        table = pyarrow.table(
            {
                "query_id": pyarrow.array([item.key for item in items], pyarrow.int64()),
                "n_targets": pyarrow.array([item.n_targets for item in items], pyarrow.int64()),
                "loss": pyarrow.array(values, pyarrow.float64()),
                "status": pyarrow.array(statuses, pyarrow.string()),
            }
        )
        with self.store.transaction(), self.store.registered(measured=table):
            self.store.named("checkpoints", "insert_losses", self.key)
        self.run.rows += len(table)


def _write_changes(store: Store, one: str, other: str, folder_of: dict[str, Path], run: Run) -> None:
    """Write how far each tensor lies between two checkpoints, unless that is known."""
    key = {"one": one, "other": other}
    if store.named("checkpoints", "count_changes", key).fetchall()[0][0]:
        return
    found = list(weights.changes(folder_of[one], folder_of[other]))
    if not found:
        raise AttrstoreError(
            f"{flag('model')} {folder_of[one]}: no tensor of floating-point numbers to compare."
        )
    columns = map(list, zip(*found, strict=True))
    table = pyarrow.table(dict(zip(weights.Change._fields, columns, strict=True)))
    with store.transaction(), store.registered(measured=table):
        store.named("checkpoints", "insert_changes", key)
    run.rows += len(found)
