"""Keep the fitted parts of an encoder's projections in the store, and take them from there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attrstore.ingest.encode.projection import Projection
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder


def save(store: Store, encoder: Encoder, projections: Mapping[str, Projection]) -> None:
    """Write what the spec alone does not give; runs inside the caller's transaction."""
    parts = []
    if encoder.spec["kronecker"] is not None:
        parts += ["p_in", "p_out"]
    if encoder.spec.get("principal") is not None:
        parts += ["p_in", "p_out", "spread_in", "spread_out", "pair_weights"]
    if encoder.spec["correction"] == "factored":
        parts += ["scale_in", "scale_out"]
    rows = [(name, part, *_pack(getattr(p, part))) for name, p in projections.items() for part in parts]
    if not rows:
        return
    columns = zip(("module", "part", "n_rows", "scale", "matrix"), zip(*rows, strict=True), strict=True)
    with store.registered(fitted=pyarrow.table({name: pyarrow.array(values) for name, values in columns})):
        store.named("encodings", "insert_projections", {"encoder": encoder.encoder_id})


def load(store: Store, encoder: Encoder, projections: Mapping[str, Projection]) -> None:
    """Replace fitted parts by the stored ones. The first run does so too, so that all runs agree."""
    rows = store.named("encodings", "projections", {"encoder": encoder.encoder_id}).fetchall()
    for module, part, n_rows, scale, matrix in rows:
        values = torch.frombuffer(bytearray(matrix), dtype=torch.float16).float() * scale
        setattr(projections[module], part, values if part.startswith("scale") else values.view(n_rows, -1))


def _pack(values: Tensor) -> tuple[int, float, bytes]:
    scale = float(values.abs().max()) or 1.0
    return len(values) if values.ndim == 2 else 1, scale, (values / scale).half().numpy().tobytes()
