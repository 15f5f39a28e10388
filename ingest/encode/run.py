"""Encode the gradients at every checkpoint of a training run, each with an encoder of its own, for TracInCP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from attrstore.errors import InputError, flag
from attrstore.ingest.encode.gradients import plan
from attrstore.ingest.encode.job import ingest
from attrstore.ingest.encode.recipes import GradientFields, GradientRecipe
from attrstore.ingest.model import chosen_state
from attrstore.ingest.model import run as runs
from attrstore.progress import Progress, silent
from attrstore.runs import writes

if TYPE_CHECKING:
    from attrstore.ingest.encode.job import Encoded
    from attrstore.ingest.model.run import Checkpoint
    from attrstore.store import Store


@dataclass(frozen=True)
class EncodedRun:
    """What was encoded of each checkpoint, in the order of training."""

    checkpoints: list[Checkpoint]
    encoded: list[Encoded]

    @property
    def encoders(self) -> list[str]:
        """The encoders' names, as the method `tracincp` takes them."""
        return [encoded.encoder for encoded in self.encoded]

    @property
    def weights(self) -> list[float]:
        """The learning rates, as the method `tracincp` takes them."""
        return [checkpoint.rate for checkpoint in self.checkpoints]


@writes
def ingest_run(
    store: Store,
    recipe: GradientRecipe | None = None,
    *,
    run: str | Path,
    optimizer_state: str | Path | None = None,
    name: str | None = None,
    progress: Progress = silent,
    **fields: Unpack[GradientFields],
) -> EncodedRun:
    """Encode the gradients at each checkpoint of a run, as `ingest_gradients` does at one.

    Args:
        run: folder with the folders checkpoint-N that the transformers Trainer wrote, or `KeepForAttribution`.
        optimizer_state: `none` to leave out the states that lie in the checkpoints; they are used if not given.
        name: of the encoders, before each one's step: `checkpoint` if not given.
        progress: called with the examples encoded and those to encode, of all checkpoints.

    Raises:
        InputError: no checkpoints, a learning rate is not known, or as `ingest_gradients`.
        MismatchError: the checkpoints are not of one model, or as `ingest_gradients`.
    """
    recipe = replace(recipe or GradientRecipe(), **fields)
    if optimizer_state is not None and str(optimizer_state) != chosen_state.NONE:
        raise InputError(
            f"{flag('optimizer_state')} {optimizer_state}: each checkpoint of a run has its own. Leave it out, or give "
            f"{chosen_state.NONE}."
        )
    found = runs.checkpoints(Path(run))

    def step(done: int, total: int, before: int) -> None:
        progress(before * total + done, len(found) * total)

    encoded = []
    for i, checkpoint in enumerate(found):
        planned = plan(
            store,
            recipe,
            model=checkpoint.folder,
            optimizer_state=optimizer_state,
            name=f"{name or 'checkpoint'}-{checkpoint.step}",
            keeps_name=True,
        )
        encoded.append(ingest(store, planned, partial(step, before=i)))
    return EncodedRun(found, encoded)
