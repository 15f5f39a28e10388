"""The command that runs every method and prints the fact-tracing table: trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

import attrstore
from attrstore.cli.common import format_option, progress_bar, store_argument
from attrstore.cli.options import PATH, fields_of
from attrstore.formats import write
from attrstore.terminal import print_table, say_wrapped
from attrstore.workflows.options import TraceFields, TraceOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import TaskID

    from attrstore.evaluation.report import Report


@click.command("trace")
@store_argument
@fields_of(TraceOptions)
@click.option("--model", type=PATH, help="The model's folder; the only one that was encoded if not given.")
@format_option()
def trace_command(store: Path, model: Path | None, output_format: str, **fields: Unpack[TraceFields]) -> None:
    """Run every method, measure what its proponents move, and print both in one table.

    Each method whose encodings are in the store scores all queries; one training step on each of a query's ten
    strongest proponents gives its tail-patch. MRR and hit@10 need labels. What was left out is named with what it
    needs. Scorings that are there stay unless the corpus, queries or labels have changed since, and measured pairs
    too, so a stopped job goes on with the same command.

    Methods without an optimizer's correction in their paper read gradients without it, where the store has both.

    \b
    Example: attrstore trace facts.duckdb --queries 300
             attrstore trace facts.duckdb --method trackstar --method bm25 --format json
    """
    from attrstore.evaluation.report import standing
    from attrstore.workflows.trace import trace

    tasks: dict[str, TaskID] = {}
    with attrstore.open(store, writable=True) as opened, progress_bar() as bar:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        traced = trace(opened, model=model, progress=progress, **fields)
        notes = standing(opened)
    if output_format == "table":
        print_trace(traced.table)
    else:
        write(sys.stdout, output_format, traced.table.columns, traced.table.rows)
    for name, reason in traced.refreshed.items():
        say_wrapped(f"Scored again: {name}: {reason}.", indent=2, err=True)
    for note in notes:
        say_wrapped(note, indent=2, err=True)
    for names, need in by_reason(traced.left_out):
        say_wrapped(f"Left out: {', '.join(names)}: {need}", indent=2, err=True)


def by_reason(left_out: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Return what was left out with its reason, each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, need in left_out.items():
        reasons.setdefault(need, []).append(name)
    return [(names, need) for need, names in reasons.items()]


def print_trace(table: Report) -> None:
    """Print one row a method, each metric as its mean and its 95% interval."""
    from attrstore.cli.report_table import said_once

    rows = [
        (
            row["name"], row["encoder"], row["labelled_queries"],
            _interval(row, "mrr", ".3f"), _interval(row, "hit_at_10", ".3f"),
            _interval(row, "tail_patch_logprob", "+.5f"), row["tail_patch_queries"],
        )
        for row in table.records()
    ]  # fmt: skip
    print_table(("method", "encoder", "queries", "MRR", "hit@10", "tail-patch", "n tail-patch"), rows)
    for _, line in said_once(table.columns, table.rows):
        say_wrapped(line, indent=2)


def _interval(row: Mapping[str, float | None], metric: str, spec: str) -> str | None:
    if row[metric] is None:
        return None
    return f"{row[metric]:{spec}} [{row[f'{metric}_low']:{spec}}, {row[f'{metric}_high']:{spec}}]"
