"""The demo as a command."""

from __future__ import annotations

from pathlib import Path

import click

from attrstore.terminal import say


@click.command("demo")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("demo"))
@click.option("--seed", type=int, default=0, show_default=True, help="Of the world and of the training.")
@click.option("--force", is_flag=True, help="Replace what an earlier demo wrote in DIR.")
def demo_command(folder: Path, seed: int, force: bool) -> None:
    """Train a small model on a generated world of facts, and attribute its answers.

    Takes under five minutes on two cores. DIR is by default "demo"; the store is DIR/demo.duckdb.

    \b
    Example: attrstore demo demo
    """
    from attrstore.demo.run import run
    from attrstore.demo.show import show

    show(run(folder, seed=seed, force=force, say=lambda line: say(line, err=True)))
