"""Train the demo's model again on subsets of its corpus, and measure every query's target each time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import attrstore
from attrstore.demo.run import MODEL, STORE
from attrstore.errors import InputError, Interrupted, MismatchError
from attrstore.evaluation import subsets as chosen
from attrstore.progress import Progress, silent
from attrstore.runs import recorded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attrstore.demo.train import Training
    from attrstore.runs import Run
    from attrstore.store import Store


@dataclass
class Retrained:
    """What a job did."""

    store: Path
    models: int = 0  # trained now
    steps: int = 0  # of the whole corpus


def retrain(
    folder: Path,
    *,
    subsets: str = "lds",
    seeds: int = 1,
    steps: int | None = None,
    recipe: Training | None = None,
    progress: Progress = silent,
) -> Retrained:
    """Write `subset_losses` for the subsets of the demo in `folder` that have none yet.

    Each model has the demo's architecture, tokenizer and recipe and sees its subset as many times as the demo's
    model saw the corpus: a subset that keeps half of it takes half of the steps. Retraining number s starts from
    seed s on every subset, so that what differs between subsets is what they leave out. The losses of one
    model are one transaction; a stopped or killed job goes on with the same call.

    Args:
        folder: of a finished demo.
        subsets: name of the set.
        seeds: retrainings of each subset, with the seeds 0, 1, ...
        steps: what the whole corpus would take; the recipe's if not given. Fewer are cheaper, and then the models
            are no longer those of the demo's recipe, whose scores are judged.
        recipe: the demo's own, if not given.
        progress: called with the models trained and to be trained.

    Raises:
        InputError: no demo there, or no such set.
        MismatchError: the corpus has changed, or the set has losses of another training.
        Interrupted: the user pressed Ctrl-C; what was measured is committed.
    """
    for option, number in (("--seeds", seeds), ("--steps", steps)):
        if number is not None and number < 1:
            raise InputError(f"{option} {number}: must be at least 1")
    for part in (folder / STORE, folder / MODEL / "config.json"):
        if not part.is_file():
            raise InputError(f"{part}: not there. Make the demo first: attrstore demo {folder}")
    from attrstore.demo.train import Training

    recipe = recipe or Training()
    recipe = replace(recipe, steps=steps or recipe.steps)
    with attrstore.open(folder / STORE, writable=True) as store:
        chosen.require(store, subsets)
        job = Job(store, folder / MODEL, subsets, recipe)
        job.refuse_other_training()
        parameters = {"subsets": subsets, "seeds": seeds, "origin": job.origin}
        with recorded(store, "retrain", **parameters) as run:
            job(seeds, run, progress)
    return Retrained(folder / STORE, job.models, recipe.steps)


class Job:
    """Trains the models of one set, one after the other."""

    def __init__(self, store: Store, model: Path, subsets: str, recipe: Training) -> None:
        from transformers import LlamaConfig

        from attrstore.ingest.model import causal, sequences

        self.store, self.subsets, self.recipe = store, subsets, recipe
        self.config = LlamaConfig.from_pretrained(model)
        self.tokenizer = causal.load(model, device="cpu").tokenizer
        rows = store.rows("SELECT query_id, prompt, target FROM queries ORDER BY query_id")
        context = self.config.max_position_embeddings
        items = sequences.queries(rows, self.tokenizer, context)
        self.queries = [item for item in items if item.windows]
        self.models = 0

    @property
    def origin(self) -> str:
        """How the models are trained, as it stands beside each loss."""
        recipe = self.recipe
        return (
            f"demo: {recipe.steps} steps of {recipe.batch} on the whole corpus, "
            f"learning rate {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}"
        )

    def refuse_other_training(self) -> None:
        """Refuse to average losses that were made in different ways."""
        found = self.store.named("subsets", "origins", {"set": self.subsets}).fetchall()
        others = [origin for (origin,) in found if origin != self.origin]
        if others:
            raise MismatchError(
                f"--subsets {self.subsets}: has losses of {others[0]!r}, and this is {self.origin!r}. Train the same "
                f"way, or make another set: attrstore subsets {self.store.path} --name NAME"
            )

    def __call__(self, seeds: int, run: Run, progress: Progress) -> None:
        """Train and measure what has no losses yet."""
        from attrstore.ingest.stopping import ctrl_c

        asked = {"set": self.subsets, "retrainings": seeds, "queries": [item.key for item in self.queries]}
        work = self.store.named("subsets", "pending", asked).fetchall()
        progress(0, len(work))
        with ctrl_c() as stopped:
            for subset, seed in work:
                losses = self.train(subset, seed)
                self._commit(subset, seed, losses)
                run.rows += len(losses)
                self.models += 1
                progress(self.models, len(work))
                if stopped[0] and self.models < len(work):
                    raise Interrupted(
                        f"stopped after {self.models} of {len(work)} models, all committed. Run the same command "
                        "again to go on."
                    )

    def train(self, subset: int, seed: int) -> dict[int, float]:
        """Train on what the subset keeps; return the loss of each query's target in nats."""
        from attrstore.demo.train import fit

        key = {"set": self.subsets, "subset": subset}
        texts = [text for (text,) in self.store.named("subsets", "kept_texts", key).fetchall()]
        n_examples = self.store.value("SELECT count(*) FROM examples")
        steps = max(1, round(self.recipe.steps * len(texts) / n_examples))
        encoded: list[list[int]] = [self.tokenizer(text)["input_ids"] for text in texts]
        recipe = replace(self.recipe, steps=steps, report_every=steps)
        model, _, _ = fit(self.config, encoded, recipe, seed=seed)
        return self._losses(model)

    def _losses(self, model: PreTrainedModel) -> dict[int, float]:
        from attrstore.demo.train import one_thread
        from attrstore.ingest.model import backward, sequences

        measure = backward.Backward(model.eval().requires_grad_(False))
        losses: dict[int, float] = {}
        with one_thread():
            for batch in sequences.batches(self.queries, 4096):
                # A query has one window, so that windows are queries.
                losses |= zip((item.key for item in batch.items), measure(batch).tolist(), strict=True)
        return losses

    def _commit(self, subset: int, seed: int, losses: dict[int, float]) -> None:
        import pyarrow

        table = pyarrow.table({"query_id": list(losses), "loss": list(losses.values())})
        key = {"set": self.subsets, "subset": subset, "seed": seed}
        with self.store.transaction(), self.store.registered(measured=table):
            self.store.named("subsets", "drop_losses", key)
            self.store.named("subsets", "insert_losses", {**key, "origin": self.origin})
