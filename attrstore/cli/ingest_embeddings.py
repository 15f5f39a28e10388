"""The command that encodes corpus and queries with an embedding model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.ingest_model import CODES, report_counts


@click.command("embeddings")
@store_argument
@click.option(
    "--model", required=True, type=click.Path(path_type=Path),
    help="Folder of a Hugging Face encoder or causal LM, or of a sentence-transformers model.",
)  # fmt: skip
@click.option(
    "--pooling", type=click.Choice(["mean", "cls", "last"]),
    help="Of the last hidden states.  [default: the folder's own, or mean]",
)  # fmt: skip
@click.option("--query-prefix", help="Before each query's text.  [default: the folder's own, or none]")
@click.option("--passage-prefix", help="Before each example's text.  [default: the folder's own, or none]")
@click.option(
    "--code", type=click.Choice(CODES), default="fp16", show_default=True, help="Quantisation of the corpus."
)
@click.option("--name", help="Of the encoder; the folder's name and the pooling if not given.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
    help="Of the model's weights and activations.",
)  # fmt: skip
@click.option("--batch-tokens", type=int, default=4096, show_default=True, help="Padded tokens in a batch.")
@click.option(
    "--long", type=click.Choice(["truncate", "skip"]), default="truncate", show_default=True,
    help="What to do with an example longer than the model takes; its status says what was done.",
)  # fmt: skip
def embeddings_command(store: Path, **options: Any) -> None:
    """Embed every example, and every query's prompt and target, that has no embedding yet.

    Pooling, prompts and length of a sentence-transformers folder are read from it. E5, for one, says nothing
    there of the prefixes it wants.

    \b
    Example: attrstore ingest embeddings facts.duckdb --model e5-small --query-prefix "query: " \\
                 --passage-prefix "passage: "
    """
    from attrstore.ingest.encode.embeddings import ingest_embeddings

    with attrstore.open(store, writable=True) as opened, counted("embedding examples") as progress:
        counts = ingest_embeddings(opened, progress=progress, **options)
    report_counts(counts, f"attrstore score {store} dense")
