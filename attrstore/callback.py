"""A callback of the transformers Trainer that keeps what attribution needs of each checkpoint, and no more."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

FOLDER = "attribution"
_ROWS, _COLUMNS, _WHOLE = "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"


class KeepForAttribution(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Writes DIR/checkpoint-N at each save: weights, tokenizer, second moments, the last step's learning rate.

    Second moments of matrices are kept as their row and column means (Adafactor's form), all that `correction` factored
    uses: a checkpoint takes little more than its weights, a third of what the Trainer's own takes with AdamW. With
    `save_only_model` and `save_total_limit` the Trainer's own need not pile up. `attrstore ingest gradients --run DIR`
    takes them all.

    Args:
        folder: DIR; `attribution` in the Trainer's output folder, if not given.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.rate: float | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **trained: Any
    ) -> None:
        """Note the learning rate: when a checkpoint is saved, the schedule has gone on."""
        self.rate = float(trained["optimizer"].param_groups[0]["lr"])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **trained: Any
    ) -> None:
        """Write the checkpoint, complete or not at all."""
        if not state.is_world_process_zero:
            return
        folder = (self.folder or Path(args.output_dir) / FOLDER) / f"checkpoint-{state.global_step}"
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        trained["model"].save_pretrained(unfinished)
        if trained.get("processing_class") is not None:
            trained["processing_class"].save_pretrained(unfinished)
        moments = second_moments(trained["model"], trained["optimizer"])
        if moments["state"]:
            torch.save(moments, unfinished / "optimizer.pt")
        # In the Trainer's own form, so that a run of either is read in one way.
        logged = {"step": state.global_step, "learning_rate": self.rate}
        described = json.dumps({"global_step": state.global_step, "log_history": [logged]})
        (unfinished / "trainer_state.json").write_text(described, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # of the same step, where a run went on from an earlier one
        os.replace(unfinished, folder)


def second_moments(model: Any, optimizer: Any) -> dict[str, Any]:
    """Return the second moments of an optimizer as a state_dict by the parameters' names, matrices factored."""
    group = optimizer.param_groups[0]
    kept = {
        key: group[key]
        for key in ("lr", "initial_lr", "betas", "eps", "decay_rate", "beta2_decay")
        if key in group
    }
    entries = {
        name: _entry(optimizer.state[parameter])
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }
    state = {name: entry for name, entry in entries.items() if len(entry) > 1}
    return {"state": state, "param_groups": [{**kept, "params": list(state)}]}


def _entry(state: dict[str, Any]) -> dict[str, Tensor]:
    """Keep a parameter's step and second moment; the rest of the state is of no use to attribution."""
    names = (_WHOLE, _ROWS, _COLUMNS, "row_var", "col_var", "variance")
    found = {name: state[name].detach().float().cpu() for name in names if state.get(name) is not None}
    whole = found.get(_WHOLE)
    if whole is not None and whole.ndim == 2:
        del found[_WHOLE]
        found |= {_ROWS: whole.mean(dim=1), _COLUMNS: whole.mean(dim=0)}
    return {"step": torch.as_tensor(state.get("step", 0)).float().cpu(), **found}
