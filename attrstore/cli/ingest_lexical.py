"""The command `ingest lexical`: the inverted index that BM25 reads."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.options import fields_of
from attrstore.lexical.index import Index, IndexFields
from attrstore.terminal import say


@click.command("lexical")
@store_argument
@fields_of(Index, left_open=True)
@click.option("--rebuild", is_flag=True, help="Make the index anew, to change pattern, stemmer or fold.")
def lexical_command(store: Path, rebuild: bool, **fields: Unpack[IndexFields]) -> None:
    """Index the words of the corpus, for BM25. Running it again adds new examples only.

    What is not given stays as the index has it. Afterwards any DuckDB client answers
    SELECT * FROM bm25('any text').

    \b
    Example: attrstore ingest lexical facts.duckdb --stemmer english
    """
    from attrstore.ingest.lexical import ingest_lexical

    with attrstore.open(store, writable=True) as opened, counted("examples") as progress:
        counts = ingest_lexical(opened, rebuild=rebuild, progress=progress, **fields)
    say(
        f"{counts.indexed:,} examples indexed, {counts.unchanged:,} unchanged; "
        f"{counts.terms:,} terms, {counts.postings:,} postings"
    )
    say(f"Next: attrstore score {store} bm25")
