"""The command line: parse, call the library once, print. Commands live in one module per job."""

from __future__ import annotations

import sys
from typing import Any

import click

import attrstore
from attrstore.cli.lazy import LazyGroup
from attrstore.errors import IN_SHELL, AttrstoreError

# command: the module of attrstore.cli that defines it
COMMANDS = {
    "demo": "demo",
    "init": "store",
    "info": "store",
    "check": "store",
    "show": "show",
    "ingest": "ingest",
    "import": "imports",
    "score": "score",
    "use": "use",
    "ask": "score",
    "tail-patch": "tail_patch",
    "trace": "trace",
    "diagnose": "diagnose",
    "compare-checkpoints": "compare_checkpoints",
    "subsets": "subsets",
    "retrain": "subsets",
    "report": "read",
    "sql": "read",
    "export": "read",
    "serve": "serve",
}


class Main(LazyGroup):
    """The commands; an expected error becomes one line on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        shell = IN_SHELL.set(True)
        try:
            return super().invoke(ctx)
        except AttrstoreError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)
        finally:
            IN_SHELL.reset(shell)


@click.group(
    cls=Main,
    commands_in=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(attrstore.__version__, prog_name="attrstore")
def main() -> None:
    """Keep, query and compare training-data attributions of language models in one DuckDB file.

    \b
    attrstore demo               see it work, in under four minutes
    attrstore COMMAND --help     every command shows one real example
    """
