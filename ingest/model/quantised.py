"""Models whose weights are kept in few bits (bitsandbytes): what their layers must not do where gradients are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# A layer of bitsandbytes with it packs its weights of 4 bits for a kernel of the processor that has no derivative: the
# first forward pass without one would make every later gradient wrong, with a warning of torch's at most.
_PACKS = "support_avx512bf16_for_cpu"


def differentiable(model: nn.Module) -> None:
    """Keep layers of 4 bits in the form that has a derivative."""
    for module in model.modules():
        if hasattr(module, _PACKS):
            setattr(module, _PACKS, False)
