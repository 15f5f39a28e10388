"""The command that selects training data."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.options import fields_of
from attrstore.terminal import say
from attrstore.workflows.options import SelectFields, SelectOptions


@click.command("select")
@store_argument
@click.argument("out", type=click.Path(path_type=Path))
@fields_of(SelectOptions)
@click.option("--encoder", help="Name or start of the id of the examples' encoder.")
def select_command(store: Path, out: Path, encoder: str | None, **asked: Unpack[SelectFields]) -> None:
    """Write the share of the corpus that most helps the queries to OUT, as JSON lines in the shape it came in.

    Every example is scored, not only the ends that a scoring keeps. The store is only read.

    \b
    Example: attrstore select facts.duckdb kept.jsonl --method less --share 0.05
             attrstore select facts.duckdb kept.jsonl --method cosine-block --aggregate max --by source
    """
    from attrstore.workflows.select import select

    of_method = {} if encoder is None else {"encoder": encoder}
    with attrstore.open(store) as opened, counted("examples scanned") as progress:
        found = select(opened, out, of_method=of_method, progress=progress, **asked)
    say(
        f"{out}: {found.examples:,} of {found.of:,} examples, the strongest by the {found.aggregate} of {found.method} "
        f"over {found.queries:,} queries (encoder {found.encoder}, model {found.model})."
    )
    for value, n in sorted(found.groups.items(), key=lambda group: str(group[0])):
        say(f"  {value}: {n:,}")
