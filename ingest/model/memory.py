"""A model that is in memory already, with its tokenizer: taken as it is, and left as it was."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from attrstore.errors import InputError, flag
from attrstore.ingest.model import adapters, broken, fingerprints

PLACE = "a model in memory"  # what stands for its folder where it has none


@dataclass(frozen=True)
class InMemory:
    """A causal language model of transformers and its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def named(self) -> str:
        """What messages call it."""
        return f"{flag('model')}: {type(self.model).__name__}"

    def frozen(self) -> Any:
        """Return a copy whose weights are the model's own memory, in evaluation mode and without gradients.

        Raises `InputError` where the object is no plain model of transformers.
        """
        from transformers import PreTrainedModel

        if not isinstance(self.model, PreTrainedModel) or any(adapters.matrices(self.model)):
            raise InputError(
                f"{self.named}: not a plain model of transformers. Save one with an adapter, or wrapped, with "
                f"save_pretrained and give the folder as {flag('model')}."
            )
        if not hasattr(self.tokenizer, "get_vocab"):
            raise InputError(f"{self.named}: needs its tokenizer beside it. Give tokenizer=...")
        of_other_kinds = {type(p).__name__ for p in self.model.parameters() if type(p) is not nn.Parameter}
        if of_other_kinds:
            raise InputError(
                f"{self.named}: its weights are {', '.join(sorted(of_other_kinds))}, quantised or sharded, which are "
                "not read from memory. Give a model whose weights are whole tensors."
            )
        shared: dict[int, Any] = {
            id(p): nn.Parameter(p.detach(), requires_grad=False) for p in self.model.parameters()
        }
        return copy.deepcopy(self.model, shared).eval()

    def refuse_other(self, device: str, dtype: torch.dtype) -> torch.device:
        """Refuse a model of another precision or place than is asked for; return where it is."""
        devices = {p.device for p in self.model.parameters()}
        dtypes = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        if dtypes != {dtype}:
            there = ", ".join(sorted(str(found).removeprefix("torch.") for found in dtypes))
            wanted = str(dtype).removeprefix("torch.")
            raise InputError(
                f"{self.named}: its weights are {there}, and {flag('dtype')} is {wanted}. Give {flag('dtype')} "
                f"{there}, or the model in {wanted}."
            )
        if len(devices) != 1 or torch.device("meta") in devices:
            there = ", ".join(sorted(map(str, devices)))
            raise InputError(
                f"{self.named}: its weights are on {there}. Move them to one device, or give the model's folder with "
                f"{flag('device')} offload."
            )
        place: torch.device = devices.pop()
        if device not in ("auto", str(place), place.type):
            raise InputError(
                f"{self.named}: it is on {place}, and {flag('device')} is {device}. Leave {flag('device')} out, or "
                "move the model."
            )
        return place


def identity(frozen: Any, named: str) -> tuple[str, str]:
    """Return the fingerprint of what `save_pretrained` writes of the model, and the folder that holds just that.

    The weights are written to a temporary folder and hashed there: only transformers knows what it writes of tied
    weights and of those that it names otherwise in files. Where the model came from a folder whose files are still
    the same, that is the folder.
    """
    # save_pretrained writes into the config of what it saves: the frozen copy's.
    origin = Path(str(getattr(frozen.config, "_name_or_path", "") or ""))
    with TemporaryDirectory() as folder:
        with broken.named(f"{named}: cannot be saved, so that it cannot be told from others."):
            frozen.save_pretrained(folder)
        fingerprint = fingerprints.of_folder(Path(folder))
    same = (origin / "config.json").is_file() and fingerprints.of_folder(origin) == fingerprint
    return fingerprint, str(origin) if same else PLACE
