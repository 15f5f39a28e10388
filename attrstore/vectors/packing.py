"""How vectors become the bytes of a store, and queries' bytes vectors again, whatever kind their encoder is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.vectors import codes, low_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.vectors.encoders import Encoder


def examples(encoder: Encoder, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes uint8 [n, bytes] and the scales uint8 [n, encoder.scale_bytes] of examples' vectors.

    Codes of low rank need what was fitted for them: `attrstore.vectors.low_rank.encode`.
    """
    return codes.encode(vectors, encoder.blocks, codes.CODES[encoder.code])


def queries(encoder: Encoder, vectors: Tensor) -> Tensor:
    """Return the bytes of queries' vectors float32 [q, E]: uint8 [q, bytes]."""
    return low_rank.pack_queries(encoder, vectors) if encoder.rank is not None else vectors.view(torch.uint8)


def unpacked_queries(encoder: Encoder, blobs: Sequence[bytes]) -> Tensor:
    """Undo `queries`: float32 [q, E]."""
    packed = torch.frombuffer(bytearray(b"".join(blobs)), dtype=torch.uint8).view(len(blobs), -1)
    return (
        low_rank.unpack_queries(encoder, packed) if encoder.rank is not None else packed.view(torch.float32)
    )
