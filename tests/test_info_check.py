"""info and check: what a store holds, and what is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

import attrstore
from attrstore import Store
from attrstore.check import CHECKS, check
from attrstore.cli import main
from attrstore.vectors import encoders
from attrstore.vectors.encoders import Encoder, make_blocks
from tests.scored import N_EXAMPLES, N_QUERIES, TOP_K, add, fill
from tests.test_tampering import TAMPERING


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("info") / "scored.duckdb"
    with attrstore.open(path, create=True) as store:
        add(store, "models", "model", "tokens", "models/tiny", None, "Llama", 1000)
        fill(store)
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


# info


ENCODER = "f5f07ef02b6ab2d7"


def add_encoder(store: attrstore.Store) -> None:
    encoder = Encoder("gradient", "k2", "model", {"code": "int8"}, make_blocks([("a", 6), ("b", 2)]))
    assert encoder.encoder_id == ENCODER
    encoders.save(store, encoder)
    store.execute(
        f"INSERT INTO encodings SELECT '{ENCODER}', i, repeat('c', 8)::BLOB, repeat('s', 4)::BLOB, 5, 1.5, "
        "CASE WHEN i % 2 = 0 THEN 'ok' ELSE 'truncated: 9 of 12 tokens' END FROM range(10) t(i)"
    )
    store.execute(
        f"INSERT INTO encodings SELECT '{ENCODER}', i, NULL, NULL, 1, NULL, 'skipped: short' FROM range(10, 60) t(i)"
    )
    store.execute(
        f"INSERT INTO query_encodings SELECT '{ENCODER}', i, repeat('v', 32)::BLOB, 2, 1.0, 'ok' FROM range(14) t(i)"
    )


def test_info(scored: Path, path: Path) -> None:
    shutil.copy(scored, path)
    with attrstore.open(path, writable=True) as store, store.transaction():
        add_encoder(store)
    done = run("info", path, "--format", "json")
    described = json.loads(done.stdout)
    assert described["file"] == {
        "path": str(path),
        "bytes": path.stat().st_size,
        "bytes_per_example": path.stat().st_size / N_EXAMPLES,
        "schema_version": described["file"]["schema_version"],
    }
    assert (described["rows"]["examples"], described["rows"]["encodings"]) == (N_EXAMPLES, N_EXAMPLES)
    (encoder,) = described["encoders"]
    assert encoder == {
        "name": "k2", "kind": "gradient", "code": "int8", "blocks": 2, "dimensions": 8,
        "bytes_per_example": 12.0, "encoded": 10, "skipped": 50, "truncated": 5,
        "queries": 14, "weights_encoded": None, "weights_left_out": None, "encoder_id": ENCODER,
    }  # fmt: skip
    text = sum(len(f'text {e}{{"kind":"c{e % 3}"}}') for e in range(N_EXAMPLES)) / N_EXAMPLES
    assert described["bytes_per_example"] == {"text and metadata": pytest.approx(text), "k2": 12.0}
    assert [(s["name"], s["queries"], s["spec"]) for s in described["scorings"]] == [
        (name, N_QUERIES, {"top_k": TOP_K}) for name in ("cosine", "trackstar", "bm25")
    ]
    shown = run("info", path).stdout
    assert shown.startswith(f"{path}: {path.stat().st_size:,} bytes, ")
    for word in ("k2", "trackstar", "models/tiny", "wiki"):
        assert word in shown


def test_info_of_an_empty_store(path: Path) -> None:
    run("init", path)
    assert run("info", path).exit_code == 0
    assert json.loads(run("info", path, "--format", "json").stdout)["encoders"] == []


# check


BREAKAGES = {
    "duplicate_ids": "INSERT INTO examples VALUES (3, 'x', '', NULL, NULL, md5_number(''))",
    "changed_texts": "UPDATE examples SET text = 'other' WHERE example_id = 3",
    "labels": "INSERT INTO labels VALUES (0, 999, 1, NULL)",
    "encoders": "UPDATE encoders SET model_fingerprint = 'gone'",
    "encodings": "UPDATE encodings SET example_id = 999 WHERE example_id = 3",
    "query_encodings": "UPDATE query_encodings SET query_id = 999",
    "curvatures": "INSERT INTO curvatures VALUES ('gone', 'corpus', 'a', 1, 1, ''::BLOB)",
    "duplicate_encodings": "INSERT INTO encodings FROM encodings WHERE example_id = 3",
    "code_lengths": "UPDATE encodings SET code = 'short'::BLOB WHERE example_id = 3",
    "lexical_examples": "DELETE FROM lexical_stats WHERE example_id = 5",
    "lexical_counts": "UPDATE terms SET df = df + 1 WHERE term_id = 2",
    "scorings": "UPDATE scorings SET encoder_id = 'gone' WHERE name = 'cosine'",
    "scores": "DELETE FROM queries WHERE query_id = 13",
    "scoring_queries": "DELETE FROM scoring_queries WHERE query_id = 3",
    "ranks": "INSERT INTO scores FROM scores WHERE rank = 1 LIMIT 1",
    "tail_patches": "UPDATE tail_patches SET model_fingerprint = 'gone'",
    "explanations": "INSERT INTO exact_scores VALUES ('r', 0, 999, 1, 1, 1)",
    "subsets": "INSERT INTO subset_losses VALUES ('lds', 1, 3, 0, 1.0, 'here')",
    "checkpoints": "INSERT INTO query_losses VALUES ('gone', 0, 1, 1, 'ok')",
    "runs": "INSERT INTO runs VALUES (2, 'score', '{}', '0', 'here', now(), NULL, 0, 'running', NULL)",
}


@pytest.fixture(scope="module")
def whole(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with something for every check to look at."""
    path = tmp_path_factory.mktemp("check") / "whole.duckdb"
    shutil.copy(scored, path)
    with attrstore.open(path, writable=True) as store, store.transaction():
        add_encoder(store)
        store.execute("INSERT INTO lexical_index VALUES ('[a-z]+', true, NULL, 'okapi', 1.5, 0.75, 0.25)")
        store.execute("INSERT INTO terms VALUES (1, 'text', 60), (2, 'seven', 2)")
        store.execute("INSERT INTO postings SELECT 1, example_id, 1 FROM examples")
        store.execute("INSERT INTO postings VALUES (2, 7, 2), (2, 17, 1)")
        for example, seven in ((7, "seven seven"), (17, "seven")):
            text = {"text": f"text {seven}", "id": example}
            store.execute(
                "UPDATE examples SET text = $text, content_hash = md5_number($text) WHERE example_id = $id",
                text,
            )
        store.execute(
            "INSERT INTO lexical_stats "
            "SELECT example_id, CASE example_id WHEN 7 THEN 3 WHEN 17 THEN 2 ELSE 1 END FROM examples"
        )
        for number, state in enumerate(["killed", "finished"]):
            add(store, "runs", number, "ingest corpus", "{}", "0", "here", "2026-01-01", None, 0, state, None)
    return path


def test_check_of_a_whole_store(whole: Path) -> None:
    done = run("check", whole)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [f"ok     {rule.rule}" for rule in CHECKS]


def test_every_check_can_fail() -> None:
    elsewhere = {
        "readable",
        *(rule for _, rule, _ in TAMPERING.values()),
    }  # readable: tests/test_store_files.py
    assert set(BREAKAGES) | elsewhere == {rule.name for rule in CHECKS}


@pytest.fixture(scope="module")
def writable(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    copied = shutil.copy(whole, tmp_path_factory.mktemp("writable") / "store.duckdb")
    with attrstore.open(copied, writable=True) as store:
        yield store


@pytest.mark.parametrize("name", list(BREAKAGES))
def test_check_finds(writable: Store, name: str) -> None:
    writable.execute("BEGIN")  # a copy of the store for each takes far longer
    try:
        writable.execute(BREAKAGES[name])
        assert [found.check.name for found in check(writable, [name]) if not found.ok] == [name]
    finally:
        writable.execute("ROLLBACK")


def test_the_command_prints_the_rule_and_its_fix(whole: Path, path: Path) -> None:
    shutil.copy(whole, path)
    with duckdb.connect(str(path)) as con:
        con.execute(BREAKAGES["labels"])
    done = run("check", path)
    assert done.exit_code == 1
    rule = next(rule for rule in CHECKS if rule.name == "labels")
    position = next(
        i for i, line in enumerate(done.stdout.splitlines()) if line.startswith(f"WRONG  {rule.rule}: ")
    )
    assert done.stdout.splitlines()[position + 1].strip() == rule.fix
    assert "of the checks failed" in done.stderr


def test_every_check_is_there_once() -> None:
    names = [rule.name for rule in CHECKS]
    assert len(set(names)) == len(names)


def test_a_store_checks_out_before_it_is_closed_and_after(path: Path) -> None:
    """DuckDB prints a view otherwise once it was read from the file; both are attrstore's own."""
    for create in (True, False):
        with attrstore.open(path, create=create) as store:
            assert [finding.check.name for finding in check(store) if not finding.ok] == []
