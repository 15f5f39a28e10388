"""The command that encodes corpus and queries with an embedding model."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.ingest_model import report_counts
from attrstore.cli.options import PATH, fields_of
from attrstore.cli.sharding import shardable
from attrstore.ingest.encode.recipes import EmbeddingFields, EmbeddingRecipe


@click.command("embeddings")
@store_argument
@click.option(
    "--model", required=True, type=PATH,
    help="Folder of a Hugging Face encoder or causal LM, or of a sentence-transformers model.",
)  # fmt: skip
@click.option("--name", help="Of the encoder; the folder's name and the pooling if not given.")
@fields_of(EmbeddingRecipe)
@shardable("embedding", "dense")
def embeddings_command(store: Path, model: Path, name: str | None, **fields: Unpack[EmbeddingFields]) -> None:
    """Embed every example, and every query's prompt and target, that has no embedding yet.

    Pooling, prompts and length of a sentence-transformers folder are read from it. E5, for one, says nothing
    there of the prefixes it wants.

    \b
    Example: attrstore ingest embeddings facts.duckdb --model e5-small --query-prefix "query: " \\
                 --passage-prefix "passage: "
    """
    from attrstore.ingest.encode.embeddings import ingest_embeddings

    with attrstore.open(store, writable=True) as opened, counted("embedding examples") as progress:
        counts = ingest_embeddings(opened, model=model, name=name, progress=progress, **fields)
    report_counts(counts, f"attrstore score {store} dense")
