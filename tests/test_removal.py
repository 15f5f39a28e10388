"""Deleting takes everything that depends on a thing, and nothing else; renaming keeps it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import attrstore
from attrstore import InputError, Store
from attrstore.check import check
from attrstore.chosen import use
from attrstore.cli import main
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.removal import delete, plan, rename
from attrstore.scoring import score
from tests import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("removal")
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(12), [("a b", " c"), ("d", " e f")], [(0, 3), (1, 4)])
        ingest_lexical(store)
        for name, dim in (("four", 4), ("three", 3)):
            ingest_gradients(store, model=tiny.checkpoint(folder / "model"), projection_dim=dim, name=name)
        score(store, "trak", encoder="four")
        score(store, "cosine", encoder="three")
        score(store, "bm25")
    return folder / "s.duckdb"


@pytest.fixture
def removable(made: Path, path: Path) -> Path:
    shutil.copy(made, path)
    return path


def counts(store: Store) -> dict[str, int]:
    tables = store.rows("SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary")
    return {table: store.value(f"SELECT count(*) FROM {table}") for (table,) in tables}


def broken(store: Store) -> list[str]:
    return [finding.check.name for finding in check(store) if not finding.ok]


def test_a_deleted_example_is_gone_everywhere(removable: Path) -> None:
    with attrstore.open(removable, writable=True) as store:
        planned = plan(store, "example", ["e-3"])
        before = counts(store)
        assert delete(store, "example", ["e-3"]) == planned
        after = counts(store)
        assert {
            t: before[t] - after[t] for t in before if t not in ("runs", "terms") and before[t] != after[t]
        } == planned.rows
        assert planned.rows["examples"] == 1
        assert (planned.rows["encodings"], planned.rows["labels"], planned.rows["scorings"]) == (2, 1, 3)
        assert broken(store) == []
        # The index counts again as if the example had never been there.
        frequencies = store.rows("SELECT term, df FROM terms ORDER BY term")
        ingest_lexical(store, rebuild=True)
        assert store.rows("SELECT term, df FROM terms ORDER BY term") == frequencies
        score(store, "cosine", encoder="three")
        assert store.value("SELECT n_examples FROM scorings") == 11


def test_a_deleted_query_leaves_the_scorings(removable: Path) -> None:
    with attrstore.open(removable, writable=True) as store:
        delete(store, "query", ["q-1"])
        after = counts(store)
        assert (after["queries"], after["query_encodings"], after["labels"], after["scorings"]) == (
            1,
            2,
            1,
            3,
        )
        assert store.rows("SELECT DISTINCT query_id FROM scores") == [(0,)]
        assert broken(store) == []


def test_a_deleted_encoder_takes_its_scorings_and_a_deleted_scoring_its_scores(removable: Path) -> None:
    with attrstore.open(removable, writable=True) as store:
        delete(store, "encoder", ["four"])
        assert store.rows("SELECT name FROM scorings ORDER BY name") == [("bm25",), ("cosine",)]
        assert store.rows("SELECT DISTINCT name FROM encodings JOIN encoders USING (encoder_id)") == [
            ("three",)
        ]
        assert store.value("SELECT count(*) FROM curvatures") == 0
        delete(store, "scoring", ["cosine", "bm25"])
        assert store.value("SELECT count(*) FROM scores") == 0
        assert broken(store) == []


def test_a_scoring_of_several_encoders_goes_with_any_of_them(removable: Path) -> None:
    with attrstore.open(removable, writable=True) as store:
        score(store, "tracincp", encoders="three,four")
        delete(store, "encoder", ["three"])
        assert store.rows("SELECT name FROM scorings ORDER BY name") == [("bm25",), ("trak",)]


def test_the_command_says_first_and_asks(removable: Path) -> None:
    arguments = ["delete", str(removable), "scoring", "trak"]
    refused = CliRunner().invoke(main, arguments, input="n\n")
    assert refused.exit_code == 1
    assert "This deletes 1 scoring, with rows: " in refused.output
    assert "1 of scorings" in refused.output
    with attrstore.open(removable) as store:
        assert store.value("SELECT count(*) FROM scorings") == 3
    assert "1 scoring deleted." in CliRunner().invoke(main, [*arguments, "--yes"]).output
    with attrstore.open(removable) as store:
        assert store.value("SELECT count(*) FROM scorings") == 2


def test_renaming_keeps_what_is_derived_and_what_is_chosen(removable: Path) -> None:
    with attrstore.open(removable, writable=True) as store:
        use(store, influence="trak", retrieval="bm25")
        before = store.rows("SELECT query, example, rank FROM influence WHERE scoring = 'trak' ORDER BY ALL")
        rename(store, "scoring", "trak", "first")
        rename(store, "example", "e-0", "zero")
        rename(store, "query", "q-0", "asked")
        rename(store, "encoder", "four", "old")
        renamed = {"e-0": "zero", "q-0": "asked"}
        after = store.rows("SELECT query, example, rank FROM influence WHERE scoring = 'first' ORDER BY ALL")
        assert sorted((renamed.get(q, q), renamed.get(e, e), rank) for q, e, rank in before) == sorted(after)
        assert store.rows("SELECT name, reason FROM chosen_scorings ORDER BY family") == [
            ("first", "chosen by attrstore use"), ("bm25", "chosen by attrstore use")]  # fmt: skip
        assert broken(store) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["delete", "STORE", "scoring", "nothing", "--yes"], "no scoring is called nothing"),
        (["rename", "STORE", "scoring", "trak", "cosine"], "there is a scoring called cosine"),
        (["rename", "STORE", "example", "e-0", "e-1"], "there is an example called e-1"),
        (["rename", "STORE", "query", "q-0", ""], "the new name is empty"),
    ],
)  # fmt: skip
def test_a_wrong_name_changes_nothing(removable: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, [str(removable) if a == "STORE" else a for a in arguments])
    assert (result.exit_code, message in result.output) == (2, True), result.output
    with attrstore.open(removable) as store, pytest.raises(InputError):
        plan(store, "example", ["nobody"])
