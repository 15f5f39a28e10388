"""A model that is larger than its device: accelerate fetches a layer's weights from memory or disk when it is run."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

import torch

from attrstore.errors import InputError, flag
from attrstore.vectors.devices import choose_device

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

DEVICE = "offload"  # in the place of a device's name
SHARE = 0.8  # of a GPU's free memory that weights may take; the rest is for what is computed


def refuse(named: str, what: str) -> None:
    """Refuse to run part by part what is no plain model in a folder."""
    raise InputError(
        f"{named}: {flag('device')} {DEVICE} is for a folder with a whole model, and this is {what}. Save it with "
        f"save_pretrained, merged, or give another {flag('device')}."
    )


def placement() -> dict[str, Any]:
    """Return how transformers is told to place a model: on the first GPU, if any, then in memory, then on disk."""
    from accelerate.utils import get_max_memory

    most = {place: size for place, size in get_max_memory().items() if place in (0, "cpu")}
    if 0 in most:
        most[0] = int(SHARE * most[0])
    return {"device_map": "auto", "max_memory": most, "offload_folder": tempfile.mkdtemp(prefix="attrstore-")}


def tidy(model: PreTrainedModel, placed: dict[str, Any]) -> None:
    """Remove the folder of the weights on disk when the model goes."""
    weakref.finalize(model, shutil.rmtree, placed["offload_folder"], ignore_errors=True)


def device_of(model: nn.Module) -> torch.device:
    """Return where a model computes, which is not where all of its weights are if it is offloaded."""
    if getattr(model, "hf_device_map", None) is not None:
        return choose_device("auto")
    parameter: torch.nn.Parameter = next(model.parameters())
    return parameter.device
