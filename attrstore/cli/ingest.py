"""The group of commands that write a store."""

from __future__ import annotations

from importlib import import_module

import click

# subcommand: module that defines NAME_command. It loads when named, so that files never wait for torch.
SUBCOMMANDS = {
    "corpus": "ingest_files",
    "queries": "ingest_files",
    "labels": "ingest_files",
    "gradients": "ingest_model",
    "representations": "ingest_model",
    "lexical": "ingest_lexical",
}


class LazyIngest(click.Group):
    """A group that imports a subcommand's module only when the subcommand is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the subcommands in the order in which a person uses them."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the subcommand called `name`."""
        if name not in SUBCOMMANDS:
            return None
        module = import_module(f"attrstore.cli.{SUBCOMMANDS[name]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command


@click.group("ingest", cls=LazyIngest)
def ingest_command() -> None:
    """Write a store: files first, then what is computed from them.

    \b
    Example: attrstore ingest corpus facts.duckdb corpus.jsonl
    """
