"""Find and load a GGUF file, which transformers reads with the package `gguf`; weights are dequantised."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrstore.errors import InputError, flag
from attrstore.ingest.model import broken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

ENDING = ".gguf"


def file_of(given: Path) -> Path | None:
    """Return the GGUF file that is given, or that alone holds the weights of a folder; None where there is none.

    Raises `InputError` where a folder has several.
    """
    if given.suffix.lower() == ENDING and not given.is_dir():
        if not given.is_file():
            raise InputError(f"{flag('model')} {given}: no such file.")
        return given
    files = sorted(given.glob(f"*{ENDING}")) if given.is_dir() else []
    if not files or list(given.glob("*.safetensors")):
        return None
    if len(files) > 1:
        raise InputError(f"{flag('model')} {given}: which file? Give one: {', '.join(map(str, files))}")
    return files[0]


def fingerprint(file: Path) -> str:
    """Hash the file, which holds configuration and tokenizer too: 16 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def tokenizer(file: Path, **options: bool) -> PreTrainedTokenizerBase:
    """Return the file's own tokenizer."""
    import gguf  # noqa: F401  # transformers would say less plainly that it is missing
    from transformers import AutoTokenizer

    with broken.named(f"{flag('model')} {file}: no tokenizer can be loaded."):
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, **options)


def options(file: Path) -> dict[str, Any]:
    """Return what `from_pretrained` needs to read whole weights out of the file."""
    import transformers

    # Newer versions keep weights packed in layers of their own, which are no linear layers of torch.
    packed = getattr(transformers, "GgufConfig", None)
    whole = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    return {"gguf_file": file.name, **whole}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing a bar while it makes the weights whole; its own switch does not reach that one."""
    from transformers import modeling_gguf_pytorch_utils as reading

    drawn = reading.tqdm
    reading.tqdm = partial(drawn, disable=True)
    try:
        yield
    finally:
        reading.tqdm = drawn


def forget(model: Any) -> None:
    """Let the model be what its weights are now, no quantised one."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
