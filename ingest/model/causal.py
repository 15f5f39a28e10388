"""Load a causal language model and its tokenizer, and say exactly which ones they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attrstore.errors import InputError, MismatchError, flag
from attrstore.ingest.model.adapters import Adapter
from attrstore.vectors.devices import choose_device

if TYPE_CHECKING:
    from attrstore.store import Store

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Said outright: left open, transformers asks the terminal whether to run a folder's code.
LOCAL = {"local_files_only": True, "trust_remote_code": False}
# Fields of config.json that say where a model came from, not what it computes.
_IGNORED_CONFIG = {"_name_or_path", "transformers_version", "torch_dtype", "dtype"}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with frozen weights, and its identity."""

    model: Any
    tokenizer: Any
    path: str
    fingerprint: str
    tokenizer_fingerprint: str
    device: torch.device

    @property
    def context(self) -> int:
        """The longest input in tokens."""
        config = self.model.config
        return int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2048)


def load(path: str | Path, *, device: str = "auto", dtype: str = "float32") -> LoadedModel:
    """Load the model directory `path`, or the adapter there on its base: safetensors only, no remote code.

    Raises `InputError` naming the folder when it has no config, no weights or no tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    folder = Path(path)
    adapter = Adapter.read(folder)
    base = folder if adapter is None else adapter.base
    named = (
        f"{flag('model')} {folder}" if adapter is None else f"{flag('model')} {folder}: its base model {base}"
    )
    _refuse_incomplete(base, named)
    placed = choose_device(device)
    logging.disable_progress_bar()
    tokenized = folder if (folder / "tokenizer_config.json").is_file() else base
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenized, **LOCAL)
    except (OSError, ValueError) as error:
        raise InputError(f"{named}: no tokenizer can be loaded. {str(error).splitlines()[0]}") from error
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype], use_safetensors=True, **LOCAL)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{named}: cannot be loaded. {str(error).splitlines()[0]}") from error
    fingerprint = model_fingerprint(base)
    if adapter is not None:
        model = adapter.attach(model)
        fingerprint = adapter.fingerprint(fingerprint)
    if getattr(model, "loss_type", None) is None:
        model.loss_type = (
            "ForCausalLM"  # what it would take anyway, with a warning that GPT-2's users cannot act on
        )
    model.eval().requires_grad_(False).to(placed)
    return LoadedModel(model, tokenizer, str(folder), fingerprint, tokenizer_fingerprint(tokenizer), placed)


def _refuse_incomplete(folder: Path, named: str) -> None:
    if not (folder / "config.json").is_file():
        within = sorted((path.parent for path in folder.glob("checkpoint-*/config.json")), key=_step)
        if within:
            raise InputError(
                f"{named}: no config.json, but checkpoints. Give one: {', '.join(map(str, within))}"
            )
        raise InputError(f"{named}: no config.json. Give the folder of a Hugging Face checkpoint.")
    if not list(folder.glob("*.safetensors")):
        raise InputError(
            f"{named}: no weights (*.safetensors). Save them with model.save_pretrained({str(folder)!r})."
        )


def _step(folder: Path) -> tuple[int, str]:
    """The order of training: checkpoint-650 comes before checkpoint-1300."""
    digits = folder.name.removeprefix("checkpoint-")
    return int(digits) if digits.isdigit() else 0, folder.name


def load_known(store: Store, model: str | Path | None, device: str) -> LoadedModel:
    """Load the given model, or the only causal LM that the store knows.

    Raises:
        InputError: none is given and the store knows none, or several.
        MismatchError: another model is now at the path where the store saw it.
    """
    if model is not None:
        return load(model, device=device)
    known = store.named("encodings", "causal_models").fetchall()
    if len(known) != 1:
        there = ", ".join(path for path, _ in known) or "none"
        raise InputError(
            f"{store.path}: which model? Give {flag('model')} PATH. Models of the store: {there}"
        )
    path, fingerprint = known[0]
    loaded = load(path, device=device)
    if loaded.fingerprint != fingerprint:
        raise MismatchError(
            f"{flag('model')} {path}: fingerprint {loaded.fingerprint} now, and the store's model had {fingerprint}. "
            f"Give the folder of that model with {flag('model')}, or this one explicitly."
        )
    return loaded


def model_fingerprint(folder: Path) -> str:
    """Hash config (without provenance fields) and weight files: 16 hexadecimal digits."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _IGNORED_CONFIG}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash what the tokenizer does to text: 16 hexadecimal digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def register(store: Store, loaded: LoadedModel) -> None:
    """Record the model, or refuse one that was recorded with another tokenizer."""
    known = store.value(
        "SELECT tokenizer_fingerprint FROM models WHERE fingerprint = $id", {"id": loaded.fingerprint}
    )
    if known not in (None, loaded.tokenizer_fingerprint):
        raise MismatchError(
            f"{flag('model')} {loaded.path}: the store has this model (fingerprint "
            f"{loaded.fingerprint}) with tokenizer "
            f"{known}, and this folder's tokenizer is {loaded.tokenizer_fingerprint}. Use the same tokenizer."
        )
    store.execute(
        "INSERT INTO models VALUES ($id, $tokenizer, $path, NULL, $architecture, $parameters) "
        "ON CONFLICT DO NOTHING",
        {
            "id": loaded.fingerprint,
            "tokenizer": loaded.tokenizer_fingerprint,
            "path": str(Path(loaded.path).absolute()),
            "architecture": type(loaded.model).__name__,
            "parameters": loaded.model.num_parameters(),
        },
    )
