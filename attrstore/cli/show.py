"""The command that shows an example as the model sees it."""

from __future__ import annotations

from pathlib import Path

import click

import attrstore
from attrstore.cli.common import store_argument
from attrstore.ingest.model.rendering import LOSSES
from attrstore.terminal import say


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
def show_command(store: Path, example: str, model: Path | None, loss: str) -> None:
    """Show the tokens of an example or a query as the model sees them; those that carry loss stand in brackets.

    Look at one before a night of ingest: what is not in brackets teaches the model nothing and is not attributed.

    \b
    Example: attrstore show facts.duckdb e-17
             attrstore show chats.duckdb chat-3 --model model --loss assistant
    """
    from attrstore.workflows.show import show

    with attrstore.open(store) as opened:
        seen = show(opened, example, model=model, loss=loss)
    total = sum(map(len, seen.windows))
    say(
        f"{seen.kind} {example} ({seen.shape}): {seen.counted} of {total} tokens carry loss. Status: {seen.status}"
    )
    for window in seen.windows:
        say()
        say(" ".join(f"[{_visible(text)}]" if counts else _visible(text) for text, counts in window))


def _visible(token: str) -> str:
    return repr(token)[1:-1].replace(" ", "\u2423")
