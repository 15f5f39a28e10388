"""Two-sided projections of weight gradients, with the optimizer's correction folded in.

The weight gradient of a linear map is G = sum_t g_t a_t^T. Its encoding is P_out (L G R) P_in^T, k x k. A
diagonal or Kronecker-factored correction (L, R) is part of the projection matrices, so it costs nothing per
example and G is never formed; only the full elementwise correction forms it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attrstore.ingest.model.offload import device_of
from attrstore.ingest.model.optimizer import Full

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.optimizer import Moment


@dataclass
class Projection:
    """What turns one linear map's inputs and output gradients into its part of the encoding."""

    p_in: Tensor  # [k_in, in]
    p_out: Tensor  # [k_out, out]
    scale_in: Tensor  # [in]: multiplies the inputs first
    scale_out: Tensor  # [out]: multiplies the output gradients first
    elementwise: Tensor | None = None  # [out, in]: multiplies the whole gradient first
    # Of principal directions: how the corpus's pairs are spread over them (`attrstore.vectors.low_rank.Spread`).
    spread_out: Tensor | None = None  # [rank, k_out]
    spread_in: Tensor | None = None  # [rank, k_in]
    pair_weights: Tensor | None = None  # [rank, 1]

    @property
    def length(self) -> int:
        """Entries of the encoding."""
        return len(self.p_in) * len(self.p_out)


class Folded(NamedTuple):
    """A projection ready for use: its scales folded into its matrices."""

    p_in: Tensor  # [k_in, in]
    p_out: Tensor  # [k_out, out]
    elementwise: Tensor | None

    @classmethod
    def of(cls, projection: Projection, device: torch.device, dtype: torch.dtype) -> Folded:
        """Fold the scales in and move everything to the model's device and precision."""
        elementwise = projection.elementwise
        return cls(
            (projection.p_in * projection.scale_in).to(device, dtype),
            (projection.p_out * projection.scale_out).to(device, dtype),
            None if elementwise is None else elementwise.to(device),
        )


def folded(projections: Mapping[str, Projection], model: nn.Module) -> dict[str, Folded]:
    """Fold each for the device and the precision of the model, by name."""
    device, dtype = device_of(model), next(model.parameters()).dtype
    return {name: Folded.of(projection, device, dtype) for name, projection in projections.items()}


def make(linear: LinearMap, *, dim: int, seed: int, moment: Moment | None) -> Projection:
    """Return the projection of `linear` to dim x dim, corrected by the optimizer's second moment if given."""
    projection = Projection(
        sign_matrix(f"{seed}/{linear.name}/in", dim, linear.n_in),
        sign_matrix(f"{seed}/{linear.name}/out", dim, linear.n_out),
        torch.ones(linear.n_in),
        torch.ones(linear.n_out),
    )
    if isinstance(moment, Full):
        projection.elementwise = moment.values.sqrt().add(moment.epsilon).reciprocal()
    elif moment is not None:
        # V ~ row column^T / mean(row): the two square roots scale g and a, so the matrix is never formed.
        projection.scale_out = (moment.row / moment.row.mean()).rsqrt()
        projection.scale_in = moment.column.rsqrt()
    return projection


def sign_matrix(key: str, n_rows: int, n_columns: int) -> Tensor:
    """Return a random matrix of +-1/sqrt(n_rows): float32 [n_rows, n_columns].

    The signs are bits of SHAKE-256 of `key`, so they are the same on every device and with every version of
    every library. Where the projection would not shrink anything (n_columns <= n_rows) it is the identity.
    """
    if n_columns <= n_rows:
        return torch.eye(n_columns)
    n_bits = n_rows * n_columns
    packed = torch.frombuffer(
        bytearray(hashlib.shake_256(key.encode()).digest((n_bits + 7) // 8)), dtype=torch.uint8
    )
    bits = (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
    signs = bits.flatten()[:n_bits].reshape(n_rows, n_columns).float() * 2 - 1
    scaled: Tensor = signs / n_rows**0.5
    return scaled
