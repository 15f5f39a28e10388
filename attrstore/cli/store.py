"""Commands about the file itself: init, info, check."""

from __future__ import annotations

from pathlib import Path

import click

import attrstore
from attrstore.cli.common import store_argument


@click.command("init")
@store_argument
def init_command(store: Path) -> None:
    """Make an empty store, or bring an older one up to date.

    \b
    Example: attrstore init facts.duckdb
    """
    attrstore.open(store, create=True).close()
    click.echo(f"{store}: ready. Next: attrstore ingest corpus {store} corpus.jsonl")
