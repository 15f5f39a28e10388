"""Commands that only read: report, sql, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import attrstore
from attrstore.cli.common import format_option, full_option, store_argument
from attrstore.formats import write
from attrstore.terminal import print_table, say

if TYPE_CHECKING:
    import duckdb


TABLE_ROWS = 1_000  # a terminal is no place for more


@click.command("report")
@store_argument
@format_option()
@click.option("--by", metavar="COLUMN", help="One row per value of this key of the queries' metadata.")
@click.option(
    "--class-column", metavar="COLUMN", help="Add accuracy and cover of this class (a metadata key)."
)  # fmt: skip
@click.option("--intervals", is_flag=True, help="Each metric with its 95% bootstrap interval over queries.")
@click.option(
    "--against", metavar="SCORING",
    help="How much the others lie above this one, query by query, with the 95% interval of the difference.",
)  # fmt: skip
@click.option(
    "--kinds",
    is_flag=True,
    help="What the first ten proponents are: states the fact, shares its subject, ...",
)
@click.option(
    "--lds", is_flag=True, help="How well each foretells models trained on subsets: see `attrstore subsets`."
)
@click.option(
    "--leave-out", is_flag=True, help="What leaving out the strongest proponents did to the target."
)
@click.option(
    "--qld",
    is_flag=True,
    help="How much more the loss rose without the strongest than without random examples.",
)
def report_command(store: Path, output_format: str, **asked: Any) -> None:
    """Show how well each scoring finds the labelled examples.

    \b
    Example: attrstore report facts.duckdb --by relation
             attrstore report facts.duckdb --against bm25
             attrstore report facts.duckdb --lds
    """
    from attrstore.cli.report_table import print_report
    from attrstore.evaluation.report import tabulate

    with attrstore.open(store) as opened:
        table = tabulate(opened, **asked)
    for note in table.notes:
        say(note, err=True)
    if output_format == "table":
        print_report(table.columns, table.rows)
    else:
        write(sys.stdout, output_format, table.columns, table.rows)


@click.command("sql")
@store_argument
@click.argument("query")
@format_option("parquet")
@full_option
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of stdout."
)
@click.option("--timeout", type=click.FloatRange(min=0.001), metavar="SECONDS", help="Stop after this long.")
@click.option(
    "--unlocked", is_flag=True, help="Let the SQL read and write files of this machine and change settings."
)
def sql_command(
    store: Path,
    query: str,
    output_format: str,
    output: Path | None,
    timeout: float | None,
    unlocked: bool,
    full: bool,
) -> None:
    """Run one query on a store, read-only. QUERY may be - for stdin.

    It reads the store and nothing else: no files, network, extensions or settings. Only SQL that you wrote
    yourself should run --unlocked.

    \b
    Example: attrstore sql facts.duckdb "FROM comparison WHERE query = 'q-17' ORDER BY influence_rank"
    """
    from attrstore import export
    from attrstore.locked import lock, require_one_query

    if query == "-":
        query = sys.stdin.read()
    if output_format == "parquet" and output is None and sys.stdout.isatty():
        raise attrstore.InputError("parquet is not for a terminal. Add --output FILE.parquet, or a pipe.")
    with attrstore.open(store, files=unlocked) as opened:
        if not unlocked:
            require_one_query(opened, query)
        lock(opened, seconds=timeout, settings=unlocked)
        relation = export.query(opened, query)
        if output is not None:
            _to_file(opened, relation, output, output_format)
        elif output_format == "table":
            _print(opened, relation, full=full)
        elif output_format == "parquet":
            _parquet_to_stdout(opened, relation)
        else:
            export.write_stream(opened, relation, sys.stdout, output_format)


@click.command("export")
@store_argument
@click.argument("what", metavar="NAME_OR_SQL")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format", "output_format",
    type=click.Choice(
        ["parquet", "csv", "jsonl", "json", "arrow", "trec-run", "trec-qrels", "pair", "examples", "npy", "bergson",
         "html"]
    ),
    help="By default the ending of OUT decides.",
)  # fmt: skip
def export_command(store: Path, what: str, out: Path, output_format: str | None) -> None:
    """Write a table, view, scoring or SQL result to a file.

    \b
    Examples: attrstore export facts.duckdb comparison comparison.parquet
              attrstore export facts.duckdb trackstar run.txt --format trec-run
              attrstore export facts.duckdb labels qrels.txt --format trec-qrels
              attrstore export facts.duckdb trackstar viewer.jsonl --format pair
              attrstore export facts.duckdb "SELECT example FROM influence WHERE rank = 1" kept.jsonl --format examples
              attrstore export facts.duckdb cosine scores.npy
              attrstore export facts.duckdb cosine scores --format bergson
              attrstore export facts.duckdb comparison report.html
    """
    from attrstore.export import export

    if output_format == "html" or (output_format is None and out.suffix.lower() == ".html"):
        _html(store, what, out)
        return
    with attrstore.open(store) as opened:
        rows = export(opened, what, out, file_format=output_format)
    say(f"{out}: {rows:,} rows")


def _html(store: Path, what: str, out: Path) -> None:
    from attrstore.web.report import write_report

    with attrstore.open(store) as opened:
        queries = write_report(opened, what, out)
    say(f"{out}: {queries:,} queries, {out.stat().st_size:,} bytes")


def _print(store: attrstore.Store, relation: duckdb.DuckDBPyRelation, *, full: bool) -> None:
    from attrstore.batches import batches

    rows = [row for batch in batches(store, relation.limit(TABLE_ROWS + 1)) for row in batch]
    print_table(relation.columns, rows[:TABLE_ROWS], full=full, once=True)
    if len(rows) > TABLE_ROWS:
        say(f"First {TABLE_ROWS:,} rows. All of them: --format csv", err=True)


def _to_file(
    store: attrstore.Store, relation: duckdb.DuckDBPyRelation, out: Path, output_format: str
) -> None:
    from attrstore.export import SUFFIXES, replacing, write_file

    chosen = SUFFIXES.get(out.suffix.lower(), "csv") if output_format == "table" else output_format
    with replacing(out, beside=store) as temporary:
        rows = write_file(store, relation, temporary, chosen)
    say(f"{out}: {rows:,} rows", err=True)


def _parquet_to_stdout(store: attrstore.Store, relation: duckdb.DuckDBPyRelation) -> None:
    """Parquet ends with its index, so it is finished in a file before it goes down the pipe."""
    import shutil
    from tempfile import TemporaryDirectory

    from attrstore.export import write_file

    with TemporaryDirectory() as folder:
        file = Path(folder) / "result.parquet"
        write_file(store, relation, file, "parquet")
        with file.open("rb") as stream:
            shutil.copyfileobj(stream, sys.stdout.buffer)
