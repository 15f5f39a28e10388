"""How a job tells what it has done."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # what is done, and how much there is
Stages = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is


def silent(done: int, total: int) -> None:
    """Tell nobody."""


def silent_stages(what: str, done: int, total: int) -> None:
    """Tell nobody."""
