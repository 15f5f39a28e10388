"""Pool a window's hidden states into one vector."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(hidden: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Pool hidden states [windows, T, H] over the first `lengths` [windows] tokens of each: [windows, H].

    Args:
        pooling: the `last` token's state, the first one's (`cls`), or the `mean`.
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
    inside = torch.arange(hidden.shape[1], device=hidden.device) < lengths.unsqueeze(1)
    # Not a product with 0: what stands in the padding need not be finite.
    return hidden.masked_fill(~inside.unsqueeze(2), 0).sum(dim=1) / lengths.unsqueeze(1)
