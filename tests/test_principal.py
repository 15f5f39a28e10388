"""Pairs on principal directions, and the curvature of codes of low rank, against float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from attrstore.check import check
from attrstore.cli import main
from attrstore.errors import InputError
from attrstore.ingest.encode import low_rank as encoding
from attrstore.ingest.encode.gradients import ingest_gradients, reopen
from attrstore.ingest.encode.recipes import GradientRecipe
from attrstore.ingest.model import sequences
from attrstore.scoring import score
from attrstore.vectors import encoders, low_rank, low_rank_scores, scan, stored
from attrstore.workflows.ask import ask
from tests import tiny
from tests.test_rerank import QUERIES, TEXTS, kept, scores_by_hand

if TYPE_CHECKING:
    from attrstore import Store
    from attrstore.vectors.encoders import Encoder

PAIRS: Any = {"rank": 2, "query_rank": 2, "projection_dim": 10, "code": "2bit", "principal": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint_and_state(tmp_path_factory.mktemp("model"))


@pytest.fixture
def filled(store: Store) -> Store:
    tiny.fill(store, TEXTS, QUERIES, [(0, 1), (1, 2)])
    return store


def test_directions_are_those_of_the_corpus_and_their_spreads(filled: Store, folder: Path) -> None:
    state = folder / "adam.pt"
    ingest_gradients(filled, model=folder, optimizer_state=state, **PAIRS)
    (encoder,) = encoders.load_all(filled)
    _, gradient_encoder = reopen(filled, encoder, model=folder)
    assert isinstance(gradient_encoder, encoding.LowRankEncoder)
    items = sequences.examples(enumerate(TEXTS), tiny.tokenizer(), 32, "truncate")
    (batch,) = sequences.batches(items, 10_000)
    whole_pairs = gradient_encoder.whole_pairs(batch, gradient_encoder.maps)
    for name, whole in gradient_encoder._whole.items():
        assert whole.p_out is not None
        assert whole.p_in is not None
        left, values, right, norms = (part.double() for part in whole_pairs[name])
        shares = (values / norms.clamp(min=1e-30).unsqueeze(1)).unsqueeze(1)
        spreads = gradient_encoder._spreads[name]
        for directions, spread, pairs in (
            (whole.p_out.double(), spreads.out, left.transpose(1, 2) * shares),
            (whole.p_in.double(), spreads.inputs, right.transpose(1, 2) * shares),
        ):
            assert len(directions) == min(10, pairs.shape[1])
            of_pairs = torch.einsum("ndr,ner->rde", pairs, pairs) / len(pairs)
            turned = directions @ of_pairs.sum(0) @ directions.T
            expected = torch.linalg.eigvalsh(of_pairs.sum(0)).flip(0)[: len(directions)]
            # Kept in float16.
            assert torch.allclose(turned.diagonal(), expected, rtol=0.01, atol=1e-3 * float(expected[0]))
            assert torch.allclose(directions @ directions.T, torch.eye(len(directions)).double(), atol=2e-3)
            of_each = torch.einsum("kd,rde,ke->rk", directions, of_pairs, directions)
            found = (spreads.weights.double().unsqueeze(1) * spread.double()).square()
            assert torch.allclose(found, of_each, rtol=0.01, atol=1e-3 * float(expected[0]))
        assert torch.allclose(
            spreads.weights.double().square(), shares.square().mean(0).flatten(), rtol=0.02, atol=1e-3
        )


@pytest.mark.parametrize("method", ["dot", "cosine", "cosine-block"])
def test_all_pairs_on_all_directions_give_the_scores_of_whole_gradients(
    filled: Store, folder: Path, method: str
) -> None:
    ingest_gradients(
        filled, model=folder, rank=8, query_rank=5, code="fp16", projection_dim=64, principal=True
    )
    score(filled, method, top_k=9)
    expected = scores_by_hand(folder, method)
    for query, rows in kept(filled, method).items():
        found = torch.tensor([s for _, _, s in sorted(rows, key=lambda row: row[1])], dtype=torch.float64)
        assert torch.allclose(found, expected[query], rtol=0.02, atol=0.015 * float(expected.abs().max()))


def opened(store: Store) -> tuple[Encoder, Tensor, scan.Chunk, Tensor]:
    """The encoder, its queries, its only chunk, and the chunk's decoded directions."""
    (encoder,) = encoders.load_all(store)
    _, vectors = stored.query_vectors(store, encoder)
    (found,) = scan.chunks(store, encoder, "all_encoded")
    order = found.example_ids.argsort()
    chunk = scan.Chunk(*(part[order] for part in found))
    return encoder, vectors, chunk, low_rank.decode(encoder, chunk.code, low_rank.layout_of(store, encoder))


def test_a_share_is_what_the_code_has_of_its_pair(filled: Store, folder: Path) -> None:
    """The best factor of the decoded pair: the inner product of the pair with it."""
    ingest_gradients(filled, model=folder, **PAIRS)
    encoder, _, chunk, rows = opened(filled)
    _, gradient_encoder = reopen(filled, encoder, model=folder)
    assert isinstance(gradient_encoder, encoding.LowRankEncoder)
    items = sequences.examples(enumerate(TEXTS), tiny.tokenizer(), 32, "truncate")
    (batch,) = sequences.batches(items, 10_000)
    pairs = gradient_encoder.whole_pairs(batch, gradient_encoder.maps)
    order = torch.tensor([item.key for item in batch.items]).argsort()
    _, shares = low_rank.scales_of(encoder, chunk.scales)
    counted = 0
    for index, block in enumerate(low_rank.sides(encoder, 2)):
        name = encoder.blocks[index].name
        whole = gradient_encoder._whole[name]
        assert whole.p_out is not None
        assert whole.p_in is not None
        left, values, right, norms = (part[order].double() for part in pairs[name])
        u = block.left(rows).double() @ whole.p_out.double()  # of length 1 in the whole space
        v = block.right(rows).double() @ whole.p_in.double()
        expected = values / norms.clamp(min=1e-30).unsqueeze(1) * (left * u).sum(2) * (right * v).sum(2)
        real = norms > 1e-6 * norms.max()
        counted += int(real.sum())
        wanted = expected[real].clamp(0, 1).float()
        assert torch.allclose(shares[real, index], wanted, atol=0.5 / 255 + 2e-3)
    assert counted > 100


def by_hand(store: Store, method: str, damping: float, mixing: float | None) -> Tensor:
    """[queries, texts] in float64 from decoded codes, as the formulas stand."""
    encoder, vectors, chunk, rows = opened(store)
    norms, shares = (part.double() for part in low_rank.scales_of(encoder, chunk.scales))
    n_blocks, n_queries = len(encoder.blocks), len(vectors)
    products = torch.zeros(n_queries, len(rows), n_blocks, dtype=torch.float64)
    of_q = torch.zeros(n_queries, n_blocks, dtype=torch.float64)
    of_z = torch.zeros(len(rows), n_blocks, dtype=torch.float64)
    asked = low_rank.sides(encoder, low_rank.query_rank(encoder, vectors))
    for i, (block, query) in enumerate(zip(low_rank.sides(encoder, 2), asked, strict=True)):
        unit = torch.einsum(
            "nr,nro,nri->noi", shares[:, i], block.left(rows).double(), block.right(rows).double()
        )
        u, v = block.left(rows).double(), block.right(rows).double()
        a = torch.einsum("nr,nro,nrp->op", shares[:, i] ** 2, u, u)
        b = torch.einsum("nr,nri,nrj->ij", shares[:, i] ** 2, v, v)
        p, q = query.left(vectors).double(), query.right(vectors).double()
        a, b = a / a.trace(), b / b.trace()
        if mixing is not None:
            unit_p = p / vectors[:, -n_blocks:][:, i].double().clamp(min=1e-30).view(-1, 1, 1)
            of_query = torch.einsum("qso,qsp->op", unit_p, unit_p)
            weights = unit_p.norm(dim=2)
            of_inputs = torch.einsum("qs,qsi,qsj->ij", weights**2, q, q)
            a = mixing * of_query / of_query.trace() + (1 - mixing) * a
            b = mixing * of_inputs / of_inputs.trace() + (1 - mixing) * b
        energy = ((norms[:, i] ** 2) * (shares[:, i] ** 2).sum(1)).mean()
        of_factor = damping**0.5 if method == "kfac" else damping
        inverses = []
        for side in (a, b):
            values, basis = torch.linalg.eigh(side)
            values = values.clamp(min=0)
            inverses.append(basis @ (1 / (values + of_factor * values.mean())).diag() @ basis.T)
        inverse_a, inverse_b = inverses[0] / energy, inverses[1]
        whole = torch.einsum("qso,qsi->qoi", p, q)
        for_z = inverse_a @ unit @ inverse_b
        products[:, :, i] = torch.einsum("qoi,noi->qn", whole, for_z) * norms[:, i]
        if method.startswith("kfac"):  # the map is on the queries' side alone
            solved = inverse_a @ whole @ inverse_b
            of_q[:, i] = solved.square().sum((1, 2))
            of_z[:, i] = norms[:, i] ** 2
            continue
        of_z[:, i] = (unit * for_z).sum((1, 2)) * norms[:, i] ** 2
        of_q[:, i] = (whole * (inverse_a @ whole @ inverse_b)).sum((1, 2))
    if method.endswith("-block"):
        both = (of_q.unsqueeze(1) * of_z).sqrt()
        return torch.where(both > 1e-20, products / both.clamp(min=1e-30), 0.0).mean(2)
    if method == "trackstar":
        return products.sum(2) / (of_q.sum(1).unsqueeze(1) * of_z.sum(1)).sqrt()
    return products.sum(2)


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("principal", [True, False])
@pytest.mark.parametrize(
    ("method", "options", "mixing"),
    [
        ("damped-block", {}, None),
        ("damped-block", {"damping": 0.5}, None),
        ("kfac", {"damping": 1.0}, None),
        ("trackstar", {"mixing": 0.3, "damping": 1.0}, 0.3),
        ("trackstar-block", {"mixing": 0.3, "damping": 1.0}, 0.3),
        ("trak", {"damping": 2.0}, None),
    ],
)
def test_curvature_is_applied_as_its_formula_says(
    filled: Store,
    folder: Path,
    method: str,
    options: dict[str, Any],
    mixing: float | None,
    principal: bool,
    vnni: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    ingest_gradients(filled, model=folder, **{**PAIRS, "principal": principal})
    made = score(filled, method, top_k=9, **options)
    assert made.spec["curvature"] == ("mixed" if mixing is not None else "corpus")
    assert made.spec["mixing"] == mixing
    damping = options.get("damping", 10.0)
    assert made.spec["damping"] == damping
    expected = by_hand(filled, method, damping, mixing)
    tolerance = 0.02 if vnni else 1e-3  # queries in 8 bits
    for query, rows in kept(filled, method).items():
        found = torch.tensor([s for _, _, s in sorted(rows, key=lambda row: row[1])], dtype=torch.float64)
        assert torch.allclose(found, expected[query], rtol=0, atol=tolerance * float(expected.abs().max()))


def test_the_second_chunk_and_a_sample_of_the_corpus(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", 1)  # 64 examples a chunk
    tiny.fill(store, tiny.sentences(150, seed=5), QUERIES)
    ingest_gradients(store, model=folder, **PAIRS)
    score(store, "damped-block", top_k=150, name="chunks")
    monkeypatch.setattr(scan, "CHUNK_BYTES", 2**26)
    score(store, "damped-block", top_k=150, name="at once")
    for query, rows in kept(store, "chunks").items():
        ours = {e: s for _, e, s in rows}
        for _, example, other in kept(store, "at once")[query]:
            assert ours[example] == pytest.approx(other, rel=1e-4, abs=1e-5)
    monkeypatch.setattr(stored, "CURVATURE_ROWS", 50)
    score(store, "damped-block", top_k=150, name="sampled")
    assert kept(store, "sampled") != kept(store, "at once")


@pytest.mark.parametrize("code", ["halfbit", "1bit", "4bit", "int8"])
@pytest.mark.parametrize("norm", ["none", "vector", "block"])
def test_integers_and_floats_score_alike(
    filled: Store, folder: Path, code: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    ingest_gradients(filled, model=folder, **{**PAIRS, "code": code})
    encoder, vectors, chunk, _ = opened(filled)
    laid_out = low_rank.layout_of(filled, encoder)
    assert (laid_out is None) == (code == "int8")
    assert (
        chunk.code.shape[1]
        == {"halfbit": 0.5, "1bit": 1, "4bit": 4, "int8": 8}[code] * encoder.dimensions / 8
    )
    by_integers, by_floats = (
        low_rank_scores.scorer(encoder, norm, vectors, laid_out, integers=way)(chunk) for way in (True, False)
    )
    assert torch.allclose(by_integers, by_floats, rtol=0, atol=0.02 * float(by_floats.abs().max()))


@pytest.mark.parametrize("code", ["halfbit", "1bit", "2bit", "4bit"])
def test_a_code_is_as_long_as_its_number_of_entries_says(filled: Store, folder: Path, code: str) -> None:
    """Of an odd number of entries too: one map, of whose sides 8 and 9 directions are kept."""
    only = {"rank": 1, "projection_dim": 9, "modules": "layers.0.self_attn.v_proj", "code": code}
    ingest_gradients(filled, model=folder, **{**PAIRS, **only})
    encoder, *_ = opened(filled)
    assert encoder.dimensions == 17
    bits = {"halfbit": 0.5, "1bit": 1, "2bit": 2, "4bit": 4}[code]
    expected = math.ceil(encoder.dimensions * bits / 8)
    assert filled.value("SELECT DISTINCT octet_length(code) FROM encodings") == expected
    found = {finding.check.name: finding.ok for finding in check(filled)}
    assert found["code_lengths"]


def test_what_is_fitted_stays_for_what_is_appended(filled: Store, folder: Path) -> None:
    recipe = GradientRecipe(**PAIRS)
    first = ingest_gradients(filled, recipe, model=folder)
    assert first.encoder == "rank2-k10-2bit-principal"
    assert GradientRecipe.from_spec(encoders.load_all(filled)[0].spec).principal
    before = filled.rows("SELECT * FROM encodings ORDER BY example_id")
    fitted = filled.rows("SELECT * FROM projections ORDER BY module, part")
    assert {row[2] for row in fitted} == {"p_in", "p_out", "spread_in", "spread_out", "pair_weights"}
    tiny.fill(filled, ["a b c d", "e f g", TEXTS[4]], [])
    assert ingest_gradients(filled, recipe, model=folder).examples == 3
    assert filled.rows("SELECT * FROM encodings WHERE example_id < 9 ORDER BY example_id") == before
    assert filled.rows("SELECT * FROM projections ORDER BY module, part") == fitted
    score(filled, "cosine-block", top_k=12)
    for rows in kept(filled, "cosine-block").values():
        scores = {e: s for _, e, s in rows}
        assert scores[4] == pytest.approx(scores[11], abs=0.01)  # the same text, before and after
    assert all(finding.ok for finding in check(filled))


def test_ask_ranks_a_query_as_score_does(filled: Store, folder: Path) -> None:
    ingest_gradients(filled, model=folder, **PAIRS)
    score(filled, "damped-block", top_k=9)
    answer = ask(filled, *QUERIES[0], top=5, method="damped-block")
    rows = [(f"e-{example}", s) for rank, example, s in kept(filled, "damped-block")[0] if 1 <= rank <= 5]
    assert [example for _, example, _, _ in answer.influence] == [example for example, _ in rows]
    for (_, _, asked, _), (_, own) in zip(answer.influence, rows, strict=True):
        assert asked == pytest.approx(own, abs=0.003)  # the query's pairs are kept in 8 bits


def test_what_does_not_go_together_is_refused(filled: Store, folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"principal: principal directions are those of singular pairs. Give rank"
    ):
        ingest_gradients(filled, model=folder, principal=True)
    with pytest.raises(InputError, match="kronecker cannot be combined with principal"):
        ingest_gradients(filled, model=folder, kronecker_factors=True, **PAIRS)
    with pytest.raises(
        InputError, match=r"principal: the directions of model.embed_tokens, lm_head are as many"
    ):
        ingest_gradients(filled, model=folder, modules=".", **PAIRS)
    assert filled.value("SELECT count(*) FROM encoders") == 0
    ingest_gradients(filled, model=folder, **PAIRS)
    with pytest.raises(
        InputError, match="made with rank, and the solver of lissa needs encodings made without"
    ):
        score(filled, "lissa")


def test_the_method_to_begin_with_is_that_of_the_codes(filled: Store, folder: Path) -> None:
    ingest_gradients(filled, model=folder, projection_dim=4, name="projected")
    assert score(filled).name == "cosine-block"
    ingest_gradients(filled, model=folder, name="pairs", **PAIRS)
    made = score(filled)
    assert (made.name, made.spec["damping"]) == ("damped-block", 10.0)
    by = "SELECT encoders.name FROM scorings JOIN encoders USING (encoder_id) WHERE scorings.name = 'damped-block'"
    assert filled.value(by) == "pairs"
    assert score(filled, encoder="projected", name="other").spec["curvature"] == "corpus"
    told = CliRunner().invoke(main, ["score", str(filled.path), "--name", "by default"])
    assert told.exit_code == 0, told.output
    method = "SELECT method FROM scorings WHERE name = 'by default'"
    assert filled.value(method) == "damped-block"
    refused = CliRunner().invoke(main, ["score", str(filled.path), "--engine", "ray"])
    assert refused.exit_code == 2
    assert "--engine ray: name the METHOD too" in refused.output


def test_a_corpus_of_which_nothing_can_be_encoded_gives_no_code(store: Store, folder: Path) -> None:
    tiny.fill(store, ["a", "b"], QUERIES)  # one token each: no target
    done = ingest_gradients(store, model=folder, **PAIRS)
    assert store.value("SELECT count(*) FROM encodings WHERE code IS NULL") == 2
    assert done.queries == len(QUERIES)
