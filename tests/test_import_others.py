"""What other tools wrote comes in equal: bergson, kronfluence, TREC, the PAIR viewer; and what we wrote comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import attrstore
from attrstore import InputError, Store
from attrstore.cli import main
from attrstore.ingest.files.rankings import import_ranking
from attrstore.ingest.files.scores import import_scores
from tests import scored, tiny

QUERIES, EXAMPLES = 3, 7


@pytest.fixture
def filled(store: Store) -> Store:
    tiny.fill(store, tiny.sentences(EXAMPLES), [("a", " b"), ("c", " d"), ("e", " f")], [(0, 6), (1, 0)])
    return store


def bergson(folder: Path, scores: np.ndarray, written: np.ndarray, ids: list[str] | None = None) -> Path:
    """Write a score store in bergson's layout: a record for each example, a field and a flag for each query."""
    n_examples, n_queries = scores.shape
    names = [name for i in range(n_queries) for name in (f"score_{i}", f"written_{i}")]
    offsets = [offset for i in range(n_queries) for offset in (8 * i, 8 * i + 4)]
    described: Any = {
        "names": names, "formats": ["float32", "bool"] * n_queries, "offsets": offsets, "itemsize": 8 * n_queries,
    }  # fmt: skip
    records: Any = np.zeros(n_examples, np.dtype(described))
    for i in range(n_queries):
        records[f"score_{i}"], records[f"written_{i}"] = scores[:, i], written[:, i]
    folder.mkdir()
    records.tofile(folder / "scores.bin")
    about = {"num_items": n_examples, "num_rows": n_examples, "num_scores": n_queries, "dtype": described}
    (folder / "info.json").write_text(json.dumps(about))
    if ids is not None:
        import pyarrow as pa

        (folder / "data.hf").mkdir()
        table = pa.table({"id": ids})
        with pa.ipc.new_stream(folder / "data.hf" / "data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table)
    return folder


def matrix() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(EXAMPLES, QUERIES)).astype(np.float32)


def test_a_score_store_of_bergson(filled: Store, tmp_path: Path) -> None:
    scores = matrix()
    folder = bergson(tmp_path / "scores", scores, np.ones_like(scores, dtype=bool))
    import_scores(filled, folder, name="bergson")
    rows = filled.rows("SELECT query_id, example_id, rank, score FROM scores")
    assert len(rows) == QUERIES * EXAMPLES
    for query, example, rank, value in rows:
        assert value == pytest.approx(float(scores[example, query]), rel=1e-6)
        better = int((scores[:, query] > scores[example, query]).sum())
        assert rank in (better + 1, better - EXAMPLES)


def test_what_bergson_did_not_write_is_not_ranked(filled: Store, tmp_path: Path) -> None:
    """Query 0 lacks two examples, one of them its strongest: it has neither of them, and no opponents."""
    scores, written = matrix(), np.ones((EXAMPLES, QUERIES), bool)
    scores[2, 0], scores[6, 0] = 99, -99
    written[2, 0] = written[4, 0] = False
    import_scores(filled, bergson(tmp_path / "scores", scores, written), name="bergson", top_k=2)
    there = [i for i in range(EXAMPLES) if written[i, 0]]
    order = sorted(there, key=lambda i: -scores[i, 0])
    kept = filled.rows("SELECT example_id, rank FROM scores WHERE query_id = 0 ORDER BY rank")
    assert kept == [(order[0], 1), (order[1], 2), (6, len(order))]  # the labelled one with its exact rank
    assert order[-1] == 6
    assert filled.value("SELECT count(*) FROM scores WHERE query_id = 1 AND rank < 0") == 2


def test_bergson_names_examples_by_its_data_set(filled: Store, tmp_path: Path) -> None:
    scores = matrix()
    ids = [f"e-{i}" for i in reversed(range(EXAMPLES))]
    import_scores(filled, bergson(tmp_path / "scores", scores, np.ones_like(scores, bool), ids), name="b")
    strongest = EXAMPLES - 1 - int(scores[:, 1].argmax())
    assert filled.value("SELECT example_id FROM scores WHERE query_id = 1 AND rank = 1") == strongest


def test_a_folder_that_is_no_score_store(filled: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a score store of bergson"):
        import_scores(filled, tmp_path, name="x")
    folder = bergson(tmp_path / "short", matrix(), np.ones((EXAMPLES, QUERIES), bool))
    (folder / "scores.bin").write_bytes((folder / "scores.bin").read_bytes()[:-24])
    with pytest.raises(InputError, match=r"holds 6 examples, and info\.json says 7"):
        import_scores(filled, folder, name="x")
    assert filled.rows("FROM scorings") == []


def test_scores_of_kronfluence(filled: Store, tmp_path: Path) -> None:
    scores = matrix().T.copy()
    save_file({"all_modules": scores}, tmp_path / "whole.safetensors")
    save_file({"one": scores / 4, "two": scores * 3 / 4}, tmp_path / "parts.safetensors")
    for name in ("whole", "parts"):
        import_scores(filled, tmp_path / f"{name}.safetensors", name=name)
        firsts = filled.rows("SELECT query_id, example_id FROM scores JOIN scorings USING (scoring_id) "
                             "WHERE name = $n AND rank = 1 ORDER BY query_id", {"n": name})  # fmt: skip
        assert [example for _, example in firsts] == scores.argmax(axis=1).tolist()
    save_file({"vector": scores[0].copy()}, tmp_path / "flat.safetensors")
    with pytest.raises(InputError, match="scores are one matrix"):
        import_scores(filled, tmp_path / "flat.safetensors", name="flat")


@pytest.mark.parametrize(("file_format", "file"), [("trec-run", "out.trec"), ("pair", "out.jsonl")])
def test_what_is_exported_comes_back_equal(store: Store, tmp_path: Path, file_format: str, file: str) -> None:
    scored.fill(store)
    store.close()
    path, out = str(store.path), str(tmp_path / file)
    runner = CliRunner()
    assert runner.invoke(main, ["export", path, "trackstar", out, "--format", file_format]).exit_code == 0
    imported = runner.invoke(
        main, ["import", "ranking", path, out, "--name", "back", "--family", "influence"]
    )
    assert imported.exit_code == 0, imported.output
    with attrstore.open(path) as again:
        rows = {
            name: again.rows(
                "SELECT query, example, rank, score FROM influence WHERE scoring = $n "
                "AND (rank BETWEEN 1 AND 12 OR rank < 0 AND $opponents) ORDER BY ALL",
                {"n": name, "opponents": file_format == "pair"},
            )
            for name in ("trackstar", "back")
        }
        assert rows["back"] == rows["trackstar"]
        assert len(again.rows("FROM compare('back', 'bm25')")) > 0


@pytest.fixture
def encoded(filled: Store, tmp_path: Path) -> Store:
    filled.encode_gradients(model=tiny.checkpoint(tmp_path / "model"), projection_dim=4)
    filled.score("cosine", top_k=EXAMPLES, name="whole")
    filled.score("cosine", top_k=2, name="ends")
    return filled


def kept(store: Store, name: str) -> list[tuple[Any, ...]]:
    """Query, example, place and score; a place is counted from the strong end, as a rank is from either."""
    return store.rows(
        "SELECT query_id, example_id, position_of(rank, n_examples), score "
        "FROM scores JOIN scorings USING (scoring_id) WHERE name = $n ORDER BY ALL",
        {"n": name},
    )


def test_a_matrix_of_scores_goes_round(encoded: Store, tmp_path: Path) -> None:
    encoded.close()
    path, out = str(encoded.path), tmp_path / "scores.npy"
    done = CliRunner().invoke(main, ["export", path, "whole", str(out)])
    assert (done.exit_code, "3 rows" in done.output) == (0, True), done.output
    with attrstore.open(path, writable=True) as store:
        written = np.load(out)
        assert written.shape == (QUERIES, EXAMPLES)
        for query, example, _, score in kept(store, "whole"):
            assert written[query, example] == score
        store.import_scores(out, name="back")
        assert kept(store, "back") == kept(store, "whole")
        with pytest.raises(
            InputError, match=r"ends: keeps \d of 7 scores for query 'q-0', .* Score again with top_k 7"
        ):
            store.export("ends", tmp_path / "ends.npy")
        with pytest.raises(InputError, match="no scoring is called nobody; there are whole"):
            store.export("nobody", tmp_path / "nobody.npy")
    assert sorted(file.name for file in tmp_path.glob("*.npy")) == ["scores.npy"]


def test_a_score_store_as_bergson_writes_it_goes_round(encoded: Store, tmp_path: Path) -> None:
    """What a scoring does not keep is not written, and single precision is all that is lost."""
    for name in ("whole", "ends"):
        encoded.export(name, tmp_path / name, file_format="bergson")
        import_scores(encoded, tmp_path / name, name=f"{name} back")
        about = json.loads((tmp_path / name / "info.json").read_text())
        theirs = json.loads(
            (bergson(tmp_path / f"like {name}", matrix(), matrix() > 0) / "info.json").read_text()
        )
        assert about == {"attribute_tokens": False, **theirs}
        records = np.fromfile(tmp_path / name / "scores.bin", np.dtype(about["dtype"]))
        there = {(query, example): score for query, example, _, score in kept(encoded, name)}
        for query in range(QUERIES):
            for example, record in enumerate(records):
                assert bool(record[f"written_{query}"]) == ((query, example) in there)
                assert record[f"score_{query}"] == np.float32(there.get((query, example), 0))
    whole, back = (kept(encoded, name) for name in ("whole", "whole back"))
    assert [row[:3] for row in back] == [row[:3] for row in whole]
    ends = {row[:3] for row in kept(encoded, "ends") if row[2] in (1, 2)}
    assert ends == {row[:3] for row in kept(encoded, "ends back") if row[2] in (1, 2)}
    with pytest.raises(InputError, match="is there already"):
        encoded.export("whole", tmp_path / "whole", file_format="bergson")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.trec", "q-0 Q0 e-1 1 0.5 tag\nq-0 Q0 e-2 2 0.4", None),
        ("a.trec", "q-0 Q0 e-1 1 high tag", "line 1: a line of a TREC run"),
        ("a.trec", "q-0 e-1 0.5", "line 1: a line of a TREC run"),
        ("a.trec", "q-0 Q0 e-1 1 0.5 tag\nq-0 Q0 nobody 2 0.4 tag", "line 2: no example is called 'nobody'"),
        ("a.trec", "q-9 Q0 e-1 1 0.5 tag", "line 1: no query is called 'q-9'"),
        ("a.trec", "q-0 Q0 e-1 1 0.5 tag\nq-0 Q0 e-1 2 0.4 tag", "line 2: 'q-0' has 'e-1' twice"),
        ("a.trec", "q-0 Q0 e-1 1 nan tag", "is not finite"),
        ("a.trec", "", "no rankings in it"),
        (
            "a.jsonl",
            '{"example_id": "q-0", "proponent_ids": ["e-1"], "proponent_scores": []}',
            "line 1: not a record",
        ),
        ("a.jsonl", "[1]", "line 1: not a record"),
        ("a.jsonl", "{", "line 1: not a record"),
    ],
)
def test_a_line_that_cannot_be_used(
    filled: Store, tmp_path: Path, name: str, text: str, message: str | None
) -> None:
    (tmp_path / name).write_text(text)
    if message is None:
        assert import_ranking(filled, tmp_path / name, name="r").n_scores == 2
        return
    with pytest.raises(InputError, match=message):
        import_ranking(filled, tmp_path / name, name="r")
    assert filled.rows("FROM scorings") == []
