"""The command that measures proponents: tail-patch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.terminal import say


def rate(value: str) -> float | str:
    """Read a number, or leave a word to the library."""
    try:
        return float(value)
    except ValueError:
        return value


@click.command("tail-patch")
@store_argument
@click.option(
    "--top", default=10, show_default=True, help="Proponents of each query and scoring; the report wants ten."
)
@click.option(
    "--learning-rate", type=rate,
    help="Of the step; small, or it overshoots. training: the one that the optimizer's state was saved with.  "
    "[default: 1e-6 for adamw and adam, 1e-3 for sgd]",
)  # fmt: skip
@click.option(
    "--scoring", "scorings", multiple=True, metavar="NAME", help="Only this scoring's proponents; may be repeated."
)  # fmt: skip
@click.option("--queries", type=int, metavar="N", help="Only the first N queries.")
@click.option(
    "--optimizer", "optimizer_name", type=click.Choice(["adamw", "adam", "sgd"]),
    help="The step's form: adamw where there is an optimizer's state, else sgd. adam: by the second moment as it was "
    "saved, which has no bound where that is zero.",
)  # fmt: skip
@click.option(
    "--optimizer-state", type=click.Path(path_type=Path),
    help="File with the optimizer's state_dict (AdamW, Adafactor); none: a plain gradient step.  "
    "[default: optimizer.pt in the model's folder, if it is there and fits]",
)  # fmt: skip
@click.option(
    "--max-length", type=click.IntRange(min=2), metavar="N", help="Tokens of a text.  [default: the model's context]"
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

    It says what one more training step does, not what training without the example would have done.

    \b
    Example: attrstore tail-patch facts.duckdb --queries 300
    """
    from attrstore.ingest.measure.tail_patch import tail_patch

    with attrstore.open(store, writable=True) as opened, counted("proponents measured") as progress:
        measured = tail_patch(opened, progress=progress, **options)
    say(
        f"{measured.optimizer}, learning rate {measured.learning_rate:g}: {measured.pairs:,} pairs measured, "
        f"{measured.examples:,} steps."
    )
    say(measured.state)
    for reason, pairs in sorted(measured.skipped.items()):
        say(f"  skipped: {reason}: {pairs:,} pairs")
    say(f"Next: attrstore report {store} --intervals")
