"""The command line: parse, call the library once, print. Commands live in one module per job."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

import attrstore
from attrstore.errors import AttrstoreError

# command: module that defines it. Modules load when their command runs, so that `sql` never waits for torch.
COMMANDS = {
    "demo": "demo",
    "init": "store",
    "info": "store",
    "check": "store",
    "ingest": "ingest",
    "score": "score",
    "ask": "score",
    "report": "read",
    "sql": "read",
    "export": "read",
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which a person uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command called `name`."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"attrstore.cli.{COMMANDS[name]}"), f"{name}_command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected error becomes one line on stderr and its exit code."""
        try:
            return super().invoke(ctx)
        except AttrstoreError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(attrstore.__version__, prog_name="attrstore")
def main() -> None:
    """Keep, query and compare training-data attributions of language models in one DuckDB file.

    \b
    attrstore demo               see it work, in under four minutes
    attrstore COMMAND --help     every command shows one real example
    """
