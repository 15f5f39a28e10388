"""Stop a job at the next safe point when the user presses Ctrl-C."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def ctrl_c() -> Iterator[list[bool]]:
    """Turn the first Ctrl-C into a flag that is looked at between batches; a second one stops at once."""
    stopped = [False]

    def note(number: int, frame: FrameType | None) -> None:
        stopped[0] = True
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: signals go elsewhere
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)
