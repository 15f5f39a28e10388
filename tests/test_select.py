"""Selecting training data, against the same arithmetic in numpy; examples written as they came in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import InputError
from attrstore.cli import main
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.scoring import score
from attrstore.workflows.select import select
from tests import tiny
from tests.test_shapes import CHAT, CHAT_COMPLETION, COMPLETION, written

N = 23


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("selection")
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(N), [("a b", " c"), ("d", " e f"), ("north", " river")])
        store.execute("UPDATE examples SET source = CASE WHEN example_id < 5 THEN 'few' ELSE 'many' END")
        ingest_gradients(store, model=tiny.checkpoint(folder / "model"), projection_dim=4, code="fp16")
        score(store, "cosine", top_k=N)
    return folder / "s.duckdb"


@pytest.mark.parametrize("aggregate", ["mean", "max"])
@pytest.mark.parametrize("by", [None, "source"])
def test_the_strongest_of_all_examples(encoded: Path, tmp_path: Path, aggregate: str, by: str | None) -> None:
    with attrstore.open(encoded) as store:
        found = select(store, tmp_path / "kept.jsonl", method="cosine", share=0.3, aggregate=aggregate, by=by)
        matrix = np.full((3, N), np.nan)
        for query, example, value in store.rows("SELECT query_id, example_id, score FROM scores"):
            matrix[query, example] = value
    whole = matrix.mean(axis=0) if aggregate == "mean" else matrix.max(axis=0)
    groups = [range(N)] if by is None else [range(5), range(5, N)]
    wanted = {
        f"e-{i}"
        for group in groups
        for i in sorted(group, key=lambda i: (-whole[i], i))[: int(np.ceil(0.3 * len(group)))]
    }
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert {row["id"] for row in kept} == wanted
    assert [row["text"] for row in kept] == [tiny.sentences(N)[int(row["id"][2:])] for row in kept]
    assert (found.examples, found.of, found.queries) == (len(wanted), N, 3)
    assert found.groups == ({} if by is None else {"few": 2, "many": 6})


def test_the_command_says_over_what(encoded: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.jsonl"
    arguments = ["select", str(encoded), str(out), "--method", "cosine", "--share", "0.01"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert (
        "1 of 23 examples, the strongest by the mean of cosine over 3 queries (encoder k4-fp16"
        in result.output
    )
    assert len(out.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "must be above 0"),
        ({"share": 1.5}, "at most 1"),
        ({"aggregate": "median"}, "there is no such choice; there are mean, max"),
        ({"method": "bm25"}, "does not scan encodings"),
    ],
)
def test_a_wrong_selection_writes_nothing(
    encoded: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with attrstore.open(encoded) as store, pytest.raises(InputError, match=message):
        select(store, tmp_path / "kept.jsonl", **{"method": "cosine", **options})  # type: ignore[arg-type]
    assert not (tmp_path / "kept.jsonl").exists()


def test_examples_come_out_as_they_came_in(tmp_path: Path) -> None:
    rows = [
        {
            "id": "text",
            "text": "a \u2028 b",
            "source": "here",
            "n": 1,
            "nothing": None,
            "deep": {"x": [1, 2]},
        },
        {"id": "chat", **CHAT, "topic": "t"},
        {"id": "completion", **COMPLETION},
        {"id": "both", **CHAT_COMPLETION},
        {"id": "tokens", "text": "a b", "input_ids": [2, 3], "labels": [-100, 3]},
    ]
    path, out = tmp_path / "s.duckdb", tmp_path / "out.jsonl"
    with attrstore.open(path, create=True) as store:
        ingest_corpus(store, written(tmp_path, "c.jsonl", rows))
    sql = "SELECT external_id AS example FROM examples"
    result = CliRunner().invoke(main, ["export", str(path), sql, str(out), "--format", "examples"])
    assert result.exit_code == 0, result.output
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").rstrip("\n").split("\n")] == rows
    with attrstore.open(path, writable=True) as store:
        assert ingest_corpus(store, [out]).unchanged == 5
    for sql, message in (
        ("SELECT 'x' AS example", "no example is called 'x'"),
        ("SELECT 1 AS a", "a column `example`"),
    ):
        result = CliRunner().invoke(main, ["export", str(path), sql, str(out), "--format", "examples"])
        assert (result.exit_code, message in result.output) == (2, True)
