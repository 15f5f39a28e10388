"""Load an embedding model: a Hugging Face encoder or causal LM without its head, and how it is to be used."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attrstore.errors import InputError, flag
from attrstore.ingest.model import broken, causal, fingerprints, sentence_settings, weights
from attrstore.ingest.model.causal import LoadedModel
from attrstore.vectors.devices import choose_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attrstore.ingest.model.sentence_settings import Settings

# Weights that a checkpoint may lack: they play no part in the last hidden state.
_UNUSED = ("pooler.", "decoder.")


@dataclass(frozen=True)
class EmbeddingModel(LoadedModel):
    """A model without a head, in evaluation mode, its settings and its identity."""

    settings: Settings

    @property
    def longest(self) -> int:
        """The longest input in tokens, special ones included."""
        positions = super().longest - _reserved(self.model)
        return min(positions, int(self.tokenizer.model_max_length), self.settings.longest or positions)

    @property
    def encoding_version(self) -> int:
        """Texts keep what the tokenizer puts around them, and always have."""
        return 1


def load(
    path: str | Path, *, device: str = "auto", dtype: str = "float32", max_length: int | None = None
) -> EmbeddingModel:
    """Load the model directory `path`: safetensors only, no remote code; of an encoder-decoder, its encoder.

    Raises `InputError` naming the folder when it has no config, no tokenizer, or not all weights.
    """
    from transformers import AutoModel, AutoTokenizer

    # A name that is no folder would be looked up on the hub.
    if not Path(path).is_dir():
        raise InputError(f"{flag('model')} {path}: no such folder. Give the folder of an embedding model.")
    with broken.named(f"{flag('model')} {path}: what it says of itself cannot be read."):
        settings = sentence_settings.read(Path(path))
    folder = settings.model
    named = f"{flag('model')} {folder}"
    if not (folder / "config.json").is_file():
        raise InputError(f"{named}: no config.json. Give the folder of an embedding model.")
    weights.refuse_files_elsewhere(folder, named)
    where = choose_device(device)
    with broken.named(f"{named}: cannot be loaded."), causal.quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, **causal.LOCAL)
        model, info = AutoModel.from_pretrained(
            folder, dtype=causal.DTYPES[dtype], use_safetensors=True, **causal.LOADING, **causal.LOCAL
        )
    causal.refuse_other_weights(named, info, _UNUSED)
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        model = model.get_encoder()
    model.eval().requires_grad_(False).to(where)
    with broken.named(f"{named}: its config does not fit its tokenizer."):
        loaded = EmbeddingModel(
            model, tokenizer, str(folder), fingerprints.of_folder(folder),
            fingerprints.of_tokenizer(tokenizer), where, settings, max_length=max_length,
        )  # fmt: skip
        causal.refuse_small_vocabulary(loaded, named)
        causal.refuse_length(loaded, named)
    return loaded


def _reserved(model: PreTrainedModel) -> int:
    """How many learned positions no token has: RoBERTa and its kin number them from after the padding's."""
    learned = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(learned, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
