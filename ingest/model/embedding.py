"""Load an embedding model: a Hugging Face encoder or causal LM without its head, and how it is to be used."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrstore.errors import InputError, flag
from attrstore.ingest.model import causal, sentence_settings
from attrstore.ingest.model.causal import LoadedModel
from attrstore.vectors.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attrstore.ingest.model.sentence_settings import Settings

# Weights that a checkpoint may lack: they play no part in the last hidden state.
_UNUSED = ("pooler.", "decoder.")


@dataclass(frozen=True)
class EmbeddingModel(LoadedModel):
    """A model without a head, in evaluation mode, its settings and its identity."""

    settings: Settings

    @property
    def context(self) -> int:
        """The longest input in tokens, special ones included."""
        positions = super().context - _reserved(self.model)
        return min(positions, int(self.tokenizer.model_max_length), self.settings.longest or positions)


def load(path: str | Path, *, device: str = "auto", dtype: str = "float32") -> EmbeddingModel:
    """Load the model directory `path`: safetensors only, no remote code; of an encoder-decoder, its encoder.

    Raises `InputError` naming the folder when it has no config, no tokenizer, or not all weights.
    """
    from transformers import AutoModel, AutoTokenizer

    settings = sentence_settings.read(Path(path))
    folder = settings.model
    placed = choose_device(device)
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **causal.LOCAL)
            model, info = AutoModel.from_pretrained(
                folder,
                dtype=causal.DTYPES[dtype],
                use_safetensors=True,
                output_loading_info=True,
                **causal.LOCAL,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{flag('model')} {folder}: cannot be loaded. {str(error).splitlines()[0]}"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_UNUSED))
    if missing:
        raise InputError(
            f"{flag('model')} {folder}: its weights lack {len(missing)} tensors, such as {missing[0]}, which would be "
            "random. Give the folder of a whole checkpoint."
        )
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        model = model.get_encoder()
    model.eval().requires_grad_(False).to(placed)
    return EmbeddingModel(
        model, tokenizer, str(folder), causal.model_fingerprint(folder),
        causal.tokenizer_fingerprint(tokenizer), placed, settings,
    )  # fmt: skip


def _reserved(model: Any) -> int:
    """How many learned positions no token has: RoBERTa and its kin number them from after the padding's."""
    learned = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(learned, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing a bar, and a table of the weights that a model without its head lacks."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
