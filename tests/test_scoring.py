"""Gradient methods against their formulas in float64, and the stream that ranks."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attrstore
from attrstore import Store
from attrstore.errors import InputError
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.representations import ingest_representations
from attrstore.methods.parts import Parts
from attrstore.scoring import score
from attrstore.vectors import encoders
from attrstore.vectors.ends import Ends
from tests import tiny

QUERIES = [("a b c", " d"), ("north of the", " river"), ("e f", " stone b")]
LABELS = [(0, 3), (0, 30), (1, 7), (2, 0)]
N = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    path = tmp_path_factory.mktemp("scored") / "s.duckdb"
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES, LABELS)
        ingest_gradients(store, model=model, projection_dim=4, code="fp16")
    return path


def vectors(store: Store) -> tuple[np.ndarray, np.ndarray, Any]:
    """Queries and examples as float64, from the stored bytes, and the blocks."""
    encoder = encoders.choose(store, "gradient")
    q = np.stack([np.frombuffer(v, np.float32) for (v,) in
                  store.rows("SELECT vector FROM query_encodings ORDER BY query_id")]).astype(float)  # fmt: skip
    z = []
    for code, scales in store.rows("SELECT code, scales FROM encodings ORDER BY example_id"):
        direction = np.frombuffer(code, np.float16).astype(float)
        norms = (np.frombuffer(scales, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(float)
        for block, norm in zip(encoder.blocks, norms, strict=True):
            part = direction[block.offset : block.offset + block.length]
            part *= norm / max(float(np.linalg.norm(part)), 1e-30)  # zero where there is no gradient
        z.append(direction)
    return q, np.stack(z), encoder.blocks


def expected(store: Store, recipe: Parts) -> np.ndarray:
    """The formula of `attrstore.methods.linear_map`, block by block, in float64."""
    q, z, blocks = vectors(store)
    for block in blocks:
        where = slice(block.offset, block.offset + block.length)
        qb, zb = q[:, where].copy(), z[:, where].copy()
        if recipe.curvature != "none":
            r = zb.T @ zb / len(zb)
            if recipe.curvature == "mixed":
                r = recipe.mixing * (qb.T @ qb / len(qb)) + (1 - recipe.mixing) * r  # type: ignore[operator]
            values, basis = np.linalg.eigh(r)
            values = values.clip(0) + recipe.damping * values.clip(0).mean()
            root = (basis * values**-0.5) @ basis.T
            qb, zb = qb @ root, zb @ root
        if recipe.norm == "block":
            qb /= np.linalg.norm(qb, axis=1, keepdims=True) * len(blocks)
            zb /= np.linalg.norm(zb, axis=1, keepdims=True).clip(
                1e-30
            )  # a text of two tokens moves no query or key
        q[:, where], z[:, where] = qb, zb
    if recipe.norm == "vector":
        q /= np.linalg.norm(q, axis=1, keepdims=True)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
    scores: np.ndarray = q @ z.T
    return scores


@pytest.mark.parametrize(
    ("method", "options", "recipe"),
    [
        ("dot", {}, Parts("none", "none")),
        ("cosine", {}, Parts("none", "vector")),
        ("trak", {}, Parts("corpus", "none")),
        ("trackstar", {"mixing": 0.3}, Parts("mixed", "vector", 0.3)),
        ("trackstar-block", {"mixing": 0.8, "damping": 0.5}, Parts("mixed", "block", 0.8, 0.5)),
        ("cosine", {"norm": "block"}, Parts("none", "block")),
        ("trackstar", {"curvature": "corpus"}, Parts("corpus", "vector")),
    ],
)
def test_scores_and_ranks_equal_the_formula(
    scored: Path, method: str, options: dict[str, Any], recipe: Parts
) -> None:
    with attrstore.open(scored, writable=True) as store:
        score(store, method, top_k=10, **options)
        wanted = expected(store, recipe)
        rows = store.rows(
            "SELECT query_id, example_id, rank, score FROM scores JOIN scorings USING (scoring_id) WHERE name = $n",
            {"n": method},
        )
    order = (-wanted).argsort(axis=1, kind="stable")
    ranks = order.argsort(axis=1) + 1
    largest = np.abs(wanted).max(axis=1)
    for query, example, rank, value in rows:
        assert value == pytest.approx(wanted[query, example], abs=2e-4 * largest[query])
        true_rank = ranks[query, example]
        found = rank if rank > 0 else N + 1 + rank
        if found != true_rank:  # only where two scores agree to float32's rounding
            other = wanted[query, order[query, found - 1]]
            assert abs(other - wanted[query, example]) < 1e-5 * largest[query]
    by_query = {q: sorted(r[2] for r in rows if r[0] == q) for q in range(3)}
    for query, found_ranks in by_query.items():
        assert set(range(-10, 0)) | set(range(1, 11)) <= set(found_ranks)
        assert {e for q, e in LABELS if q == query} <= {r[1] for r in rows if r[0] == query}


def test_queries_without_a_vector_are_not_ranked(scored: Path, tmp_path: Path) -> None:
    shutil.copy(scored, tmp_path / "copy.duckdb")
    with attrstore.open(tmp_path / "copy.duckdb", writable=True) as store:
        store.execute("UPDATE query_encodings SET vector = NULL, status = 'skipped: x' WHERE query_id = 1")
        for method in ("cosine", "cosine"):  # the second time in the place of the first
            made = score(store, method)
        ranked = store.rows("FROM scoring_queries WHERE scoring_id = $s ORDER BY ALL", {"s": made.scoring_id})
        assert ranked == [(made.scoring_id, 0), (made.scoring_id, 2)]
        scorings = store.value("SELECT count(*) FROM scorings")
        assert store.value("SELECT count(DISTINCT scoring_id) FROM scoring_queries") == scorings


def test_where_restricts_and_bad_input_changes_nothing(scored: Path) -> None:
    with attrstore.open(scored, writable=True) as store:
        made = score(store, "cosine", name="few", where="example_id < 7 AND text IS NOT NULL")
        assert made.n_examples == 7
        assert (
            store.value(
                "SELECT max(example_id) FROM scores JOIN scorings USING (scoring_id) WHERE name = 'few'"
            )
            == 6
        )
        tables = ("SELECT * FROM scores ORDER BY ALL", "SELECT name FROM scorings ORDER BY 1")
        before = [store.rows(table) for table in tables]
        for arguments, message in (
            ({"method": "nothing"}, "no method called nothing"),
            ({"method": "dot", "where": "no_column = 1"}, "where no_column = 1"),
            ({"method": "dot", "where": "example_id < 0"}, "no example satisfies"),
            ({"method": "dot", "k1": 3.0}, "takes no k1"),
            ({"method": "trackstar", "mixing": 3.0}, "between 0 and 1"),
            ({"method": "dot", "encoder": "x"}, "no gradient encoder of that name"),
            ({"method": "repsim"}, "no representation encodings yet"),
            ({"method": "dot", "top_k": 0}, "must be at least 1"),
        ):
            with pytest.raises(InputError, match=message):
                score(store, **arguments)
        assert before == [store.rows(table) for table in tables]


def test_examples_without_an_encoding_are_refused(tmp_path: Path, model: Path) -> None:
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(5), QUERIES)
        ingest_gradients(store, model=model, projection_dim=4)
        tiny.fill(store, tiny.sentences(2), [])
        with pytest.raises(InputError, match="2 of the examples to rank are not encoded"):
            score(store, "cosine")


def test_repsim_is_the_cosine_of_last_hidden_states(tmp_path: Path, model: Path) -> None:
    texts = tiny.sentences(8)
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, texts, QUERIES)
        ingest_representations(store, model=model)
        score(store, "repsim", top_k=8)
        found = {
            (q, e): s
            for q, e, s in store.rows("SELECT query_id, example_id, score FROM scores WHERE rank > 0")
        }
    lm, tokenizer = tiny.model().double(), tiny.tokenizer()

    def state(text: str) -> np.ndarray:
        with torch.no_grad():
            output = lm(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        last: np.ndarray = output.hidden_states[-1][0, -1].numpy()
        return last

    for q, (prompt, _) in enumerate(QUERIES):
        a = state(prompt)
        for e, text in enumerate(texts):
            b = state(text)
            assert found[q, e] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=2e-3)


def ended(ends: Ends, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Ends:
    for part in parts:
        ends.add(*part)
    return ends


@pytest.mark.parametrize(("chunk", "workers"), [(1, 1), (7, 1), (100, 1), (7, 3), (40, 5)])
def test_ranking_a_stream_equals_a_stable_sort(chunk: int, workers: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (3, 100), generator=generator).float()  # many ties
    ids = torch.randperm(100, generator=generator)
    rows, columns = torch.tensor([0, 1, 1, 2]), torch.tensor([5, 50, 99, 42])

    labelled = rows, ids[columns], scores[rows, columns]
    batches = [(ids[part], scores[:, part]) for part in torch.arange(100).split(chunk)]
    ends = Ends([10, 11, 12], 6, labelled)
    for worker in reversed(range(workers)):  # one of them may have seen nothing
        ends.merge(ended(Ends([10, 11, 12], 6, labelled), batches[worker::workers]))
    ranked = ends.ranked()
    assert ends.total == 100
    found = {(q, e): (r, s) for q, e, r, s in zip(*(c.tolist() for c in ranked), strict=True)}
    for row in range(3):
        order = sorted(range(100), key=lambda c: (-float(scores[row, c]), int(ids[c])))
        for rank, column in enumerate(order[:6], start=1):
            assert found[10 + row, int(ids[column])] == (rank, float(scores[row, column]))
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        order = sorted(range(100), key=lambda c: (-float(scores[row, c]), int(ids[c])))
        rank = order.index(column) + 1
        got = found[10 + row, int(ids[column])][0]
        assert got == rank or (got < 0 and rank > 94)


def test_the_two_ends_of_tied_scores_do_not_overlap() -> None:
    none = torch.empty(0).long(), torch.empty(0).long(), torch.empty(0)
    ranked = ended(Ends([0], 3, none), [(torch.arange(6), torch.ones(1, 6))]).ranked()
    assert dict(zip(ranked.example_ids.tolist(), ranked.ranks.tolist(), strict=True)) == {
        0: 1, 1: 2, 2: 3, 5: -1, 4: -2, 3: -3}  # fmt: skip


@pytest.mark.parametrize(("example", "own"), [(2, 9.5), (2, 11.0), (7, 0.5), (7, 1.5), (4, 6.0)])
def test_a_labelled_pair_has_one_score_and_the_rank_of_that_score(example: int, own: float) -> None:
    """Scored in a batch of its own, it may round otherwise; that score stands in the ranking too."""
    scores = torch.arange(10.0, 0, -1).unsqueeze(0)
    labelled = torch.tensor([0]), torch.tensor([example]), torch.tensor([own])
    ranked = ended(Ends([0], 2, labelled), [(torch.arange(10), scores)]).ranked()
    found = dict(zip(ranked.example_ids.tolist(), ranked.ranks.tolist(), strict=True))
    values = [*range(10, 0, -1)]
    order = sorted(range(10), key=lambda e: (-(own if e == example else values[e]), e))
    expected = {order[0]: 1, order[1]: 2, order[-1]: -1, order[-2]: -2}
    assert found == {example: order.index(example) + 1} | expected
