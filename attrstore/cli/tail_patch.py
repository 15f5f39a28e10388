"""The command that measures proponents: tail-patch."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.options import PATH, fields_of
from attrstore.ingest.measure.options import TailPatchFields, TailPatchOptions
from attrstore.terminal import say


@click.command("tail-patch")
@store_argument
@fields_of(TailPatchOptions)
@click.option("--model", type=PATH, help="The model's folder; the store's only model if not given.")
def tail_patch_command(store: Path, model: Path | None, **fields: Unpack[TailPatchFields]) -> None:
    """Measure what one training step on each strong proponent does to its query's target.

    A pair that several scorings rank high is measured once; a pair that has a row in `tail_patches` is not
    measured again, so a stopped or killed job goes on with the same command.

    It says what one more training step does, not what training without the example would have done.

    \b
    Example: attrstore tail-patch facts.duckdb --queries 300
    """
    from attrstore.ingest.measure.tail_patch import tail_patch

    with attrstore.open(store, writable=True) as opened, counted("proponents measured") as progress:
        measured = tail_patch(opened, model=model, progress=progress, **fields)
    say(
        f"{measured.optimizer}, learning rate {measured.learning_rate:g}: {measured.pairs:,} pairs measured, "
        f"{measured.examples:,} steps."
    )
    say(measured.state)
    for reason, pairs in sorted(measured.skipped.items()):
        say(f"  skipped: {reason}: {pairs:,} pairs")
    say(f"Next: attrstore report {store} --intervals")
