"""Which influence method to begin with, on what a store has. Measured in benchmarks/RESULTS.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrstore.vectors import encoders

if TYPE_CHECKING:
    from attrstore.store import Store


def recommended(store: Store) -> tuple[str, dict[str, Any]]:
    """Return the method and its options: damped-block on the first encoder of principal pairs, else cosine-block."""
    for encoder in encoders.load_all(store, "gradient"):
        if encoder.principal:
            return "damped-block", {"encoder": encoder.name}
    return "cosine-block", {}
