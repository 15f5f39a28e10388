"""An index of gradients that bergson built is an encoder: its vectors are scanned, and no model is run for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

import attrstore
from attrstore import InputError, Store
from attrstore.check import check
from attrstore.cli import main
from attrstore.ingest.files.gradients import import_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.measure.rerank import rerank
from attrstore.scoring import score
from tests import tiny

EXAMPLES, QUERIES = 7, 3
SIZES = {"layers.0.q_proj": 16, "layers.0.down_proj": 16, "layers.1.q_proj": 8}
CONFIG = (
    "model: some/model\n  optimizer_state: ''\n  projection_dim: 4\nmetadata:\n  bergson_version: 2.5.1\n"
)


@pytest.fixture
def filled(store: Store) -> Store:
    tiny.fill(store, tiny.sentences(EXAMPLES), [("a", " b"), ("c", " d"), ("e", " f")], [(0, 6), (1, 0)])
    return store


def vectors(n: int, seed: int) -> np.ndarray:
    """Gradients whose blocks differ in length."""
    drawn = np.random.default_rng(seed).normal(size=(n, sum(SIZES.values())))
    scaled: np.ndarray = (drawn * np.repeat([1.0, 5.0, 0.1], list(SIZES.values()))).astype(np.float32)
    return scaled


def index(folder: Path, values: np.ndarray, dtype: str = "float32", ids: list[str] | None = None) -> Path:
    """Write an index in bergson's layout: rows one after the other, modules as `grad_sizes` orders them."""
    folder.mkdir()
    tensor = torch.from_numpy(values).to(getattr(torch, dtype))
    (folder / "gradients.bin").write_bytes(tensor.view(torch.uint8).numpy().tobytes())
    about = {
        "attribute_tokens": False, "num_items": len(values), "num_grads": len(values), "grad_sizes": SIZES,
        "base_dtype": dtype,
    }  # fmt: skip
    (folder / "info.json").write_text(json.dumps(about))
    (folder / "config.yaml").write_text(CONFIG)
    columns = {"length": [4] * len(values), "loss": [1.5] * len(values)} | ({"id": ids} if ids else {})
    (folder / "data.hf").mkdir()
    table = pa.table(columns)
    with pa.ipc.new_stream(folder / "data.hf" / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_index_is_scanned_as_our_own_gradients_are(filled: Store, tmp_path: Path, dtype: str) -> None:
    """From the files to `comparison`: every score by `dot`, `cosine` and per block, against numpy on the raw arrays."""
    corpus, asked = vectors(EXAMPLES, 1), vectors(QUERIES, 2)
    ids = [f"e-{i}" for i in reversed(range(EXAMPLES))]  # the data set's order, not the store's
    made = import_gradients(
        filled, index(tmp_path / "corpus", corpus, dtype, ids), queries=index(tmp_path / "asked", asked, dtype),
        name="theirs",
    )  # fmt: skip
    assert (made.examples, made.queries) == (EXAMPLES, QUERIES)
    assert [f.check.name for f in check(filled) if not f.ok] == []
    corpus = corpus[::-1].astype(np.float64)
    cuts = np.cumsum(list(SIZES.values()))[:-1]
    blocks = [
        (a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True))
        for a, b in zip(np.split(asked, cuts, axis=1), np.split(corpus, cuts, axis=1), strict=True)
    ]
    products = asked @ corpus.T
    expected = {
        "dot": products,
        "cosine": products / np.outer(np.linalg.norm(asked, axis=1), np.linalg.norm(corpus, axis=1)),
        "cosine-block": np.mean([a @ b.T for a, b in blocks], axis=0),
    }
    for method, wanted in expected.items():
        score(filled, method, top_k=EXAMPLES)
        # Up to a factor of each query: what is constant over the examples is no part of a ranking.
        found = np.zeros_like(wanted)
        for query, example, value in filled.rows(
            "SELECT query_id, example_id, score FROM scores JOIN scorings USING (scoring_id) WHERE name = $n",
            {"n": method},
        ):
            found[query, example] = value
        if method == "cosine":
            assert np.allclose(found, wanted, atol=0.01)
        for ours, theirs in zip(found, wanted, strict=True):
            assert np.corrcoef(ours, theirs)[0, 1] > 0.9999, method
    ingest_lexical(filled)
    score(filled, "bm25")
    assert len(filled.rows("FROM compare('cosine', 'bm25')")) > 0
    assert filled.rows("SELECT DISTINCT n_tokens, loss FROM encodings") == [(4, 1.5)]
    assert filled.value("SELECT path FROM models") == "some/model"


def test_no_model_is_run_for_it(filled: Store, tmp_path: Path) -> None:
    corpus, asked = index(tmp_path / "c", vectors(EXAMPLES, 1)), index(tmp_path / "q", vectors(QUERIES, 2))
    filled.close()
    command = ["import", "gradients", str(filled.path), str(corpus), "--queries", str(asked), "--name", "x"]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, "x: gradients of 7 examples and 3 queries." in done.output) == (0, True), (
        done.output
    )
    again = CliRunner().invoke(main, command)
    assert (again.exit_code, "has the encoder x already" in again.output) == (2, True), again.output
    with attrstore.open(filled.path, writable=True) as store:
        score(store, "cosine", top_k=EXAMPLES)
        for run in (lambda: store.ask("a", " b"), lambda: rerank(store, "cosine", top=2)):
            with pytest.raises(InputError, match="x: its gradients were imported"):
                run()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"attribute_tokens": True}, "gradients of tokens"),
        ({"num_grads": 40}, "holds 40 gradients of tokens of 7 items"),
        ({"base_dtype": "float64"}, "its numbers are float64; float32, float16, bfloat16 are read"),
        ({"num_items": 8, "num_grads": 8}, r"holds 280 numbers, and info\.json says 320"),
        ({"grad_sizes": {"other": 40}}, "has other modules than"),
        ({"grad_sizes": None}, "not an index of bergson"),
    ],
)
def test_what_is_no_such_index_is_refused(
    filled: Store, tmp_path: Path, edit: dict[str, object], message: str
) -> None:
    corpus, asked = index(tmp_path / "c", vectors(EXAMPLES, 1)), index(tmp_path / "q", vectors(QUERIES, 2))
    about = json.loads((corpus / "info.json").read_text())
    (corpus / "info.json").write_text(json.dumps(about | edit))
    with pytest.raises(InputError, match=message):
        import_gradients(filled, corpus, queries=asked, name="x")
    assert filled.rows("SELECT 1 FROM encoders UNION ALL SELECT 1 FROM models") == []


def test_an_index_over_other_examples_is_refused(filled: Store, tmp_path: Path) -> None:
    few, asked = index(tmp_path / "c", vectors(5, 1)), index(tmp_path / "q", vectors(QUERIES, 2))
    with pytest.raises(InputError, match="holds 5 gradients, and the store has 7 examples"):
        import_gradients(filled, few, queries=asked, name="x")
    broken = vectors(EXAMPLES, 1)
    broken[4, 2] = np.nan
    with pytest.raises(InputError, match=r"row 5 of gradients\.bin has a number that is not finite"):
        import_gradients(filled, index(tmp_path / "nan", broken), queries=asked, name="x")
    assert filled.rows("SELECT 1 FROM encoders UNION ALL SELECT 1 FROM encodings") == []


@pytest.mark.skipif(
    "ATTRSTORE_BERGSON" not in os.environ, reason="ATTRSTORE_BERGSON: a folder with index/ and query/"
)
def test_an_index_that_bergson_itself_wrote(path: Path) -> None:
    folder = Path(os.environ["ATTRSTORE_BERGSON"])
    about = json.loads((folder / "index" / "info.json").read_text())
    n, width = about["num_items"], sum(about["grad_sizes"].values())
    corpus = np.fromfile(folder / "index" / "gradients.bin", np.float32).reshape(n, width)
    asked = np.fromfile(folder / "query" / "gradients.bin", np.float32).reshape(-1, width)
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(n), [("a", f" {i}") for i in range(len(asked))])
        store.execute("UPDATE examples SET external_id = 'own-' || example_id")  # so that their order counts
        import_gradients(store, folder / "index", queries=folder / "query", name="bergson")
        score(store, "cosine", top_k=n)
        wanted = (asked @ corpus.T) / np.outer(*(np.linalg.norm(side, axis=1) for side in (asked, corpus)))
        for query, example, value in store.rows("SELECT query_id, example_id, score FROM scores"):
            assert value == pytest.approx(wanted[query, example], abs=2e-3)
