"""The command that shows an example as the model sees it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import attrstore
from attrstore.cli.common import format_option, store_argument
from attrstore.formats import write
from attrstore.ingest.model.rendering import LOSSES
from attrstore.terminal import say, say_wrapped


@click.command("show")
@store_argument
@click.argument("example")
@click.option(
    "--model", type=click.Path(path_type=Path), help="The model's folder; the store's only one, if not given."
)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default="auto",
    show_default=True,
    help="Which tokens of it carry loss.",
)
@format_option()
def show_command(store: Path, example: str, model: Path | None, loss: str, output_format: str) -> None:
    """Show the tokens of an example or a query as the model sees them; those that carry loss stand in brackets.

    Look at one before a night of ingest: what is not in brackets teaches the model nothing and is not attributed.

    \b
    Example: attrstore show facts.duckdb e-17
             attrstore show chats.duckdb chat-3 --model model --loss assistant --format csv
    """
    from attrstore.workflows.show import show

    with attrstore.open(store) as opened:
        seen = show(opened, example, model=model, loss=loss)
    if output_format != "table":
        tokens = [(w, at, *token) for w, window in enumerate(seen.windows) for at, token in enumerate(window)]
        write(sys.stdout, output_format, ("window", "position", "token", "loss"), tokens)
        return
    total = sum(map(len, seen.windows))
    say_wrapped(
        f"{seen.kind} {example} ({seen.shape}): {seen.counted} of {total} tokens carry loss. Status: {seen.status}"
    )
    for window in seen.windows:
        say()
        say_wrapped(" ".join(f"[{_visible(text)}]" if counts else _visible(text) for text, counts in window))


def _visible(token: str) -> str:
    return repr(token)[1:-1].replace(" ", "\u2423")
