"""The group of commands that bring other tools' results into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.lazy import LazyGroup

# subcommand: the module of attrstore.cli that defines it
IMPORTS = {"scores": "imports"}


@click.group("import", cls=LazyGroup, commands_in=IMPORTS)
def import_command() -> None:
    """Bring in what another tool computed.

    \b
    Example: attrstore import scores facts.duckdb influence.csv --name datainf --lower-is-stronger
    """


@click.command("scores")
@store_argument
@click.argument("matrix", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the scoring. One of that name is replaced.")
@click.option(
    "--lower-is-stronger", is_flag=True, help="The lowest number is the strongest proponent: turn the sign."
)
@click.option(
    "--top-k", type=int,
    help="Proponents, and opponents, kept for each query.  [default: every pair of a matrix of up to a "
    "million cells, 100 of a larger one]",
)  # fmt: skip
@click.option("--method", default="imported", show_default=True, help="What to call the method.")
@click.option(
    "--header/--no-header", default=None, help="Whether the first row of a csv names the columns; guessed."
)
@click.option(
    "--index-column/--no-index-column", default=None,
    help="Whether the first column names or numbers the rows; guessed.",
)  # fmt: skip
def scores_command(store: Path, matrix: Path, **options: Any) -> None:
    """Read a matrix of scores: a row for each query, a column for each example, in the order of their ingest.

    MATRIX is .csv or .tsv (also as .gz), .npy or .parquet. A header and an index column that hold the
    examples' and queries' own ids decide the order instead.

    \b
    Example: attrstore import scores facts.duckdb influence.csv --name datainf --lower-is-stronger
    """
    from attrstore.ingest.import_scores import import_scores

    with attrstore.open(store, writable=True) as opened, counted("queries ranked") as progress:
        scoring = import_scores(opened, matrix, progress=progress, **options)
    click.echo(f"{scoring.name}: {scoring.n_examples:,} examples ranked, {scoring.n_scores:,} pairs kept.")
    click.echo(f"Next: attrstore report {store}")
