"""The command that re-ranks: exact scores for the strongest candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.options import fields_of
from attrstore.ingest.measure.options import EXACT_METHODS, Source, SourceFields


@click.command("rerank")
@store_argument
@click.argument("candidates", metavar="SCORING...", nargs=-1, required=True)
@click.option(
    "--top",
    type=int,
    metavar="N",
    help="Candidates of each query: SCORING's N strongest; several take turns.  [default: as many as each keeps, at "
    "most 200]",
)
@click.option(
    "--method", type=click.Choice(list(EXACT_METHODS)),
    help="Computed from whole gradients.  [default: that without curvature with SCORING's norm, or cosine-block]",
)  # fmt: skip
@click.option("--queries", type=int, metavar="N", help="Only the first N queries.")
@click.option("--name", help="Of the new scoring; 'METHOD exact, N of SCORING' if not given.")
@fields_of(Source)
def rerank_command(
    store: Path,
    candidates: tuple[str, ...],
    top: int | None,
    method: str | None,
    queries: int | None,
    name: str | None,
    **source: Unpack[SourceFields],
) -> None:
    """Score the strongest candidates of each query again, with nothing approximated, as a scoring of its own.

    Gradients are whole: neither projected nor quantised. A pair is computed once and kept in `exact_scores`, so a
    stopped or killed job goes on with the same command. Examples that are not among the candidates are not in the new
    scoring, and count 0 in its metrics. Several scorings take turns, so that BM25 brings what states a fact and an
    influence method what moves the model.

    ekfac, trackstar and trackstar-block are in the metric of EK-FAC's curvature, fitted in full width on a sample of
    the corpus and kept in STORE.ekfac-*.safetensors; cg inverts the true Gauss-Newton matrix, which takes long: a
    pass over its sample for each iteration and query.

    \b
    Example: attrstore rerank facts.duckdb cosine-block --top 100
             attrstore rerank facts.duckdb cosine-block bm25 --top 200
             attrstore rerank facts.duckdb cosine-block --method ekfac
    """
    from attrstore.ingest.measure.rerank import rerank

    with attrstore.open(store, writable=True) as opened, counted("candidates scored") as progress:
        scoring = rerank(
            opened, candidates, top=top, method=method, queries=queries, name=name, progress=progress,
            source=Source(**source),
        )  # fmt: skip
    click.echo(f"{scoring.name}: {scoring.n_scores:,} pairs scored from whole gradients.")
    click.echo(f"Next: attrstore report {store}")
