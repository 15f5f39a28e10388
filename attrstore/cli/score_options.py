"""The command line of `score`: its options are those of the method that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from attrstore.cli.options import click_options
from attrstore.methods import every_method, find

if TYPE_CHECKING:
    from attrstore.methods import Method


class ScoreCommand(click.Command):
    """`score` with the options of the method that is named, and help about it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the method first; refuse an option of another method in the library's words."""
        ctx.meta["attrstore.method"] = method = _named(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if method is not None:
                method.with_options({error.option_name.lstrip("-").replace("-", "_"): None})
            raise

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return what every method takes and then what this one does."""
        method: Method | None = ctx.meta.get("attrstore.method")
        common = super().get_params(ctx)
        if method is None:
            return common
        own = list(click_options(method.options, left_open=True, only=method.option_names))
        names = {option.name for option in own}  # a method's own engine is none of the scan's
        return [*(p for p in common[:-1] if p.name not in names), *own, common[-1]]  # --help stays the last

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Describe the method, where one is named, and else all of them."""
        method: Method | None = ctx.meta.get("attrstore.method")
        if method is None:
            super().format_help_text(ctx, formatter)
            return
        with formatter.indentation():
            formatter.write_paragraph()
            formatter.write_text(method.when)
            formatter.write_paragraph()
            facts = (("Paper", method.paper), ("Reads", method.reads.command), ("Cost", method.cost))
            formatter.write_dl([*facts, *([("Differs", method.differs)] if method.differs else [])])


def _named(args: list[str]) -> Method | None:
    """Return the method that the arguments name: the second, or the first where it is alone."""
    words: list[str] = []
    rest = iter(args)
    for word in rest:
        if word in ("-h", "--help"):
            continue
        if word.startswith("-"):
            if "=" not in word:
                next(rest, None)  # its value
            continue
        words.append(word)
    if len(words) > 1:
        return find(words[1])
    return every_method().get(words[0]) if words else None


def listed_methods() -> str:
    """Return a line for each method: its name and when to use it."""
    methods = every_method().values()
    width = max(len(method.name) for method in methods)
    return "\n    ".join(f"{method.name:{width}}  {method.when}" for method in methods)
