"""Mirrored influence (arXiv 2402.08922): train on a query, then see by forward passes what became easier.

The published method takes a gradient ascent step on the query and scores an example by how much its loss rises.
To first order that is learning_rate * <grad L_query, grad L_example>, as is the fall after a descent step.

The exact derivative would be `torch.func.jvp` of each example's loss along the query's gradient, batched by
`vmap` over queries: no learning rate and no cancellation, but over twice the arithmetic of a forward pass for
each query, and tangents of all activations in memory. The finite step is what was published and runs every model
and kernel that a forward pass does; the derivative itself is what the method `dot` estimates, for all queries at
once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attrstore.errors import InputError
from attrstore.ingest.measure.one_step import LEARNING_RATES, OneStep
from attrstore.ingest.model import causal, optimizer, sequences
from attrstore.ingest.model.logprobs import target_logprobs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attrstore.ingest.model.optimizer import Full
    from attrstore.ingest.model.sequences import Batch, Item
    from attrstore.store import Store

SIGNS = {"ascent": 1, "descent": -1}  # of the change in an example's loss that makes it a proponent
LOSSES = ("mean", "sum")


@dataclass(frozen=True)
class Scores:
    """The scores of some queries and examples."""

    query_ids: list[int]
    example_ids: Tensor  # int64 [n]
    scores: Tensor  # float32 [queries, n]
    spec: dict[str, Any]  # every parameter that changes a score


def score_selected(
    store: Store,
    *,
    model: str | Path | None = None,
    learning_rate: float | None = None,
    optimizer_state: str | Path | None = None,
    step: str = "ascent",
    loss: str = "mean",
    queries: int | None = None,
    device: str = "auto",
    batch_tokens: int = 4096,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score the examples of `selected_examples` for the first queries: a forward pass over them for each.

    Args:
        model: the model's folder; where the store last saw its only causal LM, if not given.
        learning_rate: of the step, as in `tail_patch`, whose defaults it has.
        optimizer_state: file of the optimizer's state_dict: the step is then Adam's direction, without momentum.
        step: `ascent` on the query's loss, as published, or `descent`.
        loss: of an example: the `mean` over its tokens or their `sum`. A query's is the mean over its target.
        queries: only the first so many, by query_id.
        progress: called with the example passes done and all there are.

    Raises:
        InputError: an option, the model or its optimizer state is unusable, or nothing can be scored.
        MismatchError: another model is at the path now.
    """
    _check(step, loss, learning_rate, queries)
    loaded = causal.load_known(store, model, device)
    moments = None if optimizer_state is None else optimizer.parameter_moments(optimizer_state, loaded.model)
    rate = learning_rate or LEARNING_RATES["sgd" if moments is None else "adam"]
    rows = store.named("mirrored", "queries", {"n": 2**62 if queries is None else queries}).fetchall()
    asked = [item for item in sequences.queries(rows, loaded.tokenizer, loaded.context) if item.windows]
    texts = store.named("mirrored", "examples").fetchall()
    known = [
        item
        for item in sequences.examples(texts, loaded.tokenizer, loaded.context, "truncate")
        if item.windows
    ]
    if not asked or not known:
        which = "query has a target that the model can read" if known else "example has a token to predict"
        raise InputError(f"{store.path}: nothing to score; no {which}.")
    mirror = Mirror(loaded.model, rate * -SIGNS[step], moments)
    example_ids, changes = mirror(asked, list(sequences.batches(known, batch_tokens)), loss, progress)
    finite = changes.isfinite()
    stepped, whole = finite.any(dim=1), finite[finite.any(dim=1)].all(dim=0)
    if not (stepped.any() and whole.any()):
        raise InputError(
            f"--model {loaded.path}: no loss is finite, or none after the step. Check the model; try a smaller "
            "--learning-rate."
        )
    causal.register(store, loaded)
    spec = {
        "model": loaded.fingerprint,
        "optimizer_state": optimizer.fingerprint(moments),
        "learning_rate": rate,
        "step": step,
        "loss": loss,
        "queries": queries,
    }
    usable = [item.key for item, ok in zip(asked, stepped.tolist(), strict=True) if ok]
    scores = SIGNS[step] * changes[stepped][:, whole]
    return Scores(usable, example_ids[whole], scores.float(), spec)


class Mirror:
    """Measures what a step on each of some queries does to the losses of examples.

    Args:
        model: frozen, in evaluation mode; it is only read.
        learning_rate: of a descent step; negative for ascent.
        moments: as of `OneStep`.
    """

    def __init__(self, model: Any, learning_rate: float, moments: Mapping[str, Full] | None) -> None:
        self.step = OneStep(model, learning_rate, moments)

    def __call__(
        self,
        queries: Sequence[Item],
        batches: Sequence[Batch],
        loss: str = "mean",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Tensor, Tensor]:
        """Return example_ids [n] and loss after - loss before: float64 [queries, n], on the CPU.

        A query whose gradient is not finite has a row of NaN.
        """
        items = [item for batch in batches for item in batch.items]
        total, done = len(items) * (len(queries) + 1), 0

        def losses(model: Any) -> Tensor:
            nonlocal done
            parts = []
            for batch in batches:
                parts.append(-target_logprobs(model, batch, split=self.step.split, precise=False))
                done += len(batch.items)
                progress(done, total)
            return torch.cat(parts)

        # The same batches before and after, so that the rounding that depends on a batch's shape cancels.
        before = losses(self.step.model)
        changes = torch.full((len(queries), len(items)), torch.nan, dtype=torch.float64)
        for row, query in enumerate(queries):
            if self.step(query):
                changes[row] = losses(self.step.copy) - before
        if loss == "mean":
            changes /= torch.tensor([item.n_targets for item in items])
        return torch.tensor([item.key for item in items]), changes


def _check(step: str, loss: str, learning_rate: float | None, queries: int | None) -> None:
    for option, value, known in (("--step", step, tuple(SIGNS)), ("--loss", loss, LOSSES)):
        if value not in known:
            raise InputError(f"{option} {value}: there is no such choice; there are {', '.join(known)}")
    if learning_rate is not None and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError(f"--learning-rate {learning_rate}: must be above 0")
    if queries is not None and queries < 1:
        raise InputError(f"--queries {queries}: must be at least 1")
