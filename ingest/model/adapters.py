"""Put a LoRA adapter (PEFT) onto its base model, and say which matrices it trains."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from attrstore.errors import InputError, flag
from attrstore.ingest.model import broken

if TYPE_CHECKING:
    from collections.abc import Iterator


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PeftModel's, before the names of the model it wraps
_MATRIX = re.compile(r"(.+\.lora_[AB])\.[^.]+")  # a matrix is named after its adapter as well: lora_A.default
# What trains or computes more than B A x beside a linear layer. Rank-stabilised scaling is a factor, and read.
_UNREAD = (
    "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "use_dora",
    "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "megatron_config",
)  # fmt: skip
# PiSSA, OLoRA and their like put other weights into the base when they load, some of them at random.
_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
_IN_FEW_BITS = "peft.tuners.lora.bnb"  # linear layers of 4 or 8 bits, whose A and B are whole
_MERGE = "Merge it into its base with merge_and_unload() and give the merged model."
# Fields of adapter_config.json that say where an adapter came from, not what it computes.
_PROVENANCE = {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}


@dataclass(frozen=True)
class Adapter:
    """A folder that `save_pretrained` of a PeftModel wrote, checked, and the folder of its base model."""

    folder: Path
    base: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Adapter | None:
        """Read the folder's adapter, or return None where there is none.

        Raises:
            InputError: it is no plain LoRA, its weights or its base model are not there, or PEFT is not installed.
        """
        if not (folder / CONFIG).is_file():
            return None
        try:
            import peft  # noqa: F401  # an optional dependency: said before anything else is looked at
        except ImportError as error:
            raise InputError(
                f"{flag('model')} {folder}: is an adapter, and PEFT is not installed. pip install 'attrstore[lora]'"
            ) from error
        config = broken.json_object(folder / CONFIG, f"{flag('model')} {folder}")
        _refuse_unread(folder, config)
        if not (folder / WEIGHTS).is_file():
            raise InputError(
                f"{flag('model')} {folder}: no weights ({WEIGHTS}). Save them with save_pretrained."
            )
        return cls(folder, _find_base(folder, config), config)

    def attach(self, model: nn.Module) -> nn.Module:
        """Return `model`, changed in place: each layer that the adapter targets computes W x + s B A x."""
        import peft

        with (
            broken.named(f"{flag('model')} {self.folder}: does not fit its base model {self.base}."),
            warnings.catch_warnings(action="ignore"),  # of what is refused below, and of its own affairs
        ):
            # In the base model's own precision; PEFT would raise the adapter's to float32.
            wrapped = peft.PeftModel.from_pretrained(
                model, str(self.folder), torch_device="cpu", autocast_adapter_dtype=False
            )
        adapted: nn.Module = wrapped.get_base_model()
        self._refuse_other_layers(adapted)
        self._refuse_other_weights(adapted)
        return adapted

    def fingerprint(self, base: str) -> str:
        """Hash the base model's fingerprint, the config and the weights: 16 hexadecimal digits."""
        kept = {key: value for key, value in self.config.items() if key not in _PROVENANCE}
        for key, value in kept.items():
            if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
                kept[key] = sorted(value)  # target_modules is a set, saved in any order
        digest = hashlib.sha256(json.dumps([base, kept], sort_keys=True).encode())
        with (self.folder / WEIGHTS).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:16]

    def _refuse_other_layers(self, model: nn.Module) -> None:
        from peft.tuners.lora import Linear, LoraLayer

        for name, module in model.named_modules():
            variants = getattr(module, "lora_variant", {})
            plain = type(module) is Linear or type(module).__module__ == _IN_FEW_BITS
            if isinstance(module, LoraLayer) and (not plain or variants):
                kind = ", ".join(type(v).__name__ for v in variants.values()) or type(module).__name__
                raise InputError(
                    f"{flag('model')} {self.folder}: the adapter of {name} is {kind}; plain LoRA on "
                    f"linear layers is read. "
                    f"{_MERGE}"
                )

    def _refuse_other_weights(self, model: nn.Module) -> None:
        """PEFT passes over weights that fit nothing, and leaves at their start those that are missing."""
        from safetensors import safe_open

        with safe_open(str(self.folder / WEIGHTS), framework="pt") as file:
            saved = {name.removeprefix(PREFIX) for name in file.keys()}  # noqa: SIM118  # it is no dict
        wanted = {re.sub(r"(\.lora_[AB])\.[^.]+", r"\1", name) for name in trained(model)}
        for names, problem, remedy in (
            (saved - wanted, "holds {}, which is no matrix of a LoRA on", _MERGE),
            (wanted - saved, "lacks {}, which its config asks for on", "Save the adapter again."),
        ):
            if names:
                raise InputError(
                    f"{flag('model')} {self.folder}: {WEIGHTS} {problem.format(min(names))} {self.base}. {remedy}"
                )


def matrices(model: nn.Module) -> Iterator[tuple[str, str, nn.Linear]]:
    """Yield (clean name, name in the model, module) of each A [r, in] and B [out, r], in the model's order."""
    for name, module in model.named_modules():
        matched = _MATRIX.fullmatch(name)
        if matched and isinstance(module, nn.Linear):
            yield matched[1], name, module


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that were trained, by name in the model's order: an adapter's own, or all."""
    prefixes = tuple(f"{name}." for _, name, _ in matrices(model))
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not prefixes or name.startswith(prefixes)
    }


def _refuse_unread(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{flag('model')} {folder}: peft_type {kind} is not read; LORA is. {_MERGE}")
    found = [f"{key} {config[key]}" for key in _UNREAD if config.get(key)]
    if config.get("bias", "none") != "none":
        found.append(f"bias {config['bias']}")
    if config.get("init_lora_weights") not in _INITS:
        found.append(f"init_lora_weights {config['init_lora_weights']}")
    if found:
        raise InputError(
            f"{flag('model')} {folder}: the adapter has {', '.join(found)}; plain LoRA on linear "
            f"layers is read. {_MERGE}"
        )


def _find_base(folder: Path, config: dict[str, Any]) -> Path:
    """Return the base model's folder: as named from the adapter, from here, or in the Hugging Face cache."""
    named = config.get("base_model_name_or_path") or ""
    if not isinstance(named, str):
        raise InputError(
            f"{flag('model')} {folder}: base_model_name_or_path in {CONFIG} is {named!r}, which is no path."
        )
    folders = [f for f in (folder / named, Path(named)) if named and (f / "config.json").is_file()]
    base = folders[0] if folders else _cached(named, config.get("revision"))
    if base is None:
        raise InputError(
            f"{flag('model')} {folder}: its base model {named!r} is neither a folder nor in the "
            f"Hugging Face cache. Put the "
            f"base model's folder into {folder / CONFIG} as base_model_name_or_path, or download it: hf download NAME"
        )
    if (base / CONFIG).is_file():
        raise InputError(f"{flag('model')} {folder}: its base model {base} has an adapter itself. {_MERGE}")
    return base


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model that was downloaded before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, ValueError):
        return None
