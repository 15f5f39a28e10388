"""Where tensors are computed with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.errors import InputError, flag

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is CUDA where there is one.

    Raises `InputError` where torch has no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"{flag('device')} {name}: this torch sees no CUDA device. Use cpu.")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"{flag('device')} {name}: there is no such device; there are auto, cpu, cuda"
        ) from error
