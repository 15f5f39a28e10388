"""attrstore explain: what a score is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

import attrstore
from attrstore.cli.common import format_option, store_argument
from attrstore.formats import write
from attrstore.terminal import print_table, say_wrapped

if TYPE_CHECKING:
    from attrstore.workflows.explain import Explanation

BLOCKS = 10  # of a pair, the largest: all of them are in block_influence


@click.command("explain")
@store_argument
@click.argument("query")
@click.argument("examples", nargs=-1)
@click.option("--scoring", help="By a gradient method; that of `comparison` if not given.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True,
              help="Without EXAMPLES: so many of the strongest proponents.")  # fmt: skip
@click.option("--model", type=click.Path(path_type=Path), help="The model's folder, if it has moved.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@format_option()
def explain_command(
    store: Path,
    query: str,
    examples: tuple[str, ...],
    scoring: str | None,
    top: int,
    model: Path | None,
    device: str,
    output_format: str,
) -> None:
    """Show why EXAMPLES score for QUERY: by token, by token of the target, and by block of the model.

    The parts of each kind sum to the score. They are kept: FROM token_influence, FROM block_influence. Where the
    model is not at hand there are blocks alone, from the stored codes.

    \b
    Example: attrstore explain facts.duckdb q-17 e-4021
             attrstore explain facts.duckdb q-17 --top 20
    """
    from attrstore.workflows.explain import explain

    with attrstore.open(store, writable=True) as opened:
        parts = explain(opened, query, examples, scoring=scoring, top=top, model=model, device=device)
        if output_format == "table":
            for found in parts:
                _print(found)
        else:
            rows = [row for found in parts for row in _rows(found)]
            write(
                sys.stdout,
                output_format,
                ("query", "example", "scoring", "source", "of", "name", "part"),
                rows,
            )


def _rows(found: Explanation) -> Iterator[tuple[object, ...]]:
    about = (found.query, found.example, found.scoring, found.source)
    for of, tokens in (("example", found.tokens), ("target", found.target)):
        yield from ((*about, of, token.token, token.part) for token in tokens)
    yield from ((*about, "block", *block) for block in found.blocks)


def _print(found: Explanation) -> None:
    stored = "" if found.stored_score is None else f" (stored: {found.stored_score:.4g})"
    about = f"{found.example}: {found.scoring} {found.score:.4g}{stored}, from the {found.source}"
    say_wrapped(about, indent=2)
    for title, tokens in (("of the example", found.tokens), ("of the target", found.target)):
        if tokens:
            print_table(("token " + title, "part"), [(repr(one.token), one.part) for one in tokens])
    largest = sorted(found.blocks, key=lambda block: -abs(block[1]))[:BLOCKS]
    print_table(("block", "part"), largest)
