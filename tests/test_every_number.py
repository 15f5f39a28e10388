"""Every view, macro and report with a number that is a mean says over how many, of which scoring and of which model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import Store
from attrstore.cli import main
from attrstore.cli.read import report_command
from tests.scored import N_QUERIES, add, fill

# A row with one of these is of a pair or a query, and no mean over them. Whatever else has a DOUBLE is one, but:
ONE = {"query", "example", "query_id", "example_id", "id"}
NO_MEAN = {
    "grouped_changes": "a distance", "module_changes": "a distance", "checkpoint_changes": "a distance",
    "tail_patch_settings": "a learning rate", "bm25_statistics": "the corpus",
    "change_correlation": "over all compared checkpoints at once, of which it has the number of pairs",
}  # fmt: skip
HOW_MANY = {"queries", "labelled_queries", "class_queries", "pairs"}
SCORING = {"name", "scoring", "influence", "encoder", "from_model"}
MODEL = {"model", "from_model"}
ARGUMENTS = {"metadata_key": "'kind'", "depth": "10", "input": "'text 3'", "query_terms": "['text']"}
SCORINGS = {"influence_scoring": "'trackstar'", "retrieval_scoring": "'bm25'", "reference": "'bm25'"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("numbers") / "s.duckdb"
    with attrstore.open(path, create=True) as store:
        fill(store)
        with store.transaction():
            add(store, "models", "model", "tokens", "models/tiny", None, "Llama", 1000)
            add(store, "encoders", "e", "gradient", "k16", "model", "{}", "[]", "2026-01-01")
            store.execute("UPDATE scorings SET encoder_id = 'e' WHERE family = 'influence'")
            store.execute(
                'UPDATE queries SET metadata = json_merge_patch(metadata, \'{"subject": "text", "object": "3"}\')'
            )
    return path


def relations(store: Store) -> dict[str, str]:
    """Return every view and table macro with the SQL that reads it."""
    found = {name: name for (name,) in store.rows("SELECT view_name FROM duckdb_views() WHERE NOT internal")}
    macros = (
        "SELECT function_name, parameters FROM duckdb_functions() "
        "WHERE function_type = 'table_macro' AND NOT internal"
    )
    for name, parameters in store.rows(macros):
        given = [(ARGUMENTS | SCORINGS)[p] for p in parameters if p != "resamples"]
        if name == "drawn":
            given = ["5"]
        found[name] = f"{name}({', '.join(given)})"
    return found


def test_every_view_and_macro_with_a_mean_names_n_scoring_and_model(filled: Path) -> None:
    means = set()
    with attrstore.open(filled) as store:
        described = {
            name: dict(store.rows(f"SELECT column_name, column_type FROM (DESCRIBE FROM {source})"))
            for name, source in relations(store).items()
        }
    for name, columns in described.items():
        if "DOUBLE" not in columns.values() or columns.keys() & ONE or name in NO_MEAN:
            continue
        means.add(name)
        for what in (HOW_MANY, SCORING, MODEL):
            assert columns.keys() & what or name == "report_means", f"{name} has none of {sorted(what)}"
    assert {
        "method_report",
        "report_by",
        "report_intervals",
        "report_differences",
        "class_report",
        "alignment",
        "lds_report",
        "qld_report",
        "auprc_by",
        "auprc_report",
    } <= means
    assert NO_MEAN.keys() <= described.keys()


def reports() -> list[list[str]]:
    """Return each way to call `attrstore report`, from its own options."""
    calls: list[list[str]] = [[]]
    for option in report_command.params:
        if isinstance(option, click.Option) and option.name not in ("output_format", "help"):
            value = "bm25" if option.name == "against" else "kind"
            calls.append([option.opts[0]] if option.is_flag else [option.opts[0], value])
    return calls


@pytest.mark.parametrize("options", reports(), ids=" ".join)
def test_every_report_names_n_scoring_and_model(filled: Path, options: list[str]) -> None:
    done = CliRunner().invoke(main, ["report", str(filled), *options, "--format", "csv"])
    assert done.exit_code == 0, done.output
    columns = set(done.stdout.splitlines()[0].split(","))
    for what in (HOW_MANY, SCORING, MODEL):
        assert columns & what, (options, columns)


def test_what_is_printed_says_so_too(filled: Path) -> None:
    for options in (
        [],
        ["--intervals"],
        ["--by", "kind"],
        ["--class-column", "kind"],
        ["--kinds"],
        ["--against", "bm25"],
    ):
        shown = CliRunner().invoke(main, ["report", str(filled), *options]).stdout
        assert "model: models/tiny" in shown, options
        assert "encoder: k16" in shown, options
        assert "queries" in shown or f"n {N_QUERIES - 2}" in shown, options


def test_a_traced_table_says_so_too(tmp_path: Path) -> None:
    from tests import tiny

    path = tmp_path / "s.duckdb"
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(9), [("a b", " c")], [(0, 3)])
    CliRunner().invoke(main, ["ingest", "lexical", str(path)])
    done = CliRunner().invoke(main, ["trace", str(path), "--no-tail-patch", "--format", "json"])
    records: list[dict[str, Any]] = json.loads(done.stdout)
    for what in (
        HOW_MANY,
        SCORING,
        MODEL,
        {"tail_patch_queries"},
        {"tail_patch_model"},
        {"stale"},
        {"partial"},
    ):
        assert records[0].keys() & what
