"""Load a causal language model and its tokenizer, and say exactly which ones they are."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch

from attrstore.errors import InputError, MismatchError, flag
from attrstore.ingest.model import broken, fingerprints, gguf, memory, offload, quantised, sequences, weights
from attrstore.ingest.model.adapters import Adapter
from attrstore.ingest.model.memory import InMemory
from attrstore.vectors.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from attrstore.store import Store

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Said outright: left open, transformers asks the terminal whether to run a folder's code.
LOCAL = {"local_files_only": True, "trust_remote_code": False}
# Other shapes are named below; transformers would only say that there are some.
LOADING = {"output_loading_info": True, "ignore_mismatched_sizes": True}

Given = str | Path | InMemory  # a folder, or a model in memory


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with frozen weights, and its identity."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: str
    fingerprint: str
    tokenizer_fingerprint: str
    device: torch.device
    max_length: int | None = field(
        default=None, kw_only=True
    )  # tokens of a text, if fewer than the model reads

    @property
    def place(self) -> str:
        """Where it is, wherever one stands."""
        return self.path if self.path == memory.PLACE else str(Path(self.path).absolute())

    @property
    def longest(self) -> int:
        """The longest input that the model reads, in tokens."""
        config = self.model.config
        return int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2048)

    @property
    def context(self) -> int:
        """The longest input that it is given, in tokens."""
        return min(self.longest, self.max_length or self.longest)

    @property
    def encoding_version(self) -> int:
        """Tells encodings apart that one recipe gave at different times."""
        return sequences.encoding_version(self.tokenizer)


def load(
    given: Given,
    *,
    device: str = "auto",
    dtype: str = "float32",
    max_length: int | None = None,
    offloads: bool = False,
) -> LoadedModel:
    """Load a model's directory, or the adapter there on its base: safetensors only, no remote code.

    A GGUF file, or a folder with its weights in one, is read with the file's own tokenizer. A model in memory is taken
    as it is, and left as it was. Where the caller `offloads`, the device may be `offload`.

    Raises `InputError` naming the folder when it has no config, no tokenizer, or not all weights, or weights that are
    not the config's.
    """
    if not isinstance(given, str | Path):
        return _taken(
            given if isinstance(given, InMemory) else InMemory(given, None), device, dtype, max_length
        )
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = Path(given)
    file = gguf.file_of(folder)
    away = offloads and device == offload.DEVICE
    if file is not None:
        if away:
            offload.refuse(f"{flag('model')} {file}", "a GGUF file")
        return _from_gguf(file, device, dtype, max_length)
    adapter = Adapter.read(folder)
    base = folder if adapter is None else adapter.base
    named = (
        f"{flag('model')} {folder}" if adapter is None else f"{flag('model')} {folder}: its base model {base}"
    )
    _refuse_incomplete(base, named)
    if away and adapter is not None:
        offload.refuse(f"{flag('model')} {folder}", "an adapter")
    spread = offload.placement() if away else {}
    placed = choose_device("auto" if away else device)
    tokenized = folder if (folder / "tokenizer_config.json").is_file() else base
    with broken.named(f"{named}: its config.json cannot be loaded."):
        AutoConfig.from_pretrained(base, **LOCAL)
    with broken.named(f"{named}: no tokenizer can be loaded."):
        tokenizer = AutoTokenizer.from_pretrained(tokenized, **LOCAL)
    with broken.named(f"{named}: cannot be loaded."), quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            base, dtype=DTYPES[dtype], use_safetensors=True, **LOADING, **LOCAL, **spread
        )
    refuse_other_weights(named, info)
    fingerprint = fingerprints.of_folder(base)
    if adapter is not None:
        model = adapter.attach(model)
        fingerprint = adapter.fingerprint(fingerprint)
    model.eval().requires_grad_(False)
    quantised.differentiable(model)
    if away:
        offload.tidy(model, spread)
    else:
        model.to(placed)
    return _checked(model, tokenizer, (str(folder), fingerprint), placed, max_length, named)


def _taken(given: InMemory, device: str, dtype: str, max_length: int | None) -> LoadedModel:
    model = given.frozen()
    placed = given.refuse_other(device, DTYPES[dtype])
    with quiet():
        fingerprint, place = memory.identity(model, given.named)
    return _checked(model, given.tokenizer, (place, fingerprint), placed, max_length, given.named)


def _from_gguf(file: Path, device: str, dtype: str, max_length: int | None) -> LoadedModel:
    from transformers import AutoModelForCausalLM

    named, placed = f"{flag('model')} {file}", choose_device(device)
    tokenizer = gguf.tokenizer(file, **LOCAL)
    with broken.named(f"{named}: cannot be loaded."), quiet(), gguf.quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=DTYPES[dtype], **gguf.options(file), **LOADING, **LOCAL
        )
    refuse_other_weights(named, info)
    gguf.forget(model)
    model.eval().requires_grad_(False).to(placed)
    return _checked(model, tokenizer, (str(file), gguf.fingerprint(file)), placed, max_length, named)


def _checked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    identity: tuple[str, str],  # path, fingerprint
    placed: torch.device,
    max_length: int | None,
    named: str,
) -> LoadedModel:
    if getattr(model, "loss_type", None) is None:
        model.loss_type = (
            "ForCausalLM"  # what it would take anyway, with a warning that GPT-2's users cannot act on
        )
    with broken.named(f"{named}: its config does not fit its tokenizer."):
        loaded = LoadedModel(
            model, tokenizer, *identity, fingerprints.of_tokenizer(tokenizer), placed, max_length=max_length
        )
        refuse_small_vocabulary(loaded, named)
        refuse_length(loaded, named)
    return loaded


def _refuse_incomplete(folder: Path, named: str) -> None:
    if str(folder) == memory.PLACE:
        raise InputError(
            f"{named}: the store saw this model in memory only. Give it with its tokenizer, or the folder that it "
            f"was saved to, as {flag('model')}."
        )
    if not folder.is_dir():
        raise InputError(f"{named}: no such folder. Give the folder of a Hugging Face checkpoint.")
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
    weights.refuse_files_elsewhere(folder, named)


def _step(folder: Path) -> tuple[int, str]:
    """The order of training: checkpoint-650 comes before checkpoint-1300."""
    digits = folder.name.removeprefix("checkpoint-")
    return int(digits) if digits.isdigit() else 0, folder.name


class LoadingInfo(TypedDict):
    """What transformers says of a loading."""

    missing_keys: Iterable[str]
    unexpected_keys: Iterable[str]
    mismatched_keys: Iterable[tuple[object, ...]]  # the name, then both shapes


def refuse_other_weights(named: str, info: LoadingInfo, unused: tuple[str, ...] = ()) -> None:
    """Refuse a model whose weights are not all from its files, by what transformers says of the loading.

    Args:
        info: transformers' loading info; tied weights count as loaded there.
        unused: beginnings of names that may be missing, since they play no part.
    """
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unused))
    mismatched = sorted(str(key[0]) for key in info["mismatched_keys"])
    unexpected = [] if unused else sorted(info["unexpected_keys"])
    for names, problem in (
        (missing, "its weights lack {}, which would be random"),
        (mismatched, "its config asks for another shape of {}"),
        (unexpected, "its weights hold {}, which its config has no place for"),
    ):
        if names:
            others = f" and {len(names) - 1:,} more tensors" if len(names) > 1 else ""
            raise InputError(
                f"{named}: {problem.format(names[0] + others)}. Give the folder of a whole checkpoint: config and "
                "weights as save_pretrained wrote them together."
            )


def refuse_small_vocabulary(loaded: LoadedModel, named: str) -> None:
    """Refuse a tokenizer that can give tokens for which the model has no embedding."""
    rows = len(loaded.model.get_input_embeddings().weight)
    ids = [i for i in loaded.tokenizer.get_vocab().values() if i != loaded.tokenizer.pad_token_id]
    if ids and max(ids) >= rows:
        raise InputError(
            f"{named}: its tokenizer has tokens up to number {max(ids)} and its embedding {rows} rows, so they are "
            "not of one model. Give the tokenizer that it was trained with."
        )


def refuse_length(loaded: LoadedModel, named: str) -> None:
    """Refuse a maximum length that is none, or more than the model reads."""
    longest = loaded.longest
    if loaded.max_length is not None and not 2 <= loaded.max_length <= longest:
        raise InputError(
            f"{flag('max_length')} {loaded.max_length}: must be between 2 and {longest}, the context of {named}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing a bar, and a table of the weights that it did not find."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_known(store: Store, model: Given | None, device: str, max_length: int | None = None) -> LoadedModel:
    """Load the given model, or the only causal LM that the store knows.

    Raises:
        InputError: none is given and the store knows none, or several.
        MismatchError: another model is now at the path where the store saw it.
    """
    if model is not None:
        return load(model, device=device, max_length=max_length)
    known = store.named("encodings", "causal_models").fetchall()
    if len(known) != 1:
        there = ", ".join(path for path, _ in known) or "none"
        raise InputError(
            f"{store.path}: which model? Give {flag('model')} PATH. Models of the store: {there}"
        )
    path, fingerprint = known[0]
    loaded = load(path, device=device, max_length=max_length)
    if loaded.fingerprint != fingerprint:
        raise MismatchError(
            f"{flag('model')} {path}: fingerprint {loaded.fingerprint} now, and the store's model had {fingerprint}. "
            f"Give the folder of that model with {flag('model')}, or this one explicitly."
        )
    return loaded


def register(store: Store, loaded: LoadedModel) -> None:
    """Record the model, or refuse one that was recorded with another tokenizer; one seen in memory gets its folder."""
    known = store.rows(
        "SELECT tokenizer_fingerprint, path FROM models WHERE fingerprint = $id", {"id": loaded.fingerprint}
    )
    if known and known[0][0] != loaded.tokenizer_fingerprint:
        raise MismatchError(
            f"{flag('model')} {loaded.path}: the store has this model (fingerprint {loaded.fingerprint}) with "
            f"tokenizer {known[0][0]}, and this folder's tokenizer is {loaded.tokenizer_fingerprint}. Use the "
            "same tokenizer."
        )
    if known and (known[0][1] != memory.PLACE or loaded.path == memory.PLACE):
        return
    store.execute(
        "INSERT INTO models VALUES ($id, $tokenizer, $path, NULL, $architecture, $parameters) "
        "ON CONFLICT DO UPDATE SET path = excluded.path",
        {
            "id": loaded.fingerprint,
            "tokenizer": loaded.tokenizer_fingerprint,
            "path": loaded.place,
            "architecture": type(loaded.model).__name__,
            "parameters": loaded.model.num_parameters(),
        },
    )
