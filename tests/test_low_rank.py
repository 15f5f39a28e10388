"""Codes of low rank against singular value decompositions in float64, and what can be asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from attrstore.check import check
from attrstore.errors import InputError, MismatchError
from attrstore.info import info
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.low_rank import frobenius, singular_pairs
from attrstore.ingest.encode.projection import sign_matrix
from attrstore.ingest.encode.recipes import OF_PAIRS, GradientRecipe
from attrstore.ingest.measure.rerank import rerank
from attrstore.ingest.model import linear, sequences
from attrstore.scoring import score
from attrstore.vectors import encoders, low_rank, low_rank_scores, scan, stored
from attrstore.workflows.ask import ask
from attrstore.workflows.explain import explain
from tests import tiny
from tests.test_gradient_math import reference_gradients
from tests.test_rerank import QUERIES, TEXTS, kept, scores_by_hand

if TYPE_CHECKING:
    from attrstore import Store

WHOLE: Any = {"projection_dim": 64}  # no side of the tiny models is wider: nothing is projected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint_and_state(tmp_path_factory.mktemp("model"))


@pytest.fixture
def filled(store: Store) -> Store:
    tiny.fill(store, TEXTS, QUERIES, [(0, 1), (1, 2)])
    return store


def factors(n: int, n_tokens: int, n_out: int, n_in: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token factors whose products' singular values fall off as gradients' do."""
    generator = torch.Generator().manual_seed(seed)
    decay = 0.6 ** torch.arange(n_tokens).float()
    gradients = torch.randn(n, n_tokens, n_out, generator=generator) * decay.unsqueeze(1)
    return gradients, torch.randn(n, n_tokens, n_in, generator=generator)


@pytest.fixture(params=[True, False], ids=["among tokens", "on the sides"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to iterate, whatever the number of tokens."""
    monkeypatch.setattr("attrstore.ingest.encode.low_rank.AMONG_TOKENS", 1000 if request.param else 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pairs_are_the_strongest_singular_pairs(rank: int) -> None:
    gradients, inputs = factors(5, 7, 12, 9)
    start = sign_matrix("start", rank, 9)
    u, values, v, norms = singular_pairs(gradients, inputs, start, iterations=60)
    for i in range(5):
        whole = gradients[i].double().T @ inputs[i].double()
        left, expected, right = torch.linalg.svd(whole)
        assert torch.allclose(values[i].double(), expected[:rank], rtol=1e-4)
        assert float(norms[i]) == pytest.approx(float(whole.norm()), rel=1e-5)
        for pair in range(rank):
            own = torch.outer(u[i, pair], v[i, pair]).double()
            assert torch.allclose(own, torch.outer(left[:, pair], right[pair]), atol=1e-3)


@pytest.mark.usefixtures("way")
def test_pairs_are_apart_after_any_number_of_iterations() -> None:
    gradients, inputs = factors(5, 7, 12, 9)
    u, values, v, _ = singular_pairs(gradients, inputs, sign_matrix("start", 3, 9), iterations=1)
    for vectors in (u, v):
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        assert torch.allclose(products, torch.eye(3).expand(5, -1, -1), atol=1e-4)
    assert (values.diff(dim=1) <= 0).all()


@pytest.mark.usefixtures("way")
def test_eight_iterations_hold_nearly_what_the_strongest_pairs_hold() -> None:
    gradients, inputs = factors(50, 20, 32, 24, seed=1)
    _, values, _, _ = singular_pairs(gradients, inputs, sign_matrix("start", 2, 24))
    best = torch.linalg.svdvals(torch.bmm(gradients.transpose(1, 2), inputs).double())[:, :2]
    lost = 1 - values.double().square().sum(dim=1) / best.square().sum(dim=1)
    assert float(lost.max()) < 0.01
    assert float(lost.mean()) < 1e-3


@pytest.mark.usefixtures("way")
def test_pairs_depend_neither_on_the_batch_nor_on_padding() -> None:
    gradients, inputs = factors(6, 8, 16, 10, seed=2)
    start = sign_matrix("start", 2, 10)
    together = singular_pairs(gradients, inputs, start)
    padded = [torch.cat([part, torch.zeros(6, 5, part.shape[2])], dim=1) for part in (gradients, inputs)]
    for i in range(6):
        for other in (
            singular_pairs(gradients[i : i + 1], inputs[i : i + 1], start),
            singular_pairs(padded[0][i : i + 1], padded[1][i : i + 1], start),
        ):
            for one, two in zip(together, other, strict=True):
                assert torch.allclose(one[i], two[0], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("way")
def test_a_gradient_of_lower_rank_has_pairs_of_zeros() -> None:
    gradients, inputs = factors(2, 1, 8, 6)  # one token: rank 1
    gradients[1] = 0
    u, values, v, norms = singular_pairs(gradients, inputs, sign_matrix("start", 3, 6))
    assert float(values[0, 0]) == pytest.approx(float(norms[0]), rel=1e-5)
    assert not values[0, 1:].any()
    assert not any(part.any() for part in (u[0, 1:], v[0, 1:], u[1], v[1], values[1], norms[1]))
    assert all(part.isfinite().all() for part in (u, values, v, norms))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_pairs_do_not_depend_on_the_size_of_a_gradient(size: float) -> None:
    gradients, inputs = factors(3, 7, 12, 9)
    start = sign_matrix("start", 2, 9)
    u, values, v, norms = singular_pairs(gradients * size, inputs, start, iterations=40)
    for i in range(3):
        expected = torch.linalg.svdvals(gradients[i].double().T @ inputs[i].double())
        assert torch.allclose(values[i].double() / size, expected[:2], rtol=1e-3)
        assert float(norms[i]) / size == pytest.approx(float(expected.norm()), rel=1e-4)
    assert torch.allclose(torch.linalg.vector_norm(u, dim=2), torch.ones(3, 2), rtol=1e-4)
    assert torch.allclose(torch.linalg.vector_norm(v, dim=2), torch.ones(3, 2), rtol=1e-4)


@pytest.mark.parametrize(("n_tokens", "n_out", "n_in"), [(3, 10, 9), (40, 5, 6)])
def test_the_norm_is_that_of_the_whole_gradient(n_tokens: int, n_out: int, n_in: int) -> None:
    gradients, inputs = factors(4, n_tokens, n_out, n_in)
    expected = torch.linalg.matrix_norm(torch.bmm(gradients.transpose(1, 2), inputs).double())
    assert torch.allclose(frobenius(gradients, inputs).double(), expected, rtol=1e-5)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("method", ["dot", "cosine", "cosine-block"])
def test_all_pairs_give_the_scores_of_whole_gradients(
    filled: Store, folder: Path, method: str, corrected: bool
) -> None:
    state = folder / "adam.pt" if corrected else None
    ingest_gradients(
        filled,
        model=folder,
        optimizer_state=state,
        rank=8,
        query_rank=5,
        code="fp16",
        batch_tokens=40,
        **WHOLE,
    )
    score(filled, method, top_k=9)
    expected = scores_by_hand(folder, method, state=state)
    for query, rows in kept(filled, method).items():
        found = torch.tensor([s for _, _, s in sorted(rows, key=lambda row: row[1])], dtype=torch.float64)
        assert torch.allclose(found, expected[query], rtol=0.02, atol=0.01 * float(expected.abs().max()))


def scores_of_signs(folder: Path, dim: int) -> np.ndarray:
    """cosine-block of queries of five pairs with examples of one pair in signs, by numpy: [queries, texts]."""
    model, tokenizer = tiny.model(), tiny.tokenizer()
    maps = linear.find(model)
    asked = sequences.queries([(i, p, t) for i, (p, t) in enumerate(QUERIES)], tokenizer, 32)
    own = sequences.examples(enumerate(TEXTS), tokenizer, 32, "truncate")

    def whole(items: list[Any]) -> list[list[np.ndarray]]:
        references = [reference_gradients(model, maps, i.windows[0], i.first_target) for i in items]
        return [[g[m.name].numpy() for m in maps] for g in references]

    def sides(m: Any, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Projected singular vectors of length 1, as columns, and the singular values."""
        left, values, right = np.linalg.svd(g, full_matrices=False)
        p_out, p_in = (
            sign_matrix(f"0/{m.name}/{side}", dim, n).double().numpy()
            for side, n in (("out", m.n_out), ("in", m.n_in))
        )
        u, v = p_out @ left, p_in @ right.T
        return u / np.linalg.norm(u, axis=0), values, v / np.linalg.norm(v, axis=0)

    def block(m: Any, q: np.ndarray, z: np.ndarray) -> float:
        (u, values, v), (p, of_query, r) = sides(m, z), sides(m, q)
        u, v = np.sign(u[:, 0]), np.sign(v[:, 0])
        share = values[0] / max(np.linalg.norm(z), 1e-30)
        product = (p * of_query).T @ u @ (r.T @ v) / np.linalg.norm(u) / np.linalg.norm(v)
        return float(share * product / max(np.linalg.norm(q), 1e-30))

    return np.array(
        [
            [np.mean([block(m, a, b) for m, a, b in zip(maps, q, z, strict=True)]) for z in whole(own)]
            for q in whole(asked)
        ]
    )


def test_one_pair_in_signs_is_what_its_definition_says(filled: Store, folder: Path) -> None:
    # Texts of two tokens have blocks that are rounding alone.
    filled.execute("DELETE FROM examples WHERE len(string_split(text, ' ')) < 3")
    ingest_gradients(filled, model=folder, rank=1, query_rank=5, projection_dim=7, code="1bit")
    score(filled, "cosine-block", top_k=9)
    expected = scores_of_signs(folder, 7)
    found, wanted = [], []
    for query, rows in kept(filled, "cosine-block").items():
        for _, example, own in rows:
            found.append(own)
            wanted.append(expected[query, example])
    # A sign of an entry close to zero may turn, and eight iterations may mix two pairs of nearly one strength.
    assert np.corrcoef(found, wanted)[0, 1] > 0.995
    assert np.median(np.abs(np.array(found) - wanted)) < 0.01 * np.abs(wanted).max()


@pytest.mark.parametrize("code", ["halfbit", "1bit", "2bit", "4bit", "int8"])
@pytest.mark.parametrize("norm", ["none", "vector", "block"])
def test_integers_and_floats_score_alike(
    filled: Store, folder: Path, code: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)  # or both would be floats
    ingest_gradients(filled, model=folder, rank=2, query_rank=2, code=code, **WHOLE)
    (encoder,) = encoders.load_all(filled)
    _, vectors = stored.query_vectors(filled, encoder)
    (chunk,) = scan.chunks(filled, encoder, "all_encoded")
    by_integers = low_rank_scores.scorer(encoder, norm, vectors)(chunk)
    by_floats = low_rank_scores.scorer(encoder, norm, vectors, integers=False)(chunk)
    tolerance = 0.01 if code == "4bit" else 1e-4  # whose integers lie close to its levels
    assert torch.allclose(by_integers, by_floats, rtol=0, atol=tolerance * float(by_floats.abs().max()))


def test_queries_survive_packing(filled: Store, folder: Path) -> None:
    ingest_gradients(filled, model=folder, rank=1, query_rank=3, **WHOLE)
    (encoder,) = encoders.load_all(filled)
    _, vectors = stored.query_vectors(filled, encoder)
    assert low_rank.query_rank(encoder, vectors) == 3
    again = low_rank.unpack_queries(encoder, low_rank.pack_queries(encoder, vectors))
    assert torch.allclose(vectors, again, rtol=1e-5)
    sides = sum(block.length for block in encoder.blocks)
    expected = 3 * sides + 4 * len(encoder.blocks) * (3 + 1)
    assert filled.value("SELECT octet_length(vector) FROM query_encodings LIMIT 1") == expected


def test_a_second_run_encodes_what_was_appended(filled: Store, folder: Path) -> None:
    recipe = GradientRecipe(rank=1, code="1bit", **WHOLE)
    first = ingest_gradients(filled, recipe, model=folder)
    assert (first.encoder, first.examples, first.queries) == ("rank1-k64-1bit", 9, 3)
    before = filled.rows("SELECT * FROM encodings ORDER BY example_id")
    tiny.fill(filled, ["a b c d", "e f g"], [])
    assert ingest_gradients(filled, recipe, model=folder).examples == 2
    assert filled.rows("SELECT * FROM encodings WHERE example_id < 9 ORDER BY example_id") == before
    found = {finding.check.name: finding.ok for finding in check(filled)}
    assert all(found[name] for name in ("code_lengths", "duplicate_encodings", "query_encodings"))
    (described,) = info(filled)["encoders"]
    (encoder,) = encoders.load_all(filled)
    assert described["bytes_per_example"] == -(-encoder.dimensions // 8) + 3 * len(encoder.blocks)


def test_a_text_split_into_windows_is_one_gradient(store: Store, folder: Path) -> None:
    text = " ".join("abcdefghijklmnopqrstuvwxyz" * 2)  # 52 words, 32 fit
    tiny.fill(store, [text, "a b c"], QUERIES[:1])
    ingest_gradients(store, model=folder, rank=8, query_rank=5, code="fp16", long="split", **WHOLE)
    score(store, "dot")
    model, tokenizer = tiny.model(), tiny.tokenizer()
    maps = linear.find(model)
    (asked,) = sequences.queries([(0, *QUERIES[0])], tokenizer, 32)
    (item,) = sequences.examples([(0, text)], tokenizer, 32, "split")
    query = reference_gradients(model, maps, asked.windows[0], asked.first_target)
    parts = [reference_gradients(model, maps, window, 1) for window in item.windows]
    expected = sum(float((query[m.name] * part[m.name]).sum()) for part in parts for m in maps)
    found = {e: s for _, e, s in kept(store, "dot")[0]}
    assert found[0] == pytest.approx(expected, rel=0.05)


def test_embedding_and_head_can_be_encoded(filled: Store, folder: Path) -> None:
    ingest_gradients(filled, model=folder, rank=8, query_rank=5, code="fp16", modules=".", **WHOLE)
    score(filled, "cosine-block", top_k=9)
    expected = scores_by_hand(folder, "cosine-block", ".")
    for query, rows in kept(filled, "cosine-block").items():
        found = torch.tensor([s for _, _, s in sorted(rows, key=lambda row: row[1])], dtype=torch.float64)
        assert torch.allclose(found, expected[query], rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_tracincp_and_less_read_them(filled: Store, folder: Path) -> None:
    state = folder / "adam.pt"
    ingest_gradients(filled, model=folder, rank=2, name="plain", **WHOLE)
    ingest_gradients(filled, model=folder, optimizer_state=state, rank=2, name="adam", **WHOLE)
    score(filled, "dot", encoder="plain", name="plain", top_k=9)
    score(filled, "dot", encoder="adam", name="adam", top_k=9)
    score(filled, "tracincp", encoders=["plain", "adam"], weights=[2, 3], top_k=9)
    summed = {
        query: {e: 2 * s + 3 * {x: y for _, x, y in kept(filled, "adam")[query]}[e] for _, e, s in rows}
        for query, rows in kept(filled, "plain").items()
    }
    for query, rows in kept(filled, "tracincp").items():
        assert all(s == pytest.approx(summed[query][e], rel=1e-4, abs=1e-4) for _, e, s in rows)
    assert score(filled, "less", encoder="adam").n_scores


def test_ask_ranks_a_query_as_score_does(filled: Store, folder: Path) -> None:
    ingest_gradients(filled, model=folder, rank=2, query_rank=3, **WHOLE)
    score(filled, "cosine-block", top_k=9)
    answer = ask(filled, *QUERIES[0], top=5, method="cosine-block")
    stored_rows = [
        (f"e-{example}", s) for rank, example, s in kept(filled, "cosine-block")[0] if 1 <= rank <= 5
    ]
    assert [example for _, example, _, _ in answer.influence] == [example for example, _ in stored_rows]
    for (_, _, asked, _), (_, own) in zip(answer.influence, stored_rows, strict=True):
        assert asked == pytest.approx(own, rel=0.02)


def test_pairs_of_projected_gradients_are_scored_and_not_asked(
    filled: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.delitem(OF_PAIRS, "pairs")
        ingest_gradients(filled, model=folder, rank=2, name="earlier", **WHOLE)
    assert score(filled, "cosine-block").n_scores
    with pytest.raises(InputError, match="earlier: its singular pairs are those of projected gradients"):
        ask(filled, *QUERIES[0], method="cosine-block")
    with pytest.raises(MismatchError, match="earlier"):
        ingest_gradients(filled, model=folder, rank=2, name="earlier", **WHOLE)


@pytest.mark.parametrize("method", ["influence", "cg", "ekfac", "datainf"])
def test_methods_with_a_solver_refuse_them(filled: Store, folder: Path, method: str) -> None:
    ingest_gradients(filled, model=folder, rank=1, name="pairs", **WHOLE)
    with pytest.raises(InputError, match=r"pairs: made with rank, and the solver of .* needs encodings made"):
        score(filled, method)


def test_explain_refuses_them_and_whole_gradients_by_name(filled: Store, folder: Path) -> None:
    ingest_gradients(filled, model=folder, rank=1, name="pairs", **WHOLE)
    score(filled, "cosine-block", top_k=9)
    with pytest.raises(InputError, match="pairs: made with rank, whose codes are not taken apart"):
        list(explain(filled, "q-0", scoring="cosine-block"))
    rerank(filled, "cosine-block", top=3, name="exact")
    with pytest.raises(InputError, match=r"re-ranked from whole gradients.*has: cosine-block"):
        list(explain(filled, "q-0", scoring="exact"))


def test_what_does_not_go_together_is_refused(filled: Store, folder: Path) -> None:
    with pytest.raises(InputError, match="blocks layer cannot be combined with rank"):
        ingest_gradients(filled, model=folder, rank=1, blocks="layer")
    with pytest.raises(InputError, match="correction full cannot be combined with rank"):
        ingest_gradients(filled, model=folder, optimizer_state=folder / "adam.pt", rank=1, correction="full")
    with pytest.raises(InputError, match="has at most 4 singular pairs after projection"):
        ingest_gradients(filled, model=folder, rank=5, projection_dim=4)
    assert not filled.value("SELECT count(*) FROM encoders")


def test_other_recipes_keep_their_ids() -> None:
    class Subject:
        fingerprint, tokenizer_fingerprint, context, encoding_version = "m", "t", 8, 1

    assert not {"rank", "query_rank", "iterations"} & GradientRecipe().spec(Subject(), None).keys()
    spec = GradientRecipe(rank=2).spec(Subject(), None)
    assert GradientRecipe.from_spec(spec).rank == 2
