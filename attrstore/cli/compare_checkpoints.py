"""The command that sets change of parameters beside change of behaviour: compare-checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, format_option, store_argument
from attrstore.cli.options import PATH, fields_of
from attrstore.formats import show
from attrstore.ingest.measure.options import CheckpointFields, CheckpointOptions

COLUMNS = (
    "from", "to", "distance", "relative", "cosine", "queries", "mean change", "mean |change|", "low", "high",
    "improved", "rank correlation",
)  # fmt: skip


@click.command("compare-checkpoints")
@store_argument
@click.option(
    "--model", "folders", multiple=True, required=True, type=PATH,
    help="Folder of a checkpoint; repeated, in the order of training.",
)  # fmt: skip
@fields_of(CheckpointOptions)
@format_option()
def compare_checkpoints_command(
    store: Path, folders: tuple[Path, ...], output_format: str, **fields: Unpack[CheckpointFields]
) -> None:
    """Measure how far checkpoints lie apart, in parameters and in what they say of the queries' targets.

    For each two: |b - a|, relative to |a|, and the cosine of a and b; then the change of the targets'
    log-probability in nats, its mean size with a 95% interval over queries, the share of targets that became more
    likely, and the rank correlation of before and after. Kept in `parameter_changes` and `query_losses`; the views
    `behaviour_change`, `module_changes` and `query_changes` read them.

    \b
    Example: attrstore compare-checkpoints facts.duckdb --model checkpoint-650 --model model
    """
    from attrstore.ingest.measure.checkpoints import compare_checkpoints

    with attrstore.open(store, writable=True) as opened, counted("queries measured") as progress:
        rows = compare_checkpoints(opened, folders, progress=progress, **fields)
    common = os.path.commonpath([path for row in rows for path in row[:2]])
    named = [(*(os.path.relpath(path, common) for path in row[:2]), *row[2:]) for row in rows]
    show(COLUMNS, named, output_format)
