"""The verbs of a store: what they take, what they refuse, how their answers look in a notebook."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import attrstore
from attrstore.evaluation.report import Report
from attrstore.workflows.trace import Trace

ROWS = [{"id": f"e-{i}", "text": text, "year": 1900 + i} for i, text in enumerate(("a b", "b c", "<i>c</i>"))]
STORED = [("e-0", "a b", {"year": 1900}), ("e-1", "b c", {"year": 1901}), ("e-2", "<i>c</i>", {"year": 1902})]


def written(folder: Path) -> Path:
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


INPUTS: dict[str, Callable[[Path], Any]] = {
    "a name": lambda folder: str(written(folder)),
    "a path": written,
    "a list of paths": lambda folder: [written(folder)],
    "dictionaries": lambda folder: ROWS,
    "a generator of them": lambda folder: (row for row in ROWS),
    "a polars frame": lambda folder: pl.DataFrame(ROWS),
    "an Arrow table": lambda folder: pa.Table.from_pylist(ROWS),
}


@pytest.mark.parametrize("given", INPUTS.values(), ids=list(INPUTS))
def test_a_corpus_is_taken_in_every_form(path: Path, tmp_path: Path, given: Callable[[Path], Any]) -> None:
    with attrstore.open(path, create=True) as store:
        assert store.add_corpus(given(tmp_path)).added == 3
        assert store.add_corpus(given(tmp_path)).unchanged == 3
        stored = store.rows("SELECT external_id, text, metadata FROM examples ORDER BY example_id")
        assert [(*row[:2], json.loads(row[2])) for row in stored] == STORED


def test_rows_in_memory_are_refused_by_their_number(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        for given, message in (
            ([ROWS[0], {"id": "e-9"}], "given rows, row 2: no 'text'"),
            ([ROWS[0], 7], "given rows, row 2: int is no input"),
            (
                pl.DataFrame({"id": ["x"], "body": ["y"]}),
                "given table: no column 'text'. Its columns: id, body",
            ),
            (7, "int is no input"),
            (ROWS[0], "dict is no input"),
        ):
            with pytest.raises(attrstore.InputError, match=message):
                store.add_corpus(given)  # type: ignore[arg-type]
        assert store.value("SELECT count(*) FROM examples") == 0


JOBS: dict[str, Callable[[attrstore.Store], object]] = {
    "add_corpus": lambda store: store.add_corpus("nothing.jsonl"),
    "add_queries": lambda store: store.add_queries("nothing.jsonl"),
    "add_labels": lambda store: store.add_labels("nothing.jsonl"),
    "encode_gradients": lambda store: store.encode_gradients(model="nothing"),
    "encode_run": lambda store: store.encode_run(run="nothing"),
    "encode_representations": lambda store: store.encode_representations(model="nothing"),
    "encode_embeddings": lambda store: store.encode_embeddings(model="nothing"),
    "index_lexical": lambda store: store.index_lexical(),
    "score": lambda store: store.score("dot"),
    "trace": lambda store: store.trace(),
    "tail_patch": lambda store: store.tail_patch(),
    "import_scores": lambda store: store.import_scores("nothing.csv", name="x"),
    "import_qrels": lambda store: store.import_qrels("nothing.txt"),
    "subsets": lambda store: store.subsets(),
    "import_losses": lambda store: store.import_losses("nothing.csv", subsets="x"),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))
def test_a_store_that_is_read_only_says_so_before_any_work(
    path: Path, job: Callable[[attrstore.Store], object]
) -> None:
    attrstore.open(path, create=True).close()
    with attrstore.open(path) as store, pytest.raises(attrstore.StoreError) as caught:
        job(store)
    assert str(caught.value) == f"{path}: opened read-only. Open it with writable=True to write."


def test_a_recipe_and_its_fields_come_from_the_top() -> None:
    recipe = attrstore.GradientRecipe(projection_dim=8)
    assert (recipe.projection_dim, recipe.code) == (8, "halfbit")
    assert attrstore.RepresentationRecipe().pooling == "last"
    assert attrstore.EmbeddingRecipe().pooling is None
    assert issubclass(attrstore.Interrupted, attrstore.AttrstoreError)
    with pytest.raises(AttributeError, match="has no attribute 'OtherRecipe'"):
        attrstore.OtherRecipe  # noqa: B018


def test_every_verb_says_what_it_does() -> None:
    from attrstore.verbs import Verbs

    for name, verb in vars(Verbs).items():
        if not name.startswith("_"):
            assert verb.__doc__, name
            assert verb.__doc__.endswith("\n        ") or "\n" not in verb.__doc__, name


HOSTILE = "<script>alert(1)</script>"


def test_what_a_notebook_shows_is_escaped(path: Path) -> None:
    report = Report(("name", "mrr"), [(HOSTILE, 0.123456), ("b", None)], (HOSTILE,))
    for shown in (report, Trace(report, {"dot": HOSTILE})):
        html = shown._repr_html_()
        assert "<script>" not in html
        assert html.count("&lt;script&gt;") >= 2
        assert "0.1235" in html
    with attrstore.open(path, create=True) as store:
        store.add_corpus(ROWS)
        assert "<td>examples</td>" in store._repr_html_()
