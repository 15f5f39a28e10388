"""Commands that encode corpus and queries with a model: gradients, representations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrstore.ingest.encode.job import Counts

CODES = ("halfbit", "1bit", "2bit", "4bit", "int8", "fp16")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that runs a model."""
    for option in reversed(
        (
            click.option(
                "--model", required=True, type=click.Path(path_type=Path),
                help="Folder of a Hugging Face causal LM, or of a LoRA adapter of one (PEFT).",
            ),
            click.option("--name", help="Of the encoder; made from the recipe if not given."),
            click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
            click.option(
                "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
                help="Of the model's weights and activations.",
            ),
            click.option(
                "--batch-tokens", type=int, default=4096, show_default=True, help="Padded tokens in a batch."
            ),
            click.option(
                "--long", type=click.Choice(["truncate", "split", "skip"]), default="truncate", show_default=True,
                help="What to do with an example longer than the context; its status says what was done.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("gradients")
@store_argument
@model_options
@click.option(
    "--optimizer-state", type=click.Path(path_type=Path),
    help="File with the optimizer's state_dict (AdamW, Adafactor); its second moment corrects the gradients.",
)  # fmt: skip
@click.option(
    "--correction", type=click.Choice(["factored", "full"]), default="factored", show_default=True,
    help="How: in Adafactor's form, which costs nothing, or elementwise.",
)  # fmt: skip
@click.option(
    "--kronecker", "kronecker_factors", is_flag=True,
    help="Whiten inputs and output gradients, as measured on a sample, before projecting.",
)  # fmt: skip
@click.option(
    "--projection-dim", type=int, default=32, show_default=True, metavar="K",
    help="Each linear map is encoded in K x K numbers.",
)  # fmt: skip
@click.option(
    "--modules", metavar="REGEX",
    help="Encode the linear maps whose names have this in them: '[qk]_proj$', or '.' for all with the token embedding "
    "and the output head. By default the linear maps of the layers.",
)  # fmt: skip
@click.option(
    "--blocks", type=click.Choice(["module", "part", "layer"]), default="module", show_default=True,
    help="What has its own norm and curvature.",
)  # fmt: skip
@click.option(
    "--code", type=click.Choice(CODES), default="halfbit", show_default=True,
    help="Quantisation of the corpus: how many bits a number gets.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the projection.")
def gradients_command(store: Path, **options: Any) -> None:
    """Encode the gradient of every example and query that has no encoding yet.

    A stopped or killed job goes on with the same command; appended examples are all it does then.

    \b
    Example: attrstore ingest gradients facts.duckdb --model model --optimizer-state model/optimizer.pt
    """
    from attrstore.ingest.encode.gradients import ingest_gradients

    with attrstore.open(store, writable=True) as opened, counted("encoding examples") as progress:
        counts = ingest_gradients(opened, progress=progress, **options)
    report_counts(counts, f"attrstore score {store} cosine-block")


@click.command("representations")
@store_argument
@model_options
@click.option(
    "--layer",
    type=int,
    default=-1,
    show_default=True,
    help="Which hidden state; -1 is the last, 0 the embeddings.",
)
@click.option(
    "--pooling", type=click.Choice(["last", "mean"]), default="last", show_default=True,
    help="The last token's state (of a query: the prompt's), or the mean.",
)  # fmt: skip
@click.option(
    "--code", type=click.Choice(CODES), default="fp16", show_default=True, help="Quantisation of the corpus."
)
def representations_command(store: Path, **options: Any) -> None:
    """Encode the hidden state of every example and prompt that has none yet (RepSim).

    \b
    Example: attrstore ingest representations facts.duckdb --model model --layer -1
    """
    from attrstore.ingest.encode.representations import ingest_representations

    with attrstore.open(store, writable=True) as opened, counted("encoding examples") as progress:
        counts = ingest_representations(opened, progress=progress, **options)
    report_counts(counts, f"attrstore score {store} repsim")


def report_counts(counts: Counts, next_command: str) -> None:
    """Print what an encoding job did, and what comes next."""
    click.echo(f"{counts.encoder}: {counts.examples:,} examples and {counts.queries:,} queries encoded.")
    for noun, table, outcomes in (
        ("examples", "encodings", counts.outcomes),
        ("queries", "query_encodings", counts.query_outcomes),
    ):
        for outcome, n in sorted(outcomes.items()):
            if outcome != "ok":
                click.echo(f"  {outcome}: {n:,} {noun}, see {table}.status")
    click.echo(f"Next: {next_command}")
