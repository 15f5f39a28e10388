"""Bring optimizers' states as people have them into torch.optim's form: by name, flattened, wrapped, in 8 bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attrstore.errors import InputError, flag

# What wrappers put into the names of parameters: FSDP, torch.compile, DistributedDataParallel.
_WRAPPED = re.compile(r"_fsdp_wrapped_module\.|_orig_mod\.|^module\.")
_QUANTISED = (
    "__bnb_optimizer_quant_state__"  # bitsandbytes hides from FSDP what is not of the parameter's shape
)
_BLOCKS = (256, 2048, 4096, 1024, 512, 128, 64)  # sizes of blocks in bitsandbytes, today's first
_DEEPSPEED = {"optimizer_state_dict", "base_optimizer_state", "single_partition_of_fp32_groups", "zero_stage"}
_KEEP = "Train with attrstore.callback.KeepForAttribution, or encode without it (none)."


def refuse_shards(path: Path) -> None:
    """Refuse files and folders that hold one rank's part of a state, by what their names say."""
    where = f"{flag('optimizer_state')} {path}"
    if path.is_dir():
        raise InputError(
            f"{where}: a folder. FSDP's shards (*.distcp) become one file with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save; give that."
        )
    if path.name.endswith("_optim_states.pt"):
        raise InputError(f"{where}: a rank's part of a DeepSpeed state, flattened across parameters. {_KEEP}")


def plain(content: Any, path: Path) -> dict[str, object] | None:
    """Return a file's content as a state_dict with `state` and `param_groups`; None where it is none.

    Raises `InputError` where it is a state that cannot be read, by name.
    """
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("optimizer"), dict):  # as people save it with the model, and FSDP's tool
        content = content["optimizer"]
    if _DEEPSPEED & content.keys():
        raise InputError(
            f"{flag('optimizer_state')} {path}: a DeepSpeed state, flattened across parameters. {_KEEP}"
        )
    if any(str(key).startswith("state.") for key in content):
        content = _unflattened(content)
    if not {"state", "param_groups"} <= content.keys() or not isinstance(content["state"], dict):
        return None
    # Names stay those of the groups' parameters, so that an entry's settings are found.
    names = {key: _WRAPPED.sub("", key) if isinstance(key, str) else key for key in content["state"]}
    groups = [
        {**group, "params": [names.get(key, key) for key in group["params"]]}
        for group in content["param_groups"]
    ]
    entries = {names[key]: _entry(entry, key, path) for key, entry in content["state"].items()}
    return {"state": entries, "param_groups": groups}


def _unflattened(content: Mapping[str, object]) -> dict[str, object]:
    """Take apart names such as `state.model.norm.weight.exp_avg_sq`, as torch.distributed.checkpoint flattens them."""
    parts: dict[str, dict[str, dict[str, object]]] = {"state": {}, "param_groups": {}}
    for key, value in content.items():
        kind, _, rest = key.partition(".")
        name, _, field = rest.rpartition(".")
        if kind in parts:
            parts[kind].setdefault(name, {})[field] = value
    groups = [{**settings, "params": [name]} for name, settings in parts["param_groups"].items()]
    return {"state": parts["state"], "param_groups": groups}


def _entry(entry: Mapping[str, object], name: object, path: Path) -> Mapping[str, object]:
    """Return an entry with the names of torch.optim; of bitsandbytes only the second moment, made whole."""
    hidden = entry.get(_QUANTISED)
    known = {**entry, **hidden} if isinstance(hidden, dict) else entry
    if "state1" not in known:
        return entry
    second = known.get("state2")
    if not isinstance(second, Tensor):
        raise InputError(
            f"{flag('optimizer_state')} {path}: bitsandbytes' state of parameter {name} has one moment (of Lion, "
            "RMSprop, Adagrad or SGD), and no second one that corrects as Adam's does. Encode without it (none)."
        )
    if second.dtype == torch.uint8:
        second = _dequantised(second, known, name, path)
    return {"step": torch.tensor(float(str(known.get("step", 0)))), "exp_avg_sq": second}


def _dequantised(codes: Tensor, entry: Mapping[str, object], name: object, path: Path) -> Tensor:
    """Look each code up and scale it by the largest value of its block: float32, in the parameter's shape."""
    table, scales = entry.get("qmap2"), entry.get("absmax2")
    n = codes.numel()
    size = None
    if isinstance(scales, Tensor):
        size = next((size for size in _BLOCKS if -(-n // size) == scales.numel()), None)
    if not isinstance(table, Tensor) or not isinstance(scales, Tensor) or size is None:
        raise InputError(
            f"{flag('optimizer_state')} {path}: bitsandbytes' state of parameter {name} is not quantised in blocks "
            f"(it has {', '.join(entry)}), and is not read. Encode without it (none)."
        )
    of_each = scales.float().repeat_interleave(size)[:n]
    return (table.float()[codes.flatten().long()] * of_each).view(codes.shape)
