"""attrstore serve: the store in a browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from attrstore.cli.common import store_argument
from attrstore.terminal import say


@click.command("serve")
@store_argument
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8642, show_default=True, help="0: any free one."
)
@click.option(
    "--model", type=click.Path(path_type=Path), help="Let the page ask this model about other prompts."
)
@click.option("--open", "open_browser", is_flag=True, help="Open the address in your browser.")
def serve_command(store: Path, port: int, model: Path | None, open_browser: bool) -> None:
    """Show a store in a browser on this machine: queries, proponents side by side, reports, SQL.

    Only this machine reaches it, and only with the address that is printed. The store is open only while a
    page is made, so that an ingest may start beside it. With --model the page also asks about other prompts.

    \b
    Example: attrstore serve facts.duckdb
             attrstore serve facts.duckdb --model model
    """
    from attrstore.web.serve import serve

    def opened(address: str) -> None:
        say(f"{store}: {address}\nCtrl-C stops it.")
        if open_browser:
            webbrowser.open(address)

    serve(store, port=port, opened=opened, model=model)
