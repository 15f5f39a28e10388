"""Commands that delete and rename."""

from __future__ import annotations

from pathlib import Path

import click

import attrstore
from attrstore.cli.common import store_argument
from attrstore.removal import KINDS, PLURALS
from attrstore.terminal import say

kind_argument = click.argument("kind", type=click.Choice(KINDS))


@click.command("delete")
@store_argument
@kind_argument
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete_command(store: Path, kind: str, names: tuple[str, ...], yes: bool) -> None:
    """Delete examples, queries, scorings or encoders, with everything that depends on them.

    What goes is counted and shown first. Deleting an example takes the scorings that ranked it: their ranks would
    have a gap.

    \b
    Example: attrstore delete facts.duckdb scoring cosine trak
             attrstore delete facts.duckdb example e-17 --yes
    """
    from attrstore.removal import delete, plan

    with attrstore.open(store, writable=True) as opened:
        planned = plan(opened, kind, names)
        say(f"This deletes {planned}")
        if not yes:
            click.confirm("Go on?", abort=True)
        delete(opened, kind, names)
    say(f"{len(names):,} {kind if len(names) == 1 else PLURALS[kind]} deleted.")


@click.command("rename")
@store_argument
@kind_argument
@click.argument("old")
@click.argument("new")
def rename_command(store: Path, kind: str, old: str, new: str) -> None:
    """Call an example, a query, a scoring or an encoder otherwise; what is derived from it stays.

    \b
    Example: attrstore rename facts.duckdb scoring cosine-block cosine-block-step-1000
    """
    from attrstore.removal import rename

    with attrstore.open(store, writable=True) as opened:
        rename(opened, kind, old, new)
    say(f"{kind} {old} is called {new} now.")
