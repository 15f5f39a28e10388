"""Curvature in full width against float64: EK-FAC, the Gauss-Newton matrix, and what is re-ranked with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev

from attrstore.errors import InputError
from attrstore.ingest.encode import projection
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.measure import ekfac, gauss_newton, whole
from attrstore.ingest.measure.options import Source
from attrstore.ingest.measure.rerank import rerank
from attrstore.ingest.model import linear, sequences
from attrstore.scoring import score
from tests import tiny
from tests.test_gradient_math import reference_gradients
from tests.test_rerank import QUERIES, TEXTS, kept

if TYPE_CHECKING:
    from pathlib import Path

    from attrstore import Store
    from attrstore.ingest.model.sequences import Batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint_and_state(tmp_path_factory.mktemp("model"))


@pytest.fixture
def encoded(store: Store, folder: Path) -> Store:
    tiny.fill(store, TEXTS, QUERIES, [(0, 1), (1, 2)])
    ingest_gradients(store, model=folder, projection_dim=4, code="fp16", name="plain")
    score(store, "cosine-block")
    return store


def batches(texts: list[str], budget: int = 40) -> list[Batch]:
    items = sequences.examples(enumerate(texts), tiny.tokenizer(), 32, "truncate")
    return list(sequences.batches(items, budget))


def corrections(maps: list[linear.LinearMap], seed: int = 1) -> dict[str, projection.Projection]:
    """Scales as an optimizer's state would give, between one half and two."""
    generator = torch.Generator().manual_seed(seed)
    made = {m.name: projection.make(m, dim=1, seed=0, moment=None) for m in maps}
    for of_map in made.values():
        of_map.scale_in = 0.5 + 1.5 * torch.rand(of_map.scale_in.shape, generator=generator)
        of_map.scale_out = 0.5 + 1.5 * torch.rand(of_map.scale_out.shape, generator=generator)
    return made


def whole_gradients(model: Any, maps: list[linear.LinearMap], batch: Batch) -> list[dict[str, Tensor]]:
    """Each item's gradient for the batch's own targets, float64 [out, in] by map."""
    double = {name: p.detach().double() for name, p in model.double().named_parameters()}

    def loss(weights: dict[str, Tensor], tokens: Tensor, targets: Tensor) -> Tensor:
        logits = functional_call(model, weights, (tokens.unsqueeze(0),)).logits[0, :-1]
        there = targets[1:] != -100
        total: Tensor = logits.log_softmax(1)[there, targets[1:][there]].sum()
        return -total

    found = [grad(loss)(double, *pair) for pair in zip(batch.tokens, batch.targets, strict=True)]
    model.float()
    return [{m.name: m.oriented(one[m.weight]) for m in maps} for one in found]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_moments_are_those_of_drawn_labels_in_an_orthonormal_basis(architecture: str) -> None:
    model = tiny.model(architecture).requires_grad_(False)
    maps = linear.find(model)
    scales, sample = corrections(maps), batches(TEXTS)
    found = ekfac.fit(model, maps, scales, sample, seed=3)
    generator = torch.Generator().manual_seed(3)
    drawn = [ekfac._drawn(model, batch, generator) for batch in sample]
    assert any(not torch.equal(a.targets, b.targets) for a, b in zip(drawn, sample, strict=True))
    gradients = [one for batch in drawn for one in whole_gradients(model, maps, batch)]
    assert len(gradients) == len(TEXTS)
    for m in maps:
        of_map, by_scales = (
            found[m.name],
            torch.outer(scales[m.name].scale_out, scales[m.name].scale_in).double(),
        )
        left, right = of_map.left.double(), of_map.right.double()
        for basis in (left, right):
            assert torch.allclose(basis.T @ basis, torch.eye(len(basis), dtype=torch.float64), atol=1e-5)
        turned = torch.stack([left.T @ (one[m.name] * by_scales) @ right for one in gradients])
        expected = turned.square().mean(dim=0)
        assert torch.allclose(of_map.moments.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_the_bases_diagonalise_the_second_moments_of_tokens() -> None:
    model = tiny.model().requires_grad_(False)
    maps = [m for m in linear.find(model) if m.name.endswith(("0.self_attn.v_proj", "1.mlp.down_proj"))]
    scales, sample = corrections(maps), batches(TEXTS)
    found = ekfac.fit(model, maps, scales, sample)
    generator = torch.Generator().manual_seed(0)
    drawn = [ekfac._drawn(model, batch, generator) for batch in sample]
    inputs, gradients = tokens_of(maps, drawn)
    for m in maps:
        scale_in, scale_out = scales[m.name].scale_in.double(), scales[m.name].scale_out.double()
        sides = (
            (found[m.name].right, inputs[m.name] * scale_in),
            (found[m.name].left, gradients[m.name] * scale_out),
        )
        for basis, tokens in sides:
            turned = basis.double().T @ (tokens.T @ tokens) @ basis.double()
            rest = turned - turned.diagonal().diag()
            assert float(rest.abs().max()) < 1e-4 * float(turned.abs().max())


def tokens_of(
    maps: list[linear.LinearMap], sample: list[Batch]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and output gradients at all real tokens, float64, by hooks on a model of its own."""
    model = tiny.model().double()
    modules = dict(model.named_modules())
    inputs: dict[str, list[Tensor]] = {m.name: [] for m in maps}
    gradients: dict[str, list[Tensor]] = {m.name: [] for m in maps}
    for name in inputs:

        def seen(module: Any, given: Any, output: Tensor, name: str = name) -> None:
            inputs[name].append(given[0][0].detach())
            output.register_hook(lambda g: gradients[name].append(g[0]))

        modules[name].register_forward_hook(seen)
    for batch in sample:
        for tokens, targets, length in zip(batch.tokens, batch.targets, batch.lengths.tolist(), strict=True):
            logits = model(input_ids=tokens[:length].unsqueeze(0)).logits[0, :-1]
            torch.nn.functional.cross_entropy(logits, targets[1:length], reduction="sum").backward()
    return {n: torch.cat(v) for n, v in inputs.items()}, {n: torch.cat(v) for n, v in gradients.items()}


def test_drawn_labels_follow_what_the_model_predicts() -> None:
    model = tiny.model()
    (batch,) = batches(["a b"] * 3000, budget=10**6)
    drawn = ekfac._drawn(model, batch, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=batch.tokens[:1]).logits[0, 0].softmax(0)
    shares = drawn.targets[:, 1].bincount(minlength=len(expected)) / 3000
    spread = (expected * (1 - expected) / 3000).sqrt()
    assert bool(((shares - expected).abs() <= 4.5 * spread + 1e-9).all())
    assert drawn.targets[:, 0].eq(-100).all()
    assert torch.equal(drawn.tokens, batch.tokens)


def scores_by_hand(folder: Path, store: Store, method: str, damping: float) -> Tensor:
    """[queries, texts] from whole float64 gradients and the curvature that the store kept."""
    model, tokenizer = tiny.model(), tiny.tokenizer()
    maps = linear.find(model)
    fitted = fit_of(store, folder)

    def turned(items: list[Any]) -> list[dict[str, Tensor]]:
        each = [reference_gradients(model, maps, i.windows[0], i.first_target) for i in items]
        return [{m: f.left.double().T @ one[m] @ f.right.double() for m, f in fitted.items()} for one in each]

    def product(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        """By block."""
        return torch.stack(
            [
                (a[m] * b[m] / (f.moments.double() + damping * f.moments.double().mean())).sum()
                for m, f in fitted.items()
            ]
        )

    asked = turned(sequences.queries([(i, p, t) for i, (p, t) in enumerate(QUERIES)], tokenizer, 32))
    own = turned(sequences.examples(enumerate(TEXTS), tokenizer, 32, "truncate"))
    found = torch.zeros(len(asked), len(own), dtype=torch.float64)
    for i, q in enumerate(asked):
        for j, z in enumerate(own):
            both, of_q, of_z = product(q, z), product(q, q), product(z, z)
            if method == "trackstar-block":
                real = (of_q > 1e-12 * of_q.sum()) & (of_z > 1e-12 * of_z.sum())
                found[i, j] = (both / (of_q * of_z).sqrt())[real].sum() / len(both)
            else:
                found[i, j] = both.sum()
                if method == "trackstar":
                    found[i, j] /= (of_q.sum() * of_z.sum()).sqrt()
    return found


def fit_of(store: Store, folder: Path) -> ekfac.Curvature:
    from attrstore.vectors import encoders

    (encoder,) = [e for e in encoders.load_all(store, "gradient") if e.name == "plain"]
    loaded, maps, scales = whole._corrected(store, encoder, Source(model=folder))
    return ekfac.fit(loaded.model, maps, scales, ekfac.sample_of(store, encoder, loaded, 2048))


@pytest.mark.parametrize("top", [9, 3])  # formed gradients, and token factors
@pytest.mark.parametrize("method", ["ekfac", "trackstar", "trackstar-block"])
def test_scores_are_in_the_metric_of_the_inverse(encoded: Store, folder: Path, method: str, top: int) -> None:
    expected = scores_by_hand(folder, encoded, method, 0.2)
    made = rerank(
        encoded, "cosine-block", top=top, method=method, name="exact", source=Source(batch_tokens=40, damping=0.2),
    )  # fmt: skip
    assert (made.spec["curvature"], made.spec["damping"]) == ("ekfac", 0.2)
    before = kept(encoded, "cosine-block")
    for query, rows in kept(encoded, "exact").items():
        candidates = [e for rank, e, _ in before[query] if 1 <= rank <= top]
        assert [e for _, e, _ in rows] == sorted(candidates, key=lambda e: -expected[query, e])
        found = torch.tensor([s for _, _, s in rows], dtype=torch.float64)
        wanted = expected[query, [e for _, e, _ in rows]]
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def gauss_newton_by_hand(model: Any, m: linear.LinearMap, sample: list[Batch], scales: Tensor) -> Tensor:
    """H [d, d] of one map's corrected weight as out x in, float64."""
    double = {name: p.detach().double() for name, p in model.double().named_parameters()}

    def logits(weight: Tensor, tokens: Tensor) -> Tensor:
        weights = {**double, m.weight: m.oriented(weight)}
        found: Tensor = functional_call(model, weights, (tokens.unsqueeze(0),)).logits[0, :-1]
        return found

    total, n = torch.zeros(m.n_out * m.n_in, m.n_out * m.n_in, dtype=torch.float64), 0
    for batch in sample:
        for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
            n += 1
            own = m.oriented(double[m.weight]).contiguous()
            jacobian = jacrev(logits)(own, tokens)[targets[1:] != -100] * scales
            p = logits(own, tokens)[targets[1:] != -100].softmax(1)
            j = jacobian.flatten(2)
            total += torch.einsum("tvd,tv,tve->de", j, p, j)
            mean = torch.einsum("tv,tvd->td", p, j)
            total -= mean.T @ mean
    model.float()
    return total / n


@pytest.mark.parametrize(
    ("architecture", "name"), [("llama", "layers.0.self_attn.v_proj"), ("gpt2", "h.1.attn.c_proj")]
)
def test_cg_solves_the_damped_gauss_newton_system(
    architecture: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauss_newton, "LOGITS_AT_ONCE", 2000)  # two vectors at once, and then the third
    model = tiny.model(architecture).requires_grad_(False)
    maps = [m for m in linear.find(model) if m.name.endswith(name)]
    (m,) = maps
    scales, sample = corrections(maps), batches(TEXTS[:5])
    by_scales = torch.outer(scales[m.name].scale_out, scales[m.name].scale_in).double()
    h = gauss_newton_by_hand(model, m, sample, by_scales)
    matrix = gauss_newton.GaussNewton(model, maps, scales, sample)
    vectors = torch.randn(3, m.n_out, m.n_in, generator=torch.Generator().manual_seed(0))
    product = matrix({m.name: vectors})[m.name].double()
    expected = (vectors.double().flatten(1) @ h).view_as(product)
    assert torch.allclose(product, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    fitted = ekfac.fit(model, maps, scales, sample)
    ridge = 0.1 * float(fitted[m.name].moments.mean())
    solution = torch.linalg.solve(
        h + ridge * torch.eye(len(h), dtype=torch.float64), vectors.double().flatten(1).T
    ).T
    errors = [
        float((found[m.name].double().flatten(1) - solution).norm() / solution.norm())
        for found in (
            gauss_newton.solve(matrix, fitted, 0.1, iterations, {m.name: vectors}) for iterations in (0, 60)
        )
    ]
    # The solver stops at a residual of 1e-6; a ridge of a tenth of the mean lets the error be larger. EK-FAC alone, 0
    # iterations, is not the solution.
    assert errors[1] < 1e-2
    assert errors[0] > 10 * errors[1]
    assert not any(p.requires_grad for p in model.parameters())


def test_cg_of_a_vector_of_zeros_is_zero() -> None:
    model = tiny.model().requires_grad_(False)
    maps = [m for m in linear.find(model) if m.name.endswith("0.self_attn.v_proj")]
    scales, sample = corrections(maps), batches(TEXTS[:3])
    vectors = torch.zeros(2, maps[0].n_out, maps[0].n_in)
    vectors[1, 0, 0] = 1.0
    fitted = ekfac.fit(model, maps, scales, sample)
    found = gauss_newton.solve(
        gauss_newton.GaussNewton(model, maps, scales, sample), fitted, 0.1, 5, {maps[0].name: vectors}
    )[maps[0].name]
    assert found.isfinite().all()
    assert found[0].eq(0).all()
    assert found[1].ne(0).any()


def test_cg_ranks_with_the_solution_of_all_maps(encoded: Store, folder: Path) -> None:
    made = rerank(
        encoded, "cosine-block", top=9, method="cg", name="cg",
        source=Source(batch_tokens=40, iterations=3, cg_sample=4),
    )  # fmt: skip
    assert (made.spec["curvature"], made.spec["iterations"], made.spec["cg_sample"]) == ("gauss-newton", 3, 4)
    from attrstore.vectors import encoders

    (encoder,) = [e for e in encoders.load_all(encoded, "gradient") if e.name == "plain"]
    loaded, maps, scales = whole._corrected(encoded, encoder, Source(model=folder))
    fitted = fit_of(encoded, folder)
    matrix = gauss_newton.GaussNewton(
        loaded.model, maps, scales, ekfac.sample_of(encoded, encoder, loaded, 4)
    )
    model = tiny.model()
    asked = sequences.queries([(i, p, t) for i, (p, t) in enumerate(QUERIES)], tiny.tokenizer(), 32)
    own = sequences.examples(enumerate(TEXTS), tiny.tokenizer(), 32, "truncate")
    of_queries = [reference_gradients(model, maps, i.windows[0], i.first_target) for i in asked]
    solved = gauss_newton.solve(
        matrix, fitted, 0.1, 3, {m.name: torch.stack([q[m.name] for q in of_queries]).float() for m in maps}
    )
    of_texts = [reference_gradients(model, maps, i.windows[0], i.first_target) for i in own]
    for query, rows in kept(encoded, "cg").items():
        expected = torch.stack(
            [sum((solved[m.name][query].double() * z[m.name]).sum() for m in maps) for z in of_texts]  # type: ignore[misc]
        )
        found = torch.tensor([s for _, _, s in sorted(rows, key=lambda row: row[1])], dtype=torch.float64)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_curvature_is_kept_and_fitted_anew_when_the_sample_is_another(
    encoded: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []
    fit = ekfac.fit
    monkeypatch.setattr(ekfac, "fit", lambda *given: fitted.append(1) or fit(*given))  # type: ignore[func-returns-value]
    small = Source(curvature_sample=6)
    first = rerank(encoded, "cosine-block", top=9, method="ekfac", name="first", source=small)
    assert first.spec["curvature_sample"] == 6
    (kept_in,) = encoded.path.parent.glob(f"{encoded.path.name}.ekfac-*.safetensors")
    before = kept_in.read_bytes()
    rerank(encoded, "cosine-block", top=9, method="trackstar", name="again", source=small)
    assert (len(fitted), encoded.value("SELECT count(DISTINCT recipe) FROM exact_scores")) == (1, 1)
    # Another damping is another metric of the same curvature: its pairs are its own.
    rerank(
        encoded,
        "cosine-block",
        top=9,
        method="ekfac",
        name="damped",
        source=Source(damping=1.0, curvature_sample=6),
    )
    assert (len(fitted), encoded.value("SELECT count(DISTINCT recipe) FROM exact_scores")) == (1, 2)
    rerank(encoded, "cosine-block", top=9, method="ekfac", name="larger", source=Source(curvature_sample=8))
    assert (len(fitted), encoded.value("SELECT count(DISTINCT recipe) FROM exact_scores")) == (2, 3)
    assert kept_in.read_bytes() != before
    kept_in.write_bytes(before[:1000])  # damaged: fitted once more
    rerank(encoded, "cosine-block", top=3, method="ekfac", name="mended", source=Source(curvature_sample=8))
    assert len(fitted) == 3
    assert len(kept_in.read_bytes()) == len(before)
    assert kept(encoded, "first") != kept(encoded, "damped")


def test_what_has_no_small_factors_is_refused_by_name(encoded: Store, folder: Path) -> None:
    ingest_gradients(encoded, model=folder, projection_dim=3, modules=".", name="all")
    with pytest.raises(InputError, match=r"encodes model.embed_tokens too.*Name an encoder of the layers"):
        rerank(encoded, "cosine-block", top=9, method="ekfac", source=Source(encoder="all"))
    state = folder / "adam.pt"
    ingest_gradients(
        encoded, model=folder, projection_dim=3, optimizer_state=state, correction="full", name="full"
    )
    with pytest.raises(InputError, match=r"made with correction full, which no Kronecker factors go with"):
        rerank(
            encoded, "cosine-block", top=9, method="cg", source=Source(encoder="full", optimizer_state=state)
        )
    with pytest.raises(InputError, match="damping 0"):
        Source(damping=0)
    assert encoded.value("SELECT count(*) FROM exact_scores") == 0
