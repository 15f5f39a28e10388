"""The command that measures proponents: tail-patch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.terminal import say


@click.command("tail-patch")
@store_argument
@click.option(
    "--top", default=10, show_default=True, help="Proponents of each query and scoring; the report wants ten."
)
@click.option(
    "--learning-rate", type=float,
    help="Of the step; small, or it overshoots.  [default: 1e-6 for adam, 1e-3 for sgd]",
)  # fmt: skip
@click.option(
    "--scoring", "scorings", multiple=True, metavar="NAME", help="Only this scoring's proponents; may be repeated."
)  # fmt: skip
@click.option("--queries", type=int, metavar="N", help="Only the first N queries.")
@click.option(
    "--optimizer", "optimizer_name", type=click.Choice(["adam", "sgd"]),
    help="The step's form; adam if --optimizer-state is given, else sgd.",
)  # fmt: skip
@click.option(
    "--optimizer-state", type=click.Path(path_type=Path),
    help="File with the optimizer's state_dict (AdamW, Adafactor), for adam.",
)  # fmt: skip
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="The model's folder; the store's only model if not given.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def tail_patch_command(store: Path, **options: Any) -> None:
    """Measure what one training step on each strong proponent does to its query's target.

    A pair that several scorings rank high is measured once; a pair that has a row in `tail_patches` is not
    measured again, so a stopped or killed job goes on with the same command.

    \b
    Example: attrstore tail-patch facts.duckdb --optimizer-state model/optimizer.pt --queries 300
    """
    from attrstore.ingest.measure.tail_patch import tail_patch

    with attrstore.open(store, writable=True) as opened, counted("proponents measured") as progress:
        measured = tail_patch(opened, progress=progress, **options)
    say(
        f"{measured.optimizer}, learning rate {measured.learning_rate:g}: {measured.pairs:,} pairs measured, "
        f"{measured.examples:,} steps."
    )
    for reason, pairs in sorted(measured.skipped.items()):
        say(f"  skipped: {reason}: {pairs:,} pairs")
    say(f"Next: attrstore report {store} --intervals")
