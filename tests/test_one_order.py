"""Rank and score of a pair are of one order: in ties, near ties, later chunks, and with blocks that nothing moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from click.testing import CliRunner

import attrstore
from attrstore.cli import main as cli
from attrstore.vectors import codes, curvature, encoders, scan
from attrstore.vectors.encoders import Encoder
from attrstore.vectors.ends import Ends

BLOCKS = encoders.make_blocks([(f"m{i}", 256) for i in range(8)])
METHODS = ("dot", "cosine", "cosine-block", "trak", "trackstar", "trackstar-block")


def make(path: Path, vectors: torch.Tensor, queries: torch.Tensor, code: str, labels: list[int]) -> None:
    """A store whose encodings are these vectors [n, 2048], with labels of query 0."""
    made = Encoder("gradient", "made", "m", {"code": code, "context": 32}, BLOCKS)
    quantised, scales = codes.encode(vectors, BLOCKS, codes.CODES[code])
    with attrstore.open(path, create=True) as store, store.transaction():
        store.execute("INSERT INTO models VALUES ('m', 't', 'nowhere', NULL, 'none', 1)")
        encoders.save(store, made)
        for table, kind, rows, columns in (
            ("encodings", "example", len(vectors), {"code": quantised, "scales": scales}),
            ("query_encodings", "query", len(queries), {"vector": queries.view(torch.uint8)}),
        ):
            blobs = {name: [bytes(row) for row in part.numpy()] for name, part in columns.items()}
            with store.registered(made=pyarrow.table({"i": range(rows), **blobs})):
                names = ", ".join(columns)
                store.execute(
                    f"INSERT INTO {table} SELECT $e, i, {names}, 1, 1, 'ok' FROM made", {"e": made.encoder_id}
                )
            values = "'t'" if kind == "example" else "'p', 't'"
            content = "md5_number('t')" if kind == "example" else "md5_number('p' || chr(31) || 't')"
            rest = "NULL, NULL" if kind == "example" else "NULL"
            table = "examples" if kind == "example" else "queries"
            store.execute(
                f"INSERT INTO {table} SELECT i, i::VARCHAR, {values}, {rest}, {content} FROM range($n) t(i)",
                {"n": rows},
            )
        for example in labels:
            store.execute("INSERT INTO labels VALUES (0, $e, 1, NULL)", {"e": example})


def near_ties(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups of equal directions whose norms differ by a rounding, far from each other in the corpus; and queries."""
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(5, 2048, generator=generator)
    vectors = few[torch.arange(n) % 5] * (1 + 1e-3 * torch.rand(n, 1, generator=generator))
    return vectors, torch.randn(3, 2048, generator=generator)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("method", ["cosine", "trackstar-block"])
@pytest.mark.parametrize("code", ["int8", "fp16"])
def test_ranks_follow_scores_in_ties_and_later_chunks(
    path: Path, monkeypatch: pytest.MonkeyPatch, method: str, code: str
) -> None:
    monkeypatch.setattr(
        scan, "rows_at_once", lambda _: 40
    )  # the last chunk is of ten, whose weights are not kept
    make(path, *near_ties(90), code, labels=[0, 7, 41, 52, 63, 74, 85, 88])
    run("score", path, method, "--top-k", "5")
    assert "WRONG" not in run("check", path)
    run("score", path, method, "--top-k", "90", "--name", "all")
    with attrstore.open(path) as store:
        listed = store.rows(
            "SELECT example_id, rank, score FROM scores JOIN scorings USING (scoring_id) "
            "WHERE name <> 'all' AND query_id = 0"
        )
    with attrstore.open(path) as store:
        whole = {e: (r, s) for e, r, s in store.rows(
            "SELECT example_id, rank, score FROM scores JOIN scorings USING (scoring_id) "
            "WHERE name = 'all' AND query_id = 0")}  # fmt: skip
    # Every kept pair stands where it does in the whole order, which is by score and then by example_id.
    order = sorted(whole, key=lambda e: (-whole[e][1], e))
    assert [whole[e][0] for e in order] == list(range(1, 91))
    for example, rank, score in listed:
        assert (rank if rank > 0 else 91 + rank, score) == whole[example]


def test_a_pair_has_one_score_where_two_batches_round_it_apart() -> None:
    scores = torch.tensor([[3.0, 2.0, 2.0, 1.0]])
    above = torch.nextafter(torch.tensor([2.0]), torch.tensor([3.0]))
    labelled = torch.tensor([0, 0]), torch.tensor([2, 3]), torch.cat([above, torch.tensor([2.0])])
    ends = Ends([7], 1, labelled, opponents=False)
    ends.add(torch.tensor([0, 1]), scores[:, :2].clone())
    ends.add(torch.tensor([2, 3]), scores[:, 2:].clone())
    ranked = ends.ranked()
    found = dict(
        zip(
            ranked.example_ids.tolist(),
            zip(ranked.ranks.tolist(), ranked.scores.tolist(), strict=True),
            strict=True,
        )
    )
    assert found == {0: (1, 3.0), 2: (2, float(above)), 3: (4, 2.0)}  # 1 ties with 3 and comes first


def test_the_rounding_of_a_weight_does_not_depend_on_its_neighbours(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = near_ties(80)
    vectors[60:] *= 1000  # larger norms: other shares of the chunk's largest
    found = []
    for size in (80, 25):
        store_path = path.with_name(f"{size}.duckdb")
        monkeypatch.setattr(scan, "rows_at_once", lambda _, size=size: size)
        make(store_path, vectors, queries, "int8", [])
        run("score", store_path, "dot", "--top-k", "80")
        with attrstore.open(store_path) as store:
            found.append(store.rows("SELECT query_id, example_id, score FROM scores ORDER BY ALL"))
    np.testing.assert_allclose(np.array(found[0]), np.array(found[1]), rtol=2e-5)


@pytest.mark.parametrize(
    "code", ["halfbit", *(pytest.param(c, marks=pytest.mark.slow) for c in ("int8", "fp16"))]
)
def test_a_block_that_nothing_moves_is_passed_over(
    path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "rows_at_once", lambda _: 40)
    generator = torch.Generator().manual_seed(1)
    vectors, queries = torch.randn(40, 2048, generator=generator), torch.randn(2, 2048, generator=generator)
    vectors[:, 256:512] = 0  # dead, but not for the queries
    vectors[3, 512:768] = 0  # and one example's
    make(path, vectors, queries, code, [0, 3])
    for method in (*METHODS, "influence", "cg", "datainf"):
        run("score", path, method, "--top-k", "40")
    assert "WRONG" not in run("check", path)
    # By hand in float64, of what the codes decode to: the dead blocks add nothing.
    quantised, scales = codes.encode(vectors, BLOCKS, codes.CODES[code])
    units, norms = codes.decode(quantised, scales, BLOCKS, codes.CODES[code])
    wanted = np.zeros((2, 40))
    for i, b in enumerate(BLOCKS):
        q, z = (v[:, b.offset : b.offset + 256].double().numpy() for v in (queries, units))
        alive = norms[:, i].numpy() > 0
        wanted += (q / np.linalg.norm(q, axis=1, keepdims=True) @ z.T) * alive / 8
    with attrstore.open(path) as store:
        found = store.rows(
            "SELECT query_id, example_id, score FROM scores JOIN scorings USING (scoring_id) "
            "WHERE name = 'cosine-block'"
        )
    for query, example, score in found:
        assert score == pytest.approx(wanted[query, example], abs=2e-3)


def test_no_damping_is_a_pseudo_inverse_where_the_curvature_is_of_low_rank(path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    make(
        path,
        torch.randn(30, 2048, generator=generator),
        torch.randn(2, 2048, generator=generator),
        "fp16",
        [0],
    )
    run("score", path, "trak", "--damping", "0")
    matrix = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    r = (matrix @ matrix.T).float()
    root = curvature.power(r, -0.5, 0.0).double()
    np.testing.assert_allclose(root @ root, torch.linalg.pinv(r.double(), rtol=1e-5), atol=1e-4)


@pytest.mark.parametrize("damping", ["nan", "inf", "-1"])
def test_a_damping_that_is_no_number_is_refused(path: Path, damping: str) -> None:
    make(path, *near_ties(5), "fp16", [])
    result = CliRunner().invoke(cli, ["score", str(path), "trak", "--damping", damping])
    assert result.exit_code == 2
    assert f"--damping {damping}" in result.output.replace(".0", "")
    with attrstore.open(path) as store:
        assert store.value("SELECT count(*) FROM scorings") == 0


def test_a_score_that_is_not_finite_is_refused_by_name(path: Path) -> None:
    vectors, queries = near_ties(5)
    make(path, vectors * 1e25, queries * 1e25, "fp16", [])
    result = CliRunner().invoke(cli, ["score", str(path), "dot"])
    assert result.exit_code == 2
    assert "score of example_id 0 for query_id 0 is nan" in result.output
    with attrstore.open(path) as store:
        assert store.value("SELECT count(*) FROM scorings") == 0


@pytest.mark.parametrize("n_queries", [1, 3, 15])
def test_few_queries_do_not_drop_the_corpus_from_the_mixture(n_queries: int) -> None:
    generator = torch.Generator().manual_seed(n_queries)
    corpus, queries = (torch.randn(n, 256, generator=generator).double() for n in (500, n_queries))
    r_corpus, r_queries = corpus.T @ corpus / 500, queries.T @ queries / n_queries
    found = curvature.choose_mixing([r_corpus.float()], [r_queries.float()])
    # 256 directions: the share is 4. The weakest of the first 4, or of those that there are, weighs the same in both.
    place = min(4, n_queries) - 1
    c, q = (np.linalg.eigvalsh(r)[::-1][place] for r in (r_corpus.numpy(), r_queries.numpy()))
    assert found == pytest.approx(c / (c + q), rel=1e-5)
    assert found < 0.5
