"""Read two checkpoints' weights side by side, a tensor at a time, without building a model."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from attrstore.errors import InputError, MismatchError, flag
from attrstore.ingest.model import broken

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 2**22  # numbers held in float64 at a time


class Change(NamedTuple):
    """How far one tensor lies between two checkpoints a and b; the columns of `parameter_changes`."""

    parameter: str
    n: int
    from_square: float  # |a|^2
    to_square: float  # |b|^2
    change_square: float  # |b - a|^2
    inner_product: float  # <a, b>


class Weights:
    """The tensors of a folder's `*.safetensors` files, by name, read when they are asked for."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        from safetensors import safe_open

        self.folder = folder
        self._file_of: dict[str, Any] = {}
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"{flag('model')} {folder}: no weights (*.safetensors).")
        for path in files:
            with broken.named(f"{flag('model')} {folder}: {path.name} cannot be read."):
                file = opened.enter_context(safe_open(path, framework="pt"))
            self._file_of |= dict.fromkeys(file.keys(), file)

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The tensors' shapes, from the files' headers alone."""
        return {name: file.get_slice(name).get_shape() for name, file in self._file_of.items()}

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor


def refuse_files_elsewhere(folder: Path, named: str) -> None:
    """Refuse weights that stand in another folder than their index: what is loaded is what the fingerprint covers."""
    names: set[object] = set()
    for index in folder.glob("*.safetensors.index.json"):
        of_tensors = broken.json_object(index, named).get("weight_map")
        if not isinstance(of_tensors, dict):
            raise InputError(f"{named}: {index.name} has no weight_map.")
        names |= set(map(str, of_tensors.values()))
    chosen = broken.json_object(folder / "config.json", named).get("transformers_weights")
    names |= set() if chosen is None else {chosen}
    there = {file.name for file in folder.glob("*.safetensors")}
    for name in sorted(map(str, names - there)):
        problem = "is not there" if Path(name).name == name else "is not a file of this folder itself"
        raise InputError(
            f"{named}: its weights are to be in {name}, which {problem}. Save the model again with save_pretrained."
        )


def refuse_other_shapes(folders: list[Path]) -> None:
    """Refuse folders whose tensors differ in name or shape from the first one's."""
    with ExitStack() as opened:
        first, *others = (Weights(folder, opened) for folder in folders)
        expected = first.shapes
        for other in others:
            found = other.shapes
            for name in sorted(expected.keys() | found.keys()):
                if expected.get(name) != found.get(name):
                    raise MismatchError(
                        f"{flag('model')} {other.folder}: {name} is {found.get(name, 'missing')}, "
                        f"and in {first.folder} "
                        f"{expected.get(name, 'missing')}. Compare checkpoints of one model."
                    )


def changes(one: Path, other: Path) -> Iterator[Change]:
    """Yield how far each tensor of numbers lies between two folders of the same shapes, in order of name."""
    with ExitStack() as opened:
        a, b = Weights(one, opened), Weights(other, opened)
        for name in sorted(a.shapes):
            if a[name].is_floating_point():
                yield change(name, a[name], b[name])


def change(name: str, a: Tensor, b: Tensor) -> Change:
    """Sum up one tensor's change, in float64."""
    sums = torch.zeros(4, dtype=torch.float64)
    for x, y in zip(a.flatten().split(PIECE), b.flatten().split(PIECE), strict=True):
        x, y = x.double(), y.double()
        sums += torch.stack([x @ x, y @ y, (y - x) @ (y - x), x @ y])
    return Change(name, a.numel(), *sums.tolist())
