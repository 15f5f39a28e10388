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

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.ingest.measure.one_step import OneStep
from attrstore.ingest.measure.options import LEARNING_RATES
from attrstore.ingest.model import causal, chosen_state, optimizer, sequences
from attrstore.ingest.model.logprobs import target_logprobs
from attrstore.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from attrstore.ingest.measure.one_step import Moment
    from attrstore.ingest.model.sequences import Batch, Item
    from attrstore.methods.mirrored import MirroredOptions
    from attrstore.store import Store

SIGNS = {"ascent": 1, "descent": -1}  # of the change in an example's loss that makes it a proponent


@dataclass(frozen=True)
class Scores:
    """The scores of some queries and examples."""

    query_ids: list[int]
    example_ids: Tensor  # int64 [n]
    scores: Tensor  # float32 [queries, n]
    spec: dict[str, object]  # every parameter that changes a score


def score_selected(store: Store, options: MirroredOptions, progress: Progress = silent) -> Scores:
    """Score the examples of `selected_examples` for the first queries: a forward pass over them for each.

    Args:
        options: the step and the loss; a query's loss is the mean over its target.
        progress: called with the example passes done and all there are.

    Raises:
        InputError: the model or its optimizer state is unusable, or nothing can be scored.
        MismatchError: another model is at the path now.
    """
    loaded = causal.load_known(store, options.model, options.device)
    moments, _ = chosen_state.choose(
        options.optimizer_state, loaded.path, partial(optimizer.parameter_moments, model=loaded.model)
    )
    form = "sgd" if moments is None else "adamw"
    rate = options.learning_rate or LEARNING_RATES[form]
    rows = store.named(
        "mirrored", "queries", {"n": 2**62 if options.queries is None else options.queries}
    ).fetchall()
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
    mirror = Mirror(loaded.model, rate * -SIGNS[options.step], moments)
    example_ids, changes = mirror(
        asked, list(sequences.batches(known, options.batch_tokens)), options.loss, progress
    )
    finite = changes.isfinite()
    stepped, whole = finite.any(dim=1), finite[finite.any(dim=1)].all(dim=0)
    if not (stepped.any() and whole.any()):
        raise InputError(
            f"{flag('model')} {loaded.path}: no loss is finite, or none after the step. Check the model; try a smaller "
            f"{flag('learning_rate')}."
        )
    causal.register(store, loaded)
    spec: dict[str, object] = {
        "model": loaded.fingerprint,
        "optimizer": form,
        "optimizer_state": optimizer.fingerprint(moments),
        "learning_rate": rate,
        "step": options.step,
        "loss": options.loss,
        "queries": options.queries,
    }
    usable = [item.key for item, ok in zip(asked, stepped.tolist(), strict=True) if ok]
    scores = SIGNS[options.step] * changes[stepped][:, whole]
    return Scores(usable, example_ids[whole], scores.float(), spec)


class Mirror:
    """Measures what a step on each of some queries does to the losses of examples.

    Args:
        model: frozen, in evaluation mode; it is only read.
        learning_rate: of a descent step; negative for ascent.
        moments: as of `OneStep`.
    """

    def __init__(
        self, model: PreTrainedModel, learning_rate: float, moments: Mapping[str, Moment] | None
    ) -> None:
        self.step = OneStep(model, learning_rate, moments)

    def __call__(
        self,
        queries: Sequence[Item],
        batches: Sequence[Batch],
        loss: str = "mean",
        progress: Progress = silent,
    ) -> tuple[Tensor, Tensor]:
        """Return example_ids [n] and loss after - loss before: float64 [queries, n], on the CPU.

        A query whose gradient is not finite has a row of NaN.
        """
        items = [item for batch in batches for item in batch.items]
        total, done = len(items) * (len(queries) + 1), 0

        def losses(model: PreTrainedModel) -> Tensor:
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
