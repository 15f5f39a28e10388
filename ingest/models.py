"""Load a causal language model and its tokenizer, and say exactly which ones they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attrstore.errors import InputError, MismatchError

if TYPE_CHECKING:
    from attrstore.store import Store

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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
    """Load the model directory `path`: safetensors weights only, no remote code.

    Raises `InputError` naming the folder when it has no config, no weights or no tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise InputError(f"--model {folder}: no config.json. Give the folder of a Hugging Face checkpoint.")
    if not list(folder.glob("*.safetensors")):
        raise InputError(
            f"--model {folder}: no weights (*.safetensors). Save them with model.save_pretrained({str(folder)!r})."
        )
    where = choose_device(device)
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--model {folder}: no tokenizer can be loaded. {str(error).splitlines()[0]}"
        ) from error
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[dtype], local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"--model {folder}: cannot be loaded. {str(error).splitlines()[0]}") from error
    model.eval().requires_grad_(False).to(where)
    return LoadedModel(
        model, tokenizer, str(folder), model_fingerprint(folder), tokenizer_fingerprint(tokenizer), where
    )


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this torch sees no CUDA device. Use --device cpu.")
    return torch.device(name)


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
            f"--model {loaded.path}: the store has this model (fingerprint {loaded.fingerprint}) with tokenizer "
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
