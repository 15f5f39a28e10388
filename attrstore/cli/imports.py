"""The group of commands that bring other tools' results into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.lazy import LazyGroup
from attrstore.cli.options import fields_of
from attrstore.ingest.files.options import LossFields, LossOptions, MatrixFields, MatrixOptions
from attrstore.terminal import say
from attrstore.vectors.quantisations import CODES

# subcommand: the module of attrstore.cli that defines it
IMPORTS = {
    "scores": "imports",
    "gradients": "imports",
    "ranking": "imports",
    "losses": "imports",
    "qrels": "imports",
}


@click.group("import", cls=LazyGroup, commands_in=IMPORTS)
def import_command() -> None:
    """Bring in what another tool computed.

    \b
    Example: attrstore import scores facts.duckdb influence.csv --name datainf --lower-is-stronger
    """


@click.command("losses")
@store_argument
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--subsets", required=True, help="Name of the set that the models were trained on.")
@fields_of(LossOptions)
def losses_command(store: Path, files: tuple[str, ...], subsets: str, **fields: Unpack[LossFields]) -> None:
    """Read what models that you trained on the subsets lose on each query's target.

    FILE is a file, a glob or a folder, as for `ingest corpus`. All rows are added or, on an error, none.

    \b
    Example: attrstore import losses facts.duckdb losses.csv --subsets lds
    """
    from attrstore.ingest.files.losses import import_losses

    with attrstore.open(store, writable=True) as opened:
        counts = import_losses(opened, files, subsets=subsets, **fields)
    say(f"{counts.added:,} losses added, {counts.replaced:,} replaced, {counts.unchanged:,} known.")
    say(f"Next: attrstore report {store} --lds, or --leave-out")


@click.command("scores")
@store_argument
@click.argument("matrix", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the scoring. One of that name is replaced.")
@fields_of(MatrixOptions)
def scores_command(store: Path, matrix: Path, name: str, **fields: Unpack[MatrixFields]) -> None:
    """Read a matrix of scores: a row for each query, a column for each example, in the order of their ingest.

    MATRIX is .csv or .tsv (also as .gz), .npy or .parquet, .safetensors as kronfluence saves scores, or a folder that
    `bergson score` wrote. A header and an index column that hold the examples' and queries' own ids decide the order
    instead.

    \b
    Example: attrstore import scores facts.duckdb influence.csv --name datainf --lower-is-stronger
             attrstore import scores facts.duckdb runs/scores --name bergson
    """
    from attrstore.ingest.files.scores import import_scores

    with attrstore.open(store, writable=True) as opened, counted("queries ranked") as progress:
        scoring = import_scores(opened, matrix, name=name, progress=progress, **fields)
    say(f"{scoring.name}: {scoring.n_examples:,} examples ranked, {scoring.n_scores:,} pairs kept.")
    say(f"Next: attrstore report {store}")


@click.command("gradients")
@store_argument
@click.argument("index", type=click.Path(path_type=Path))
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    required=True,
    help="The folder that it wrote over the queries.",
)
@click.option("--name", required=True, help="Of the encoder.")
@click.option(
    "--code", type=click.Choice(list(CODES)), default="fp16", show_default=True,
    help="Quantisation of the examples: how many bits a number gets.",
)  # fmt: skip
def gradients_command(store: Path, index: Path, queries: Path, name: str, code: str) -> None:
    """Read an index of gradients: INDEX is a folder that `bergson build` wrote over the corpus.

    Rows are in the order of the ingest, or named by the column id of the data set beside an index. Every method that
    scans encodings takes them.

    \b
    Example: attrstore import gradients facts.duckdb runs/index --queries runs/queries --name bergson
    """
    from attrstore.ingest.files.gradients import import_gradients

    with attrstore.open(store, writable=True) as opened, counted("examples read") as progress:
        made = import_gradients(opened, index, queries=queries, name=name, code=code, progress=progress)
    say(f"{made.encoder}: gradients of {made.examples:,} examples and {made.queries:,} queries.")
    say(f"Next: attrstore score {store} cosine --encoder {made.encoder}")


@click.command("ranking")
@store_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the scoring. One of that name is replaced.")
@click.option(
    "--family", type=click.Choice(["influence", "retrieval"]), default="retrieval", show_default=True,
    help="On which side of a comparison it stands.",
)  # fmt: skip
@click.option("--method", default="imported", show_default=True, help="What to call the method.")
def ranking_command(store: Path, file: Path, name: str, family: str, method: str) -> None:
    """Read rankings that another tool wrote: a TREC run, or the PAIR viewer's records (.jsonl).

    Queries and examples are named by the store's own ids.

    \b
    Example: attrstore import ranking facts.duckdb run.trec --name theirs
    """
    from attrstore.ingest.files.rankings import import_ranking

    with attrstore.open(store, writable=True) as opened:
        scoring = import_ranking(opened, file, name=name, family=family, method=method)
    say(f"{scoring.name}: {scoring.n_scores:,} pairs kept.")
    say(f"Next: attrstore report {store}")


@click.command("qrels")
@store_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--skip-bad", is_flag=True, help="Leave out lines that cannot be used, and count them.")
@click.option("--replace", is_flag=True, help="Let another relevance of a known pair replace the old one.")
def qrels_command(store: Path, file: Path, *, skip_bad: bool, replace: bool) -> None:
    """Read relevance judgements of TREC as labels: lines of "query 0 example relevance".

    Queries and examples are named by the store's own ids. `export STORE labels FILE --format trec-qrels` writes them.

    \b
    Example: attrstore import qrels facts.duckdb qrels.txt
    """
    from attrstore.cli.ingest_files import report
    from attrstore.ingest.files.qrels import import_qrels

    with attrstore.open(store, writable=True) as opened:
        counts = import_qrels(opened, file, skip_bad=skip_bad, replace=replace)
    report(counts, "label", f"attrstore report {store}")
