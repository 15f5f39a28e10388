"""Commands about the file itself: init, info, check."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import format_option, store_argument
from attrstore.formats import write
from attrstore.terminal import print_pairs, print_table, say, say_wrapped


@click.command("init")
@store_argument
def init_command(store: Path) -> None:
    """Make an empty store, or bring an older one up to date.

    An older one gets today's tables, views and macros, what others added to those is removed, and the file becomes
    one that any DuckDB from 1.2 on opens.

    \b
    Example: attrstore init facts.duckdb
    """
    from attrstore.upgrade import upgrade

    with attrstore.open(store, create=True) as opened:
        for what in opened.removed:
            say(f"{store}: removed {what}, which was not attrstore's.", err=True)
    if upgrade(store):
        say(f"{store}: built anew, so that DuckDB from 1.2 on opens it.")
    say(f"{store}: ready. Next: attrstore ingest corpus {store} corpus.jsonl")


@click.command("info")
@store_argument
@format_option()
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

        say(json.dumps(described, indent=2, ensure_ascii=False))
        return
    if output_format != "table":
        write(sys.stdout, output_format, ("section", "item", "property", "value"), facts(described))
        return
    file = described["file"]
    per_example = f", {file['bytes_per_example']:,.0f} an example" if file["bytes_per_example"] else ""
    say(f"{file['path']}: {file['bytes']:,} bytes{per_example}; schema {file['schema_version']}")
    _print_pairs("Rows", {name: n for name, n in described["rows"].items() if n})
    _print_pairs("Bytes an example", described["bytes_per_example"])
    for name in ("sources", "models", "encoders", "lexical", "scorings", "runs"):
        _print_records(name.capitalize(), described[name])


@click.command("backup")
@store_argument
@click.argument("copy", type=click.Path(dir_okay=False, path_type=Path))
def backup_command(store: Path, copy: Path) -> None:
    """Write a copy of a store as it is now; others may read it meanwhile.

    The digest that it prints is of all rows: keep it elsewhere, and attrstore check --expect DIGEST tells whether a
    store still is, or again is, what was copied.

    \b
    Example: attrstore backup facts.duckdb copies/facts-2026-11-21.duckdb
    """
    from attrstore.digest import digest
    from attrstore.upgrade import backup

    size = backup(store, copy)
    with attrstore.open(copy) as opened:
        say(f"{copy}: {size:,} bytes, digest {digest(opened)}")


@click.command("check")
@store_argument
@click.option(
    "--shards", metavar="FOLDER",
    help="Check what attrstore ingest wrote there too: that every file is whole, and none is missing.",
)  # fmt: skip
@click.option(
    "--expect", metavar="DIGEST", help="Fail where the store is another than attrstore backup copied."
)
@click.option(
    "--repair",
    is_flag=True,
    help="First set right what can be derived again: rows that name nothing, rows kept twice, the lexical index.",
)
@click.option("--yes", is_flag=True, help="With --repair: do not ask.")
@format_option()
def check_command(
    store: Path, shards: str | None, expect: str | None, repair: bool, yes: bool, output_format: str
) -> None:
    """Check that a store's tables agree with each other; exit code 1 if they do not.

    \b
    Example: attrstore check facts.duckdb
    """
    from attrstore.check import check, check_shards

    if repair:
        _repair(store, yes)
    rows = []
    with attrstore.open(store) as opened:
        for finding in chain(check(opened), check_shards(opened, shards) if shards else ()):
            fix = finding.check.fix.replace("STORE", str(store))
            rows.append((finding.ok, finding.check.rule, finding.wrong, finding.sample, fix))
            if output_format != "table":
                continue
            if finding.ok:
                say_wrapped(f"ok     {finding.check.rule}", indent=7)
                continue
            say_wrapped(f"WRONG  {finding.check.rule}: {finding.wrong:,}, for one {finding.sample}", indent=7)
            say_wrapped(f"       {fix}", indent=7)
    if output_format != "table":
        write(sys.stdout, output_format, ("ok", "rule", "wrong", "sample", "fix"), rows)
    wrong = sum(not row[0] for row in rows)
    if wrong:
        say(f"Error: {store}: {wrong} of the checks failed.", err=True)
    if wrong or not _is_expected(store, expect):
        sys.exit(1)


def _repair(store: Path, yes: bool) -> None:
    from attrstore.workflows.repair import plan

    with attrstore.open(store, writable=True) as opened:
        found = plan(opened)
        for step in found.steps:
            say_wrapped(f"repair {step}", indent=7, err=True)
        if found.steps and (yes or click.confirm("Go on?", abort=True, err=True)):
            found.apply(opened)


def _is_expected(store: Path, expected: str | None) -> bool:
    """Whether the store has the digest that is expected of it, if any is; says so where it has not."""
    if expected is None:
        return True
    from attrstore.digest import digest

    with attrstore.open(store) as opened:
        found = digest(opened)
    if found != expected:
        say(
            f"Error: {store}: its digest is {found}, and {expected} was expected. It was written since, or lost what "
            "was: is its log (.wal) gone? Restore a copy.",
            err=True,
        )
    return found == expected


def facts(described: dict[str, Any]) -> Iterator[tuple[str, object, str, object]]:
    """Yield what `info` says as rows: section, item, property, value."""
    for section in ("file", "rows", "bytes_per_example"):
        for name, value in described[section].items():
            yield section, None, name, value
    for section in ("sources", "models", "encoders", "lexical", "scorings", "runs"):
        for number, record in enumerate(described[section], 1):
            item = record.get("name", record.get("run_id", number))
            for name, value in record.items():
                yield section, item, name, value


def _print_pairs(title: str, values: dict[str, object]) -> None:
    if values:
        say()
        print_pairs(title, values)


def _print_records(title: str, records: list[dict[str, object]]) -> None:
    """One table; columns in which nothing is known, and long specs, are for --format json."""
    if not records:
        return
    columns = [c for c in records[0] if c != "spec" and any(r[c] is not None for r in records)]
    say()
    print_table(columns, [[r[c] for c in columns] for r in records], title=title)
