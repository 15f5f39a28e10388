"""The checkpoints of a training run: folders checkpoint-N, and the learning rate that each was reached with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from attrstore.errors import InputError, flag
from attrstore.ingest.model import broken, weights
from attrstore.ingest.model.adapters import CONFIG

STATE = "trainer_state.json"


class Checkpoint(NamedTuple):
    """One checkpoint of a run."""

    folder: Path
    step: int
    rate: float  # the optimizer's learning rate
    logged: int  # the step that the rate was logged at: the checkpoint's own, or the last before it


def checkpoints(run: Path) -> list[Checkpoint]:
    """Return the checkpoints of a folder that the transformers Trainer wrote, or `KeepForAttribution`, by step.

    Raises:
        InputError: there are none, or one's learning rate is not known.
        MismatchError: they are not of one model.
    """
    found = [
        Checkpoint(folder, step, *_rate(run, folder, step))
        for step, folder in sorted(
            (int(folder.name.removeprefix("checkpoint-")), folder)
            for folder in run.glob("checkpoint-*")
            if folder.name.removeprefix("checkpoint-").isdigit()
        )
    ]
    if not found:
        raise InputError(
            f"{flag('run')} {run}: no folder checkpoint-N in it. Give the folder that the Trainer saves to."
        )
    if not any((checkpoint.folder / CONFIG).is_file() for checkpoint in found):
        weights.refuse_other_shapes([checkpoint.folder for checkpoint in found])
    return found


def _rate(run: Path, folder: Path, step: int) -> tuple[float, int]:
    """Return the learning rate at a step, and the step that it was logged at."""
    file = folder / STATE
    if not file.is_file():
        raise InputError(
            f"{flag('run')} {run}: {folder.name} has no {STATE}, so its learning rate is not known. Encode each "
            f"checkpoint with {flag('model')}, and give the rates to tracincp as weights."
        )
    history = broken.json_object(file, f"{flag('run')} {run}: {folder.name}").get("log_history")
    rates = {
        entry["step"]: float(entry["learning_rate"])
        for entry in (history if isinstance(history, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("step"), int)
        and entry["step"] <= step
        and isinstance(entry.get("learning_rate"), int | float)
        and math.isfinite(entry["learning_rate"])
    }
    if not rates:
        raise InputError(
            f"{flag('run')} {run}: {folder.name}/{STATE} has no learning rate logged up to step {step}. Train with "
            "logging_steps no larger than save_steps, or with attrstore.callback.KeepForAttribution."
        )
    return rates[max(rates)], max(rates)
