"""What several workers encode together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Team:
    """How many they are, of which store and into which folder they encode, and with what."""

    n: int | None  # as many as the engine finds good, if None
    path: Path
    kind: str  # of encoder
    folder: str  # or URL
    devices: list[str]  # of the workers, in turn; the recipe's, if empty
    options: dict[str, Any]  # of `write_shards`

    @property
    def stopped(self) -> str:
        """What is said when they were stopped."""
        return f"stopped; {self.kept}"

    @property
    def kept(self) -> str:
        """What is left of their work where it did not come to its end."""
        return f"every finished file is in {self.folder}. Run the same command again to go on."
