"""Which optimizer's state is used: one rule for every command that can use one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attrstore.errors import InputError, flag

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "optimizer.pt"  # as the Hugging Face Trainer calls it
NONE = "none"

T = TypeVar("T")


def choose(wanted: str | Path | None, model: str | Path, read: Callable[[Path], T]) -> tuple[T | None, str]:
    """Read the optimizer's state that is to be used, if one is, and say in a line which.

    It is the file that was asked for; if none was, `optimizer.pt` in the model's folder, where it is there and can be
    read. `none` asks for none.

    Args:
        wanted: a file, `none`, or None.
        model: the model's folder or file.
        read: takes the file, or raises `InputError`.

    Raises `InputError` where the file that was asked for cannot be used.
    """
    name = flag("optimizer_state")
    if wanted is not None and str(wanted) == NONE:
        return None, f"optimizer's state: none, as {name} {NONE} asks"
    if wanted is not None:
        return read(Path(wanted)), f"optimizer's state: {wanted}"
    found = beside(model)
    if not found.is_file():
        return None, f"optimizer's state: none; there is no {found}, and no {name} was given"
    try:
        return read(found), f"optimizer's state: {found}, beside the model; {name} {NONE} leaves it out"
    except InputError as error:
        reason = str(error).split(f"{found}: ", 1)[-1]
        return None, f"optimizer's state: none; {found} is not used: {reason}"


def beside(model: str | Path) -> Path:
    """Return where the optimizer's state of a model's folder, or of a file in one, would be."""
    place = Path(model)
    return (place.parent if place.is_file() else place) / FILE
