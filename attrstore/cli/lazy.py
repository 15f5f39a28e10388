"""A click group that imports a command's module only when the command is named."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Commands from a table {name: module}; the module `attrstore.cli.MODULE` defines `NAME_command`.

    So `sql` never waits for torch. `sections` names groups of them for the help; without it they are one list.
    """

    sections: dict[str, dict[str, str]] | None = None

    def __init__(self, *args: Any, commands_in: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_in = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which a person uses them."""
        return list(self.commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called `cmd_name`."""
        if cmd_name not in self.commands_in:
            return None
        module = import_module(f"attrstore.cli.{self.commands_in[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a name that is none is answered with the nearest that is."""
        name = args[0]
        if name in self.commands_in or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = get_close_matches(name, self.commands_in, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(self.commands_in)}."
        raise click.UsageError(f"No such command {name!r}. {hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in their sections, each with the whole first sentence of its help."""
        for title, names in (self.sections or {"Commands": self.commands_in}).items():
            rows = [(name, _summary(self.get_command(ctx, name))) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows, col_max=30)


def _summary(command: click.Command | None) -> str:
    text = " ".join(((command and command.help) or "").split("\n\n", 1)[0].split())
    return text.split(". ", 1)[0].removesuffix(".")
