"""The command line: parse, call the library once, print. Commands live in one module per job."""

from __future__ import annotations

import _thread
import os
import sys
import threading
from typing import Any, NoReturn

import click

import attrstore
from attrstore.cli.lazy import LazyGroup
from attrstore.errors import IN_SHELL, AttrstoreError, OutputError, extras_named
from attrstore.terminal import say, writing

# What a person does, in that order, with the commands for it: {command: the module of attrstore.cli that defines it}
SECTIONS = {
    "See it work": {"demo": "demo"},
    "Make a store": {
        "init": "store",
        "ingest": "ingest",
        "attach": "sharding",
        "import": "imports",
        "backup": "store",
    },
    "Rank": {"score": "score", "rerank": "rerank", "trace": "trace", "use": "use", "ask": "score"},
    "Read": {
        "report": "read",
        "sql": "read",
        "export": "read",
        "select": "select",
        "show": "show",
        "serve": "serve",
        "explain": "explain",
        "info": "store",
        "check": "store",
    },
    "Change": {"delete": "removal", "rename": "removal"},
    "Measure": {
        "tail-patch": "tail_patch",
        "diagnose": "diagnose",
        "compare-checkpoints": "compare_checkpoints",
        "subsets": "subsets",
        "retrain": "subsets",
    },
}
COMMANDS = {name: module for commands in SECTIONS.values() for name, module in commands.items()}


class Main(LazyGroup):
    """The commands; an expected error becomes one line on stderr and its exit code."""

    sections = SECTIONS

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; what stdout does not take is an error too, also of `--help`."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8
        before, sys.unraisablehook = sys.unraisablehook, _ctrl_c_again
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None:
                raise
            _give_up(OutputError(f"the output cannot be written: {error.strerror or error}."))
        finally:
            sys.unraisablehook = before

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        shell = IN_SHELL.set(True)
        try:
            with extras_named(), writing(sys.stdout):
                result = super().invoke(ctx)
                sys.stdout.flush()
        except AttrstoreError as error:
            _give_up(error)
        finally:
            IN_SHELL.reset(shell)
        return result


def _ctrl_c_again(what: sys.UnraisableHookArgs) -> None:
    """Press Ctrl-C again where it fell into the end of an object, in which Python drops it."""
    if what.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, _thread.interrupt_main).start()  # here, it would be dropped too
    else:
        sys.__unraisablehook__(what)


def _give_up(error: AttrstoreError) -> NoReturn:
    """Say what went wrong, and exit; what a broken stdout still holds is not written again at the end."""
    stdout = sys.__stdout__
    if isinstance(error, OutputError) and stdout is not None and sys.stdout is stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    if sys.stderr is not None:
        say(f"Error: {error}", err=True)
    sys.exit(error.exit_code)


@click.group(
    cls=Main,
    commands_in=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(attrstore.__version__, prog_name="attrstore")
def main() -> None:
    """Keep, query and compare training-data attributions of language models in one DuckDB file.

    \b
    attrstore demo               see it work, in under five minutes
    attrstore COMMAND --help     every command shows one real example
    """
