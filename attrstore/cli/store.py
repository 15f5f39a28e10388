"""Commands about the file itself: init, info, check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import format_option, print_table, store_argument


@click.command("init")
@store_argument
def init_command(store: Path) -> None:
    """Make an empty store, or bring an older one up to date.

    \b
    Example: attrstore init facts.duckdb
    """
    attrstore.open(store, create=True).close()
    click.echo(f"{store}: ready. Next: attrstore ingest corpus {store} corpus.jsonl")


@click.command("info")
@store_argument
@format_option("table", "json")
def info_command(store: Path, output_format: str) -> None:
    """Show what a store holds, how it was made and how big it is.

    \b
    Example: attrstore info facts.duckdb
    """
    from attrstore.info import info

    with attrstore.open(store) as opened:
        described = info(opened)
    if output_format == "json":
        import json

        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return
    file = described["file"]
    per_example = f", {file['bytes_per_example']:,.0f} an example" if file["bytes_per_example"] else ""
    click.echo(f"{file['path']}: {file['bytes']:,} bytes{per_example}; schema {file['schema_version']}")
    _print_pairs("Rows", {name: n for name, n in described["rows"].items() if n})
    _print_pairs("Bytes an example", described["bytes_per_example"])
    for name in ("sources", "models", "encoders", "lexical", "scorings", "runs"):
        _print_records(name.capitalize(), described[name])


@click.command("check")
@store_argument
def check_command(store: Path) -> None:
    """Check that a store's tables agree with each other; exit code 1 if they do not.

    \b
    Example: attrstore check facts.duckdb
    """
    from attrstore.check import check

    wrong = 0
    with attrstore.open(store) as opened:
        for finding in check(opened):
            if finding.ok:
                click.echo(f"ok     {finding.check.rule}")
                continue
            wrong += 1
            click.echo(f"WRONG  {finding.check.rule}: {finding.wrong:,}, for one {finding.sample}")
            click.echo(f"       {finding.check.fix}")
    if wrong:
        click.echo(f"Error: {store}: {wrong} of the checks failed.", err=True)
        sys.exit(1)


def _print_pairs(title: str, values: dict[str, Any]) -> None:
    if values:
        print_table(("", title.lower()), values.items())


def _print_records(title: str, records: list[dict[str, Any]]) -> None:
    """One table; columns in which nothing is known, and long specs, are for --format json."""
    if not records:
        return
    columns = [c for c in records[0] if c != "spec" and any(r[c] is not None for r in records)]
    print_table(columns, [[r[c] for c in columns] for r in records], title=title)
