"""Which of a model's weights an encoder sees, and which it leaves out, by what they are."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pyarrow
from torch import nn

from attrstore.ingest.model import adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from attrstore.ingest.model.linear import LinearMap
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder


def record(store: Store, encoder: Encoder, model: PreTrainedModel, maps: Sequence[LinearMap]) -> None:
    """Write what the encoder's maps are of all weights, unless it is written."""
    rows = [(part, encoded, n) for (part, encoded), n in counted(model, maps).items()]
    columns = zip(("part", "encoded", "weights"), zip(*rows, strict=True), strict=True)
    with store.registered(shares=pyarrow.table({name: pyarrow.array(values) for name, values in columns})):
        store.named("encodings", "insert_weights", {"encoder": encoder.encoder_id})


def counted(model: PreTrainedModel, maps: Sequence[LinearMap]) -> Counter[tuple[str, bool]]:
    """Count the numbers that were trained, by what they are and whether `maps` have them.

    A matrix that is embedding and head at once is counted once, as the embedding; of a stack every expert's by itself.
    """
    seen: Counter[str] = Counter()
    for linear in {(m.weight, m.expert): m for m in maps}.values():
        seen[linear.weight] += linear.n_out * linear.n_in
    found: Counter[tuple[str, bool]] = Counter()
    modules = dict(model.named_modules())
    for name, parameter in adapters.trained(model).items():
        module, _, own = name.rpartition(".")
        part = _part(model, modules[module], own, parameter)
        found[part, True] += seen[name]
        found[part, False] += parameter.numel() - seen[name]
    return +found  # without what counts nothing


def _part(model: PreTrainedModel, module: nn.Module, own: str, parameter: nn.Parameter) -> str:
    kind = type(module).__name__
    if module is model.get_input_embeddings():
        return "token embedding"
    if own.endswith("bias"):
        return "biases"
    if module is model.get_output_embeddings():
        return "output head"
    if "norm" in kind.lower():
        return "norms"
    if parameter.ndim == 3:
        return "experts"
    return "linear maps" if isinstance(module, nn.Linear) or kind == "Conv1D" else kind
