"""Read the second moment of each weight out of a saved AdamW or Adafactor state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Required, TypedDict, cast

import torch
from torch import Tensor, nn

from attrstore.errors import InputError, flag
from attrstore.ingest.model import adapters, broken, states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.ingest.model.linear import LinearMap

FLOOR = (
    1e-3  # share of the mean second moment that one step of a mean gradient gives, at AdamW's default beta2
)
# (row, column) factors as transformers' and torch's Adafactor name them
_FACTOR_NAMES = (("exp_avg_sq_row", "exp_avg_sq_col"), ("row_var", "col_var"))


class Full(NamedTuple):
    """The second moment of one weight."""

    values: Tensor  # [out, in]
    epsilon: float = 1e-8  # added to its square root, as AdamW does


class Saved(NamedTuple):
    """The second moment of one parameter, and what the optimizer does with it in its next step."""

    values: Tensor  # in the parameter's shape
    epsilon: float  # added to the root
    beta2: float  # how much of the values stays
    bias: float  # what the values are divided by after the step, as they began at zero
    rate: float  # the optimizer's learning rate


class Factored(NamedTuple):
    """Adafactor's two factors of it: V ~ row column^T / mean(row)."""

    row: Tensor  # [out]: mean over the inputs
    column: Tensor  # [in]: mean over the outputs


Moment = Full | Factored
Entry = Mapping[
    str, Tensor
]  # what the optimizer keeps of one parameter; of some its count of steps is a plain number


class Group(TypedDict, total=False):
    """Parameters with the same settings, as torch.optim saves them."""

    params: Required[list[int]]
    lr: float
    initial_lr: float
    betas: tuple[float, float]
    eps: float
    decay_rate: float
    beta2_decay: float


class State(TypedDict):
    """An optimizer's state_dict; FSDP and its like name the entries by parameter."""

    state: dict[int | str, Entry]
    param_groups: list[Group]


def second_moments(
    file: str | Path, model: nn.Module, maps: Sequence[LinearMap], correction: str
) -> dict[str, Moment]:
    """Return the second moment of each linear map's weight, by the map's name.

    The state's numbered entries are matched to the parameters that were trained (an adapter's own, or all) in
    the order of `torch.optim` or in the two groups of the Hugging Face Trainer (decayed, not decayed), whichever
    has the same shapes.

    Args:
        correction: `factored` (Adafactor's form, row and column means) or `full` (elementwise; of the embedding
            and the head factored all the same).

    Raises:
        InputError: the file cannot be read, is no such state, or fits no parameter order of the model.
    """
    state = _read(Path(file))
    by_name = _match(state, model, Path(file))
    moments = {}
    for linear in maps:
        if linear.weight not in by_name:
            raise InputError(
                f"{flag('optimizer_state')} {file}: nothing for {linear.weight}. It was not trained; encode without it."
            )
        # Of a vocabulary's matrix the whole gradient is never formed, so its correction is factored.
        form = correction if linear.role == "layer" else "factored"
        with broken.named(
            f"{flag('optimizer_state')} {file}: the entry of {linear.weight} is none of torch.optim's."
        ):
            moments[linear.name] = _moment(by_name[linear.weight], linear, form, Path(file))
    return moments


def parameter_moments(file: str | Path, model: nn.Module) -> dict[str, Saved]:
    """Return the second moment of every parameter that was trained, in the parameter's own shape, by its name.

    Raises:
        InputError: as `second_moments`, or an entry has another shape than its parameter.
    """
    saved = _read(Path(file))
    state = _match(saved, model, Path(file))
    moments = {}
    for name, parameter in adapters.trained(model).items():
        if state.get(name):
            with broken.named(
                f"{flag('optimizer_state')} {file}: the entry of {name} is none of torch.optim's."
            ):
                values = _whole(state[name], name, Path(file))
                moments[name] = Saved(values, *_settings(state[name], _group(saved, state[name])))
            if moments[name].values.shape != parameter.shape:
                raise InputError(
                    f"{flag('optimizer_state')} {file}: the second moment of {name} is "
                    f"{tuple(moments[name].values.shape)} and the parameter {tuple(parameter.shape)}."
                )
    if not moments:
        raise InputError(f"{flag('optimizer_state')} {file}: nothing for any parameter of the model.")
    return moments


def _group(saved: State, entry: Entry) -> Group:
    """Return the settings of the group that the entry's parameter is in."""
    own = next(key for key, of_key in saved["state"].items() if of_key is entry)
    groups = saved["param_groups"]
    return next((group for group in groups if own in group["params"]), groups[0])


def _settings(entry: Entry, group: Group) -> tuple[float, float, float, float]:
    """Return epsilon, beta2, bias and learning rate of an entry's next step."""
    step = float(entry.get("step", 0)) + 1
    rate = float(group.get("initial_lr") or group.get("lr") or 0)
    if "betas" in group:  # Adam and AdamW
        beta2 = float(group["betas"][1])
        return float(group.get("eps", 1e-8)), beta2, 1 - beta2**step, rate
    decay = float(
        group.get("decay_rate", group.get("beta2_decay", -0.8))
    )  # Adafactor's, of transformers and of torch
    return 1e-8, 1 - step**decay, 1.0, rate


def fingerprint(moments: Mapping[str, Saved] | None) -> str | None:
    """Hash the second moments: 16 hexadecimal digits."""
    if moments is None:
        return None
    digest = hashlib.sha256()
    for name, moment in sorted(moments.items()):
        digest.update(name.encode())
        digest.update(moment.values.numpy().tobytes())
    return digest.hexdigest()[:16]


def _whole(entry: Entry, name: str, file: Path) -> Tensor:
    where = f"{flag('optimizer_state')} {file}: the second moment of {name}"
    # what AdamW, and the two Adafactors for anything but a matrix, call it
    values: Tensor | None = next(
        (entry[key].float() for key in ("exp_avg_sq", "variance") if entry.get(key) is not None), None
    )
    for row, column in _FACTOR_NAMES:
        if values is None and row in entry and column in entry:
            rows = entry[row].float().flatten()
            values = torch.outer(rows, entry[column].float().flatten()) / rows.mean()
    if values is None:
        raise InputError(
            f"{where} is missing (it has {', '.join(entry)}); AdamW's and Adafactor's states are read."
        )
    if not torch.isfinite(values).all():
        raise InputError(f"{where} is not finite.")
    return values


def _read(file: Path) -> State:
    states.refuse_shards(file)
    if not file.is_file():
        raise InputError(f"{flag('optimizer_state')} {file}: no such file.")
    with broken.named(f"{flag('optimizer_state')} {file}: not a file of tensors written by torch.save."):
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    with broken.named(f"{flag('optimizer_state')} {file}: not a state_dict as torch.optim writes it."):
        state = states.plain(content, file)
    if state is None:
        raise InputError(
            f"{flag('optimizer_state')} {file}: not an optimizer's state_dict (no 'state', 'param_groups')."
        )
    return cast("State", state)


def _match(state: State, model: nn.Module, file: Path) -> dict[str, Entry]:
    with broken.named(f"{flag('optimizer_state')} {file}: not a state_dict as torch.optim writes it."):
        return _matched(state, model, file)


def _matched(state: State, model: nn.Module, file: Path) -> dict[str, Entry]:
    entries = state["state"]
    shapes = {name: tuple(parameter.shape) for name, parameter in adapters.trained(model).items()}
    if entries and all(isinstance(key, str) for key in entries):
        named = {str(name).removeprefix(adapters.PREFIX): entry for name, entry in entries.items()}
        _refuse_other_shapes(named, shapes, file)
        return named
    ids = [index for group in state["param_groups"] for index in group["params"]]
    problems = []
    for label, names in _orders(model, len(state["param_groups"])):
        problem = _first_misfit(ids, entries, names, shapes)
        if problem is None:
            return {name: entries[index] for index, name in zip(ids, names, strict=True) if index in entries}
        problems.append(f"{label}: {problem}")
    raise InputError(
        f"{flag('optimizer_state')} {file}: fits no order of the model's parameters. {'; '.join(problems)}."
    )


def _refuse_other_shapes(
    named: Mapping[str, Entry], shapes: Mapping[str, tuple[int, ...]], file: Path
) -> None:
    for name in sorted(named.keys() & shapes.keys()):
        found = _shape(named[name])
        if found not in (None, shapes[name]):
            raise InputError(
                f"{flag('optimizer_state')} {file}: {name} is {found} there and {shapes[name]} in the model."
            )


def _orders(model: nn.Module, n_groups: int) -> list[tuple[str, list[str]]]:
    """Return the parameter orders to try, the likelier first (the Trainer always makes two groups)."""
    names = list(adapters.trained(model))
    norms = {
        f"{name}.weight" for name, module in model.named_modules() if "norm" in type(module).__name__.lower()
    }
    plain = {name for name in names if name.endswith("bias") or name in norms}
    decayed = [name for name in names if name not in plain]
    orders = [
        ("as torch.optim", names),
        ("as the Trainer's groups", decayed + [name for name in names if name in plain]),
    ]
    return orders[::-1] if n_groups == 2 else orders


def _first_misfit(
    ids: list[int], entries: Mapping[int | str, Entry], names: list[str], shapes: dict[str, tuple[int, ...]]
) -> str | None:
    if len(ids) != len(names):
        return f"the state has {len(ids)} parameters and the model {len(names)}"
    for index, name in zip(ids, names, strict=True):
        found = _shape(entries.get(index, {}))
        if found is not None and found != shapes[name]:
            return f"parameter {index} is {found} and {name} is {shapes[name]}"
    return None


def _shape(entry: Entry) -> tuple[int, ...] | None:
    for key in ("exp_avg_sq", "exp_avg"):
        if key in entry and isinstance(entry[key], Tensor) and entry[key].ndim:
            return tuple(entry[key].shape)
    for row, column in _FACTOR_NAMES:
        if row in entry and column in entry:
            rows, columns = entry[row], entry[column]
            if rows.ndim == 1:
                return (rows.numel(), columns.numel())
            # torch's keep the dimension that they are the mean over, transformers' do not
            kept = rows.shape if row == _FACTOR_NAMES[0][0] else rows.shape[:-1]
            return (*kept, columns.shape[-1])
    return None


def _moment(entry: Entry, linear: LinearMap, correction: str, file: Path) -> Moment:
    where = f"{flag('optimizer_state')} {file}: the second moment of {linear.weight}"
    if linear.expert is not None:
        entry = {key: v[linear.expert] for key, v in entry.items() if isinstance(v, Tensor) and v.ndim > 1}
    if "exp_avg_sq" in entry and entry["exp_avg_sq"].ndim == 2:
        values = linear.oriented(entry["exp_avg_sq"].float())
        if not torch.isfinite(values).all():
            raise InputError(f"{where} is not finite.")
        return _full(values) if correction == "full" else _factored(values.mean(dim=1), values.mean(dim=0))
    for row_name, column_name in _FACTOR_NAMES:
        if row_name not in entry:
            continue
        row, column = entry[row_name].float().flatten(), entry[column_name].float().flatten()
        if not (torch.isfinite(row).all() and torch.isfinite(column).all()):
            raise InputError(f"{where} is not finite.")
        if linear.transposed:
            row, column = column, row
        return (
            _full(torch.outer(row, column) / row.mean()) if correction == "full" else _factored(row, column)
        )
    raise InputError(
        f"{where} is missing (it has {', '.join(entry)}); AdamW's and Adafactor's states are read."
    )


def _full(values: Tensor) -> Full:
    # AdamW adds (1 - beta2) g^2 before it divides, so no step is more than 1 / sqrt(1 - beta2) times its gradient's
    # sign. An encoding knows no g beforehand: where V is as good as zero, that of a mean weight stands in.
    return Full(values.clamp(min=float(values.mean()) * FLOOR))


def _factored(row: Tensor, column: Tensor) -> Factored:
    # An input that never varied has a second moment of zero; a floor far below the mean keeps it finite.
    return Factored(row.clamp(min=float(row.mean()) * 1e-8), column.clamp(min=float(column.mean()) * 1e-8))
