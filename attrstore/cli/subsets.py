"""Commands for models that are trained on parts of the corpus: subsets, retrain."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, format_option, store_argument
from attrstore.cli.options import fields_of
from attrstore.evaluation.options import SubsetFields, SubsetOptions
from attrstore.formats import show
from attrstore.terminal import say


@click.command("subsets")
@store_argument
@fields_of(SubsetOptions)
def subsets_command(store: Path, **fields: Unpack[SubsetFields]) -> None:
    """Choose parts of the corpus to train on again, for LDS, for leave-k-out or for QLD.

    For LDS, each subset keeps a random share of the examples. With --leave-out, the set has the whole corpus, some
    subsets without K random examples, and one for each query and scoring without its K strongest proponents. --share
    0.01 leaves out that share of the corpus, as QLD does.

    What each keeps is in the view `subset_texts`. Train a model on each, then `attrstore import losses`; the demo's
    model is trained by `attrstore retrain`.

    \b
    Example: attrstore subsets facts.duckdb --count 32 --fraction 0.5
             attrstore subsets facts.duckdb --leave-out 10 --scoring cosine-block --queries 20
             attrstore subsets facts.duckdb --share 0.01 --scoring cosine-block --by relation
             attrstore export facts.duckdb "FROM subset_texts WHERE subset_set = 'lds' AND subset = 1" 1.jsonl
    """
    from attrstore.evaluation.subsets import make

    if fields["scorings"] and fields["top"] is None and fields["share"] is None:
        raise attrstore.InputError("--scoring NAME goes with --leave-out K or --share S.")
    with attrstore.open(store, writable=True) as opened:
        made = make(opened, **fields)
    say(
        f"{made.name}: {made.subsets:,} subsets of {made.n_examples:,} examples, each without {made.left_out:,}."
    )
    say(f"Next: train on each of them, then attrstore import losses {store} FILE --subsets {made.name}")


@click.command("retrain")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("demo"))
@click.option("--subsets", default="lds", show_default=True, help="Name of the set.")
@click.option(
    "--seeds", default=1, show_default=True, help="Retrainings of each subset, averaged: one alone is noisy."
)
@click.option(
    "--steps", type=int, help="What the whole corpus would take; a subset takes its share.  [default: the demo's]"
)  # fmt: skip
@format_option()
def retrain_command(folder: Path, subsets: str, seeds: int, steps: int | None, output_format: str) -> None:
    """Train the demo's model again on each subset, and print how well the scorings foretold its targets.

    DIR is that of `attrstore demo`. Each model sees its subset as often as the demo's model saw the corpus. A
    stopped or killed job goes on with the same command. LDS is printed for scorings that have the score of every
    example: score them with --top-k as large as the corpus.

    \b
    Example: attrstore retrain demo
             attrstore retrain demo --subsets leave-out --seeds 2
    """
    from attrstore.demo.retrain import retrain
    from attrstore.evaluation.report import tabulate

    with counted("models trained") as progress:
        done = retrain(folder, subsets=subsets, seeds=seeds, steps=steps, progress=progress)
    say(f"{subsets}: {done.models:,} models trained.", err=True)
    notes: dict[str, None] = {}  # each once, in order
    with attrstore.open(done.store) as store:
        for table in (tabulate(store, lds=True), tabulate(store, leave_out=True), tabulate(store, qld=True)):
            rows = [row[1:] for row in table.rows if row[0] == subsets]
            if rows:
                show(table.columns[1:], rows, output_format)
                notes |= dict.fromkeys(table.notes)
    for note in notes:
        say(note, err=True)
