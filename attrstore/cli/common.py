"""What several commands share: arguments, options, progress."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attrstore.formats import FORMATS
from attrstore.terminal import SHORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.decorators import FC
    from rich.progress import Progress

store_argument = click.argument("store", type=click.Path(dir_okay=False, path_type=Path))


def format_option(*more: str) -> Callable[[FC], FC]:
    """`--format`: a table for people, or one of the formats for programs; `more` are this command's own."""
    return click.option(
        "--format", "output_format", type=click.Choice((*FORMATS, *more)), default="table", show_default=True,
        help="How to print the result.",
    )  # fmt: skip


full_option = click.option(
    "--full", is_flag=True, help=f"Show texts whole, not their first {SHORT} characters."
)


def progress_bar() -> Progress:
    """A progress bar on stderr that is silent when stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def counted(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while the block runs; call the yielded function with (done, total)."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
