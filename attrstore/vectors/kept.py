"""What blocks weigh in their examples' scores, kept in the store from one scan to the next."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from attrstore.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder
    from attrstore.vectors.scan import Chunk

ROUNDING = "half of a power of two"  # changed when kept weights would be rounded otherwise
LEAST_DIMENSIONS = 2048  # the weights of shorter codes are computed as fast as they are found


class KeptWeights:
    """The weights of chunks: to compute them costs more than one query does.

    Only chunks that are at least a quarter full are kept, and only where that takes less than a tenth of the
    codes' own bytes. All are rounded as if they were kept, by shares of a power of two, so that a score is the same
    in a second scan and in a chunk of other examples.
    """

    def __init__(
        self, store: Store, encoder: Encoder, norm: str, units: str, matrices: Sequence[Tensor] | None
    ) -> None:
        from attrstore.vectors import codes, scan

        self.store, self.size = store, scan.rows_at_once(encoder)
        digest = hashlib.sha256(f"{norm} {units} {ROUNDING}".encode())
        for matrix in matrices or ():
            digest.update(matrix.cpu().numpy().tobytes())
        self.key = {"encoder": encoder.encoder_id, "recipe": digest.hexdigest()[:32]}
        self.norm = {"norm": norm}
        code = codes.CODES[encoder.code]
        self.worthwhile = (
            code.n_bytes(encoder.dimensions) > 20 * len(encoder.blocks)
            and encoder.dimensions >= LEAST_DIMENSIONS
            and (matrices is not None or code.bits > 1)  # signs have all one length
        )
        if store.writable:
            store.named("scoring", "drop_other_block_weights", self.key | self.norm)

    def of(self, chunk: Chunk, compute: Callable[[], Tensor]) -> Tensor:
        """Return the weights [n, B] of a chunk, computed unless they are kept."""

        if not self.worthwhile:
            return compute()
        if 4 * len(chunk.example_ids) < self.size:
            return _unpacked(_packed(compute().cpu()), len(chunk.example_ids)).to(chunk.code.device)
        key = self.key | {"examples": _digest(chunk)}
        # The store's own connection is busy with the scan.
        with self.store.connection.cursor() as connection:
            row = connection.execute(statement("scoring", "block_weights"), key).fetchone()
            packed = row[0] if row else _packed(compute().cpu())
            if row is None and self.store.writable:
                values = {**key, **self.norm, "weights": packed}
                connection.execute(statement("scoring", "insert_block_weights"), values)
        return _unpacked(packed, len(chunk.example_ids)).to(chunk.code.device)


def _packed(weights: Tensor) -> bytes:
    import torch

    # A power of two, so that the rounding of an example's weight does not depend on the examples beside it.
    exponents = weights.amax(dim=0).clamp(min=1e-30).frexp().exponent
    largest = torch.ldexp(torch.ones(len(exponents)), exponents)
    return bytes(largest.numpy().tobytes() + (weights / largest).half().numpy().tobytes())


def _unpacked(packed: bytes, n: int) -> Tensor:
    """Return weights [n, B]."""
    import torch

    memory = bytearray(packed)
    width = len(memory) // (4 + 2 * n)
    largest = torch.frombuffer(memory, dtype=torch.float32, count=width)
    shares = torch.frombuffer(memory, dtype=torch.float16, offset=4 * width).view(n, width)
    return shares.float() * largest


def _digest(chunk: Chunk) -> str:
    """Tell a chunk from any other, and from itself after its texts changed."""
    digest = hashlib.sha256()
    for part in (chunk.example_ids, chunk.scales, chunk.code[:, :16].contiguous()):
        digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()
