"""Read what a sentence-transformers folder says of itself: where its model is, pooling, prompts, length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrstore.errors import InputError, flag

# In 1_Pooling/config.json: a flag for each, or in newer folders one name.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_OURS = {"lasttoken": "last"}
_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # the first that is there, as encode_document looks


@dataclass(frozen=True)
class Settings:
    """How a folder's model is to be used as an embedding model."""

    model: Path  # the folder with the weights
    pooling: str = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""
    pools_prefix: bool = True  # whether the prefix's tokens are pooled with the text's
    lower_case: bool = False
    similarity: str = "cosine"  # or dot: what the vectors were trained for
    longest: int | None = None  # tokens, special ones included


def read(folder: Path) -> Settings:
    """Read the folder's settings; those of a plain Hugging Face folder are the defaults.

    Raises:
        InputError: a file cannot be read, or the folder has a module that changes vectors and is not known here.
    """
    modules = _json(folder / "modules.json", [])
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: folder / module["path"] for module in modules}
    unknown = sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise InputError(
            f"{flag('model')} {folder}: after its model it applies {', '.join(unknown)}, which "
            f"attrstore does not. Use a "
            "model of Transformer, Pooling and Normalize modules only."
        )
    model = kinds.get("Transformer", folder)
    pooling = _json(kinds["Pooling"] / "config.json", {}) if "Pooling" in kinds else {}
    limits = _json(model / "sentence_bert_config.json", {})
    config = _json(folder / "config_sentence_transformers.json", {})
    prompts = config.get("prompts") or {}
    default = prompts.get(config.get("default_prompt_name"), "")
    dot = config.get("similarity_fn_name") == "dot" and "Normalize" not in kinds
    return Settings(
        model=model,
        pooling=_pooling(pooling),
        query_prefix=prompts.get("query", default),
        passage_prefix=next((prompts[name] for name in _PASSAGE_PROMPTS if name in prompts), default),
        pools_prefix=pooling.get("include_prompt", True),
        lower_case=bool(limits.get("do_lower_case", False)),
        similarity="dot" if dot else "cosine",
        longest=limits.get("max_seq_length"),
    )


def _pooling(config: dict[str, object]) -> str:
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named
    if not isinstance(modes, list):
        modes = [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    return "+".join(_OURS.get(mode, mode) for mode in modes)  # several are concatenated


def _json(file: Path, absent: Any) -> Any:
    if not file.is_file():
        return absent
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not JSON. {error}") from error
