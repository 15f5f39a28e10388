"""Say exactly which model and tokenizer something was made with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from attrstore.errors import flag
from attrstore.ingest.model import broken

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Fields of config.json that say where a model came from, not what it computes.
_IGNORED_CONFIG = {"_name_or_path", "transformers_version", "torch_dtype", "dtype"}


def of_folder(folder: Path) -> str:
    """Hash config (without provenance fields) and weight files: 16 hexadecimal digits."""
    config = broken.json_object(folder / "config.json", f"{flag('model')} {folder}")
    kept = {key: value for key, value in config.items() if key not in _IGNORED_CONFIG}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what the tokenizer does to text: 16 hexadecimal digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
