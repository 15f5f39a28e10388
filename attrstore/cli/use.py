"""The command that says which two scorings are shown where none is named: use."""

from __future__ import annotations

from pathlib import Path

import click

import attrstore
from attrstore.cli.common import format_option, store_argument
from attrstore.formats import show

COLUMNS = ("family", "name", "reason", "model", "encoder", "partial", "stale", "reasons")


@click.command("use")
@store_argument
@click.option("--influence", metavar="NAME", help="The influence scoring of `comparison`.")
@click.option("--retrieval", metavar="NAME", help="The retrieval scoring of `comparison`.")
@click.option("--reset", is_flag=True, help="Forget both: the first recommended one that is complete again.")
@format_option()
def use_command(
    store: Path, influence: str | None, retrieval: str | None, reset: bool, output_format: str
) -> None:
    """Choose the two scorings that `comparison` sets side by side, or show which they are and why.

    Without a choice each is the first complete one in the order of recommendation (the view `recommended`): never
    the newest, and never one that ranks some queries or examples only. The choice is kept in the store.

    \b
    Example: attrstore use facts.duckdb
             attrstore use facts.duckdb --influence trackstar --retrieval bm25
    """
    from attrstore import chosen

    given = influence is not None or retrieval is not None
    if reset and given:
        raise attrstore.InputError("--reset: forgets both. Leave --influence and --retrieval out.")
    with attrstore.open(store, writable=given or reset) as opened:
        if reset:
            chosen.reset(opened)
        elif given:
            chosen.use(opened, influence=influence, retrieval=retrieval)
        rows = chosen.chosen(opened)
    shown = [
        c
        for c in COLUMNS
        if output_format != "table" or c in ("name", "reason") or any(row[c] for row in rows)
    ]
    show(shown, [[row[c] for c in shown] for row in rows], output_format)
