"""Every door once, from what a person has to `comparison`: sources of data, kinds of models, other tools' scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from safetensors.numpy import save_file

import attrstore
from attrstore.cli import main
from tests import test_experts, test_lora, test_models, tiny
from tests.test_import_others import bergson
from tests.test_ingest_files import arrow_stream, compressed, delimited, feather, jsonl, lines, parquet

TEXTS = [text for text in tiny.sentences(12) if len(text.split()) > 2]
# Ids are numbers; the nested column is metadata, and becomes nothing that is compared.
ROWS: list[dict[str, Any]] = [
    {"id": i, "text": text, "source": "s", "nested": {"deep": [{"k": i}, None]}}
    for i, text in enumerate(TEXTS)
]
FLAT = [{key: value for key, value in row.items() if key != "nested"} for row in ROWS]
WORDS = TEXTS[3].split()
QUERIES: list[dict[str, Any]] = [{"id": 1.5, "prompt": " ".join(WORDS[:-1]), "target": f" {WORDS[-1]}"}]

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}")
    for what in ("`is_gradient_", "`gradient_check", "Could not find")
]


def hub(folder: Path) -> str:
    """Lay a data set out as the Hub's cache does, and return its address."""
    name = folder / "hub" / "datasets--someone--texts"
    (name / "refs").mkdir(parents=True)
    (name / "refs" / "main").write_text("abc123")
    data = name / "snapshots" / "abc123" / "data"
    data.mkdir(parents=True)
    parquet(data / "train-00000-of-00002.parquet", ROWS[:4])
    parquet(data / "train-00001-of-00002.parquet", ROWS[4:])
    parquet(data / "test-00000-of-00001.parquet", [{"id": "other", "text": "z z z"}])
    return "hf://datasets/someone/texts/data/train-*.parquet"


def saved_to_disk(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "jsonl": lambda d: jsonl(d / "c.jsonl", ROWS),
    "jsonl.gz": lambda d: compressed(jsonl(d / "c.jsonl", ROWS)),
    "json array": lambda d: lines(d / "c.json", json.dumps(ROWS)),
    "csv": lambda d: delimited(d / "c.csv", FLAT),
    "tsv": lambda d: delimited(d / "c.tsv", FLAT, "\t"),
    "parquet": lambda d: parquet(d / "c.parquet", ROWS),
    "arrow": lambda d: arrow_stream(d / "c.arrow", ROWS),
    "feather": lambda d: feather(d / "c.feather", ROWS),
    "save_to_disk": saved_to_disk,
    "the Hub": hub,
    "datasets.Dataset": lambda d: datasets.Dataset.from_list(ROWS),
    "datasets.IterableDataset": lambda d: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "polars": lambda d: pl.DataFrame(ROWS),
    "pandas": lambda d: pd.DataFrame(ROWS),
    "Arrow table": lambda d: pa.Table.from_pylist(ROWS),
    "dictionaries": lambda d: iter(ROWS),
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("doors") / "model")


def compared(store: attrstore.Store, **model: Any) -> list[tuple[Any, ...]]:
    """Encode, score twice, and return the comparison."""
    store.index_lexical()
    if model:
        store.encode_gradients(**{"projection_dim": 64, "code": "fp16", "name": "g", **model})
        store.score("cosine")
    store.score("bm25")
    return store.rows(
        "SELECT query, example, text, influence_rank, retrieval_rank, round(influence_score, 3), "
        "round(retrieval_score, 6) FROM comparison ORDER BY ALL"
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> list[tuple[Any, ...]]:
    """What a store says whose rows are written by hand."""
    with attrstore.open(tmp_path_factory.mktemp("hand") / "s.duckdb", create=True) as store:
        tiny.fill(store, TEXTS, [(q["prompt"], q["target"]) for q in QUERIES])
        store.execute("UPDATE examples SET external_id = example_id")
        store.execute("UPDATE queries SET external_id = '1.5'")
        return compared(store, model=checkpoint)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_to_the_comparison(
    path: Path, tmp_path: Path, checkpoint: Path, expected: list[tuple[Any, ...]], source: str
) -> None:
    with attrstore.open(path, create=True) as store:
        assert store.add_corpus(SOURCES[source](tmp_path)).added == len(ROWS)
        store.add_queries(QUERIES)
        found = compared(store, model=checkpoint)
        assert found == expected
        assert {row[0] for row in found} == {"1.5"}
        assert len(found) == len(ROWS)
        kept = store.rows("SELECT metadata ->> '$.nested.deep[0].k' FROM examples ORDER BY example_id")
        wanted = [(None if source in ("csv", "tsv") else str(i),) for i in range(len(ROWS))]
        assert kept == wanted


@pytest.mark.usefixtures("no_network")
def test_what_the_hub_does_not_have_is_refused_with_the_fix(path: Path, tmp_path: Path) -> None:
    hub(tmp_path)
    with attrstore.open(path, create=True) as store:
        for address, reason in (
            ("hf://someone/texts", "not an address of a data set's files on the Hub. Give hf://datasets/OWNER"),
            ("hf://datasets/someone/texts", "not an address of a data set's files on the Hub"),
            ("hf://datasets/nobody/nothing/a.parquet", "cannot be had from the Hub, nor is it in its cache here"),
            ("hf://datasets/someone/texts@v2/data", "cannot be had from the Hub, nor is it in its cache here"),
            ("hf://datasets/someone/texts/data/dev-*.parquet", "no file matches this pattern"),
        ):  # fmt: skip
            with pytest.raises(attrstore.InputError, match=reason):
                store.add_corpus(address)
        splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
        with pytest.raises(attrstore.InputError, match=r"DatasetDict: .* several splits\. Give one: train"):
            store.add_corpus(splits)
        assert store.value("SELECT count(*) FROM examples") == 0
    address = "hf://datasets/someone/texts@main/data/test-00000-of-00001.parquet"
    done = CliRunner().invoke(main, ["ingest", "corpus", str(path), address])
    assert (done.exit_code, "1 example added" in done.output) == (0, True), done.output


def in_memory(folder: Path) -> dict[str, Any]:
    return {"model": tiny.model(), "tokenizer": tiny.tokenizer()}


def checkpointed(folder: Path) -> dict[str, Any]:
    """A model as a training with gradient checkpointing leaves it."""
    model = tiny.model().train()
    model.gradient_checkpointing_enable()
    return {"model": model, "tokenizer": tiny.tokenizer()}


def in_bfloat16(folder: Path) -> dict[str, Any]:
    return {"model": tiny.checkpoint(folder / "m"), "dtype": "bfloat16"}


def offloaded(folder: Path) -> dict[str, Any]:
    return {"model": tiny.checkpoint(folder / "m"), "device": "offload"}


def mixture(folder: Path) -> dict[str, Any]:
    test_experts.mixture("mixtral").save_pretrained(folder / "m")
    tiny.tokenizer().save_pretrained(folder / "m")
    return {"model": folder / "m"}


def gguf(folder: Path) -> dict[str, Any]:
    return {"model": test_models.gguf_file(folder / "tiny.gguf", quantised=True)}


MODELS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "llama": lambda d: {"model": tiny.checkpoint(d / "m")},
    "gpt2, tied": lambda d: {"model": tiny.checkpoint(d / "m", "gpt2")},
    "gpt_neox": lambda d: {"model": tiny.checkpoint(d / "m", "gpt_neox")},
    "qwen2": lambda d: {"model": tiny.checkpoint(d / "m", "qwen2")},
    "in memory": in_memory,
    "gradient checkpointing": checkpointed,
    "bfloat16": in_bfloat16,
    "offloaded": offloaded,
    "adapter": lambda d: {"model": test_lora.make(d)},
    "mixture of experts": mixture,
    "GGUF, quantised": gguf,
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_to_the_comparison(
    path: Path, tmp_path: Path, expected: list[tuple[Any, ...]], kind: str
) -> None:
    """The text of the query itself is among its strongest proponents by the model, and the first by its words."""
    given = MODELS[kind](tmp_path)
    with attrstore.open(path, create=True) as store:
        store.add_corpus(ROWS)
        store.add_queries(QUERIES)
        found = compared(store, **given)
        assert len(found) == len(ROWS)
        ((by_model, by_words),) = (row[3:5] for row in found if row[1] == "3")
        assert by_model <= 2
        assert by_words == 1
        if kind in ("in memory", "gradient checkpointing"):
            assert found == expected  # the same model, from a folder
            assert given["model"].is_gradient_checkpointing == (kind == "gradient checkpointing")


def matrix() -> np.ndarray[Any, Any]:
    """Scores of one query, of which the last example has the highest."""
    return np.sort(np.random.default_rng(5).normal(size=(1, len(ROWS))).astype(np.float32))


def kronfluence(folder: Path) -> Path:
    save_file({"all_modules": matrix()}, folder / "scores.safetensors")
    return folder / "scores.safetensors"


def numpy_file(folder: Path) -> Path:
    np.save(folder / "scores.npy", matrix())
    return folder / "scores.npy"


def csv_file(folder: Path) -> Path:
    np.savetxt(folder / "scores.csv", matrix(), delimiter=",")
    return folder / "scores.csv"


def trec(folder: Path) -> Path:
    text = [
        f"1.5 Q0 {i} {len(ROWS) - i} {score:.9g} run" for i, score in reversed(list(enumerate(matrix()[0])))
    ]
    return lines(folder / "run.trec", *text)


def pair_viewer(folder: Path) -> Path:
    order = list(reversed(range(len(ROWS))))
    record = {
        "example_id": "1.5", "proponent_ids": [str(i) for i in order],
        "proponent_scores": [float(matrix()[0, i]) for i in order],
    }  # fmt: skip
    return lines(folder / "run.jsonl", json.dumps(record))


def written_by_bergson(folder: Path) -> Path:
    scores = matrix().T.copy()
    return bergson(folder / "scores", scores, np.ones_like(scores, dtype=bool))


FOREIGN: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "bergson": ("scores", written_by_bergson),
    "kronfluence": ("scores", kronfluence),
    "numpy": ("scores", numpy_file),
    "csv": ("scores", csv_file),
    "TREC": ("ranking", trec),
    "PAIR viewer": ("ranking", pair_viewer),
}


@pytest.fixture
def filled(path: Path) -> Path:
    with attrstore.open(path, create=True) as store:
        store.add_corpus(ROWS)
        store.add_queries(QUERIES)
    return path


@pytest.mark.parametrize("tool", FOREIGN)
def test_every_other_tool_s_scores_to_the_comparison(filled: Path, tmp_path: Path, tool: str) -> None:
    command, write = FOREIGN[tool]
    arguments = ["import", command, str(filled), str(write(tmp_path)), "--name", "theirs"]
    arguments += ["--family", "influence"] if command == "ranking" else []
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    with attrstore.open(filled, writable=True) as store:
        found = compared(store)
        last = len(ROWS) - 1
        ranks = {int(row[1]): row[3] for row in found}
        assert [ranks[i] for i in (last, last - 1, last - 2)] == [1, 2, 3]
        score = {int(row[1]): row[5] for row in found}[last]
        assert score == pytest.approx(float(matrix()[0, last]), abs=1e-3)
