"""The command `ingest lexical`: the inverted index that BM25 reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import attrstore
from attrstore.cli.common import progress_bar, store_argument

if TYPE_CHECKING:
    from attrstore.lexical.index import Variant


@click.command("lexical")
@store_argument
@click.option(
    "--stemmer", metavar="NAME", help="Snowball stemmer, such as english, or none.  [default: none]"
)
@click.option(
    "--variant",
    type=click.Choice(["okapi", "lucene"]),
    help="BM25's formula; can be changed at any time.  [default: okapi]",
)
@click.option(
    "--pattern",
    metavar="REGEX",
    help="What a token is (RE2).  [default: [\\p{L}\\p{N}_]+, letters, digits, underscore]",
)
@click.option("--k1", type=float, help="How fast repeated words stop counting.  [default: 1.5]")
@click.option("--b", type=float, help="How much long examples are discounted.  [default: 0.75]")
@click.option("--epsilon", type=float, help="Okapi's floor of a negative idf.  [default: 0.25]")
@click.option("--fold/--no-fold", default=None, help="Lower-case texts first.  [default: fold]")
@click.option("--rebuild", is_flag=True, help="Make the index anew, to change pattern, stemmer or fold.")
def lexical_command(
    store: Path,
    stemmer: str | None,
    variant: Variant | None,
    pattern: str | None,
    k1: float | None,
    b: float | None,
    epsilon: float | None,
    fold: bool | None,
    rebuild: bool,
) -> None:
    """Index the words of the corpus, for BM25. Running it again adds new examples only.

    What is not given stays as the index has it. Afterwards any DuckDB client answers
    SELECT * FROM bm25('any text').

    \b
    Example: attrstore ingest lexical facts.duckdb --stemmer english
    """
    from attrstore.ingest.lexical import ingest_lexical

    with attrstore.open(store, writable=True) as opened, progress_bar() as bar:
        task = bar.add_task("examples", total=None)
        counts = ingest_lexical(
            opened,
            stemmer=stemmer,
            variant=variant,
            pattern=pattern,
            fold=fold,
            k1=k1,
            b=b,
            epsilon=epsilon,
            rebuild=rebuild,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    click.echo(
        f"{counts.indexed:,} examples indexed, {counts.unchanged:,} unchanged; "
        f"{counts.terms:,} terms, {counts.postings:,} postings"
    )
    click.echo(f"Next: attrstore score {store} bm25")
