"""The quantisations that a code can have; what they do to a vector is in `attrstore.vectors.codes`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """One quantisation."""

    name: str
    bits: float  # of an entry

    @property
    def per_byte(self) -> int:
        """Entries in one byte, of a code of less than 8 bits."""
        return int(8 / self.bits)

    def n_bytes(self, dimensions: int) -> int:
        """Length of a code of `dimensions` entries."""
        return math.ceil(dimensions * self.bits / 8)


CODES = {
    code.name: code
    for code in (
        Code("fp16", 16), Code("int8", 8), Code("4bit", 4), Code("2bit", 2), Code("1bit", 1), Code("halfbit", 0.5),
    )
}  # fmt: skip
