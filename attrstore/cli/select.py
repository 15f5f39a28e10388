"""The command that selects training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.terminal import say


@click.command("select")
@store_argument
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--method", default="less", show_default=True, help="One that scans encodings.")
@click.option("--share", default=0.05, show_default=True, help="Of the corpus, above 0 and at most 1.")
@click.option(
    "--aggregate", type=click.Choice(["mean", "max"]), default="mean", show_default=True,
    help="Of an example's scores over the queries.",
)  # fmt: skip
@click.option(
    "--by", metavar="COLUMN", help="Take the share of each value of this key of the metadata, or of source."
)
@click.option("--where", metavar="SQL", help="Score only the examples that satisfy this predicate.")
@click.option("--encoder", help="Name or start of the id of the examples' encoder.")
def select_command(store: Path, out: Path, encoder: str | None, **asked: Any) -> None:
    """Write the share of the corpus that most helps the queries to OUT, as JSON lines in the shape it came in.

    Every example is scored, not only the ends that a scoring keeps. The store is only read.

    \b
    Example: attrstore select facts.duckdb kept.jsonl --method less --share 0.05
             attrstore select facts.duckdb kept.jsonl --method cosine-block --aggregate max --by source
    """
    from attrstore.workflows.select import select

    options: dict[str, Any] = {} if encoder is None else {"encoder": encoder}
    with attrstore.open(store) as opened, counted("examples scanned") as progress:
        found = select(opened, out, progress=progress, **asked, **options)
    say(
        f"{out}: {found.examples:,} of {found.of:,} examples, the strongest by the {found.aggregate} of {found.method} "
        f"over {found.queries:,} queries (encoder {found.encoder}, model {found.model})."
    )
    for value, n in sorted(found.groups.items(), key=lambda group: str(group[0])):
        say(f"  {value}: {n:,}")
