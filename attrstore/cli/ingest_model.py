"""Commands that encode corpus and queries with a model: gradients, representations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.options import MODELS, PATH, encoder_name_option, fields_of, model_option
from attrstore.cli.sharding import shardable
from attrstore.errors import InputError
from attrstore.ingest.encode.recipes import (
    GradientFields,
    GradientRecipe,
    RepresentationFields,
    RepresentationRecipe,
)
from attrstore.terminal import say

if TYPE_CHECKING:
    from attrstore.ingest.encode.job import Encoded
    from attrstore.ingest.encode.run import EncodedRun


@click.command("gradients")
@store_argument
@click.option("--model", type=PATH, help=MODELS)
@click.option(
    "--run", type=PATH,
    help="Instead of a model the folder of a whole run: every checkpoint-N in it that the transformers Trainer or "
    "attrstore.callback.KeepForAttribution wrote gets an encoder of its own, for tracincp.",
)  # fmt: skip
@encoder_name_option
@click.option(
    "--optimizer-state", type=PATH,
    help="File with the optimizer's state_dict (AdamW, Adafactor); its second moment corrects the gradients. none: "
    "correct nothing.  [default: optimizer.pt in the model's folder, if it is there and fits]",
)  # fmt: skip
@fields_of(GradientRecipe)
@shardable("gradient", "cosine-block")
def gradients_command(
    store: Path,
    model: Path | None,
    run: Path | None,
    name: str | None,
    optimizer_state: Path | None,
    **fields: Unpack[GradientFields],
) -> None:
    """Encode the gradient of every example and query that has no encoding yet.

    A stopped or killed job goes on with the same command; appended examples are all it does then.

    \b
    Example: attrstore ingest gradients facts.duckdb --model model

    \b
    A whole run: attrstore ingest gradients facts.duckdb --run output
    """
    from attrstore.ingest.encode.gradients import ingest_gradients
    from attrstore.ingest.encode.run import ingest_run

    if (model is None) == (run is None):
        raise InputError("give --model MODEL or --run DIR, one of the two.")
    with attrstore.open(store, writable=True) as opened, counted("encoding examples") as progress:
        if run is not None:
            encoded = ingest_run(
                opened, run=run, optimizer_state=optimizer_state, name=name, progress=progress, **fields
            )
        elif model is not None:
            counts = ingest_gradients(
                opened, model=model, optimizer_state=optimizer_state, name=name, progress=progress, **fields
            )
    if run is not None:
        _report_run(store, encoded)
    else:
        report_counts(counts, f"attrstore score {store} cosine-block")


def _report_run(store: Path, run: EncodedRun) -> None:
    """Print what was encoded of each checkpoint, its learning rate, and what makes a scoring of them."""
    for checkpoint, counts in zip(run.checkpoints, run.encoded, strict=True):
        logged = "" if checkpoint.logged == checkpoint.step else f", logged at step {checkpoint.logged:,}"
        say(f"{checkpoint.folder.name}: learning rate {checkpoint.rate:g}{logged}")
        report_counts(counts)
    names, weights = ",".join(run.encoders), ",".join(f"{weight:g}" for weight in run.weights)
    say(f"Next: attrstore score {store} tracincp --encoders {names} --weights {weights}")


@click.command("representations")
@store_argument
@model_option
@encoder_name_option
@fields_of(RepresentationRecipe)
@shardable("representation", "repsim")
def representations_command(
    store: Path, model: Path, name: str | None, **fields: Unpack[RepresentationFields]
) -> None:
    """Encode the hidden state of every example and prompt that has none yet (RepSim).

    \b
    Example: attrstore ingest representations facts.duckdb --model model --layer -1
    """
    from attrstore.ingest.encode.representations import ingest_representations

    with attrstore.open(store, writable=True) as opened, counted("encoding examples") as progress:
        counts = ingest_representations(opened, model=model, name=name, progress=progress, **fields)
    report_counts(counts, f"attrstore score {store} repsim")


def report_counts(counts: Encoded, next_command: str | None = None) -> None:
    """Print what an encoding job did, and what comes next."""
    say(f"{counts.encoder}: {counts.examples:,} examples and {counts.queries:,} queries encoded.")
    if counts.state is not None:
        say(counts.state)
    for noun, table, outcomes in (
        ("examples", "encodings", counts.outcomes),
        ("queries", "query_encodings", counts.query_outcomes),
    ):
        for outcome, n in sorted(outcomes.items()):
            if outcome != "ok":
                say(f"  {outcome}: {n:,} {noun}, see {table}.status")
    if next_command is not None:
        say(f"Next: {next_command}")
