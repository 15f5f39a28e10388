"""The inverse-Hessian methods against their formulas in float64, written out example by example."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attrstore
from attrstore.errors import InputError
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.scoring import score
from attrstore.vectors import solvers
from attrstore.vectors.encoders import Block
from attrstore.workflows.ask import ask
from tests import tiny
from tests.test_scoring import LABELS, QUERIES, vectors

N = 40
K = 4
DAMPING = 0.1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    path = tmp_path_factory.mktemp("encoded") / "s.duckdb"
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES, LABELS)
        ingest_gradients(store, model=model, projection_dim=K, code="fp16")
    return path


def hessian(z: np.ndarray, damping: float) -> np.ndarray:
    r = np.zeros((z.shape[1], z.shape[1]))
    for row in z:
        r += np.outer(row, row) / len(z)
    return np.asarray(r + damping * np.trace(r) / len(r) * np.eye(len(r)))


def exact(q: np.ndarray, z: np.ndarray, damping: float) -> np.ndarray:
    return np.linalg.solve(hessian(z, damping), q)


def lissa(q: np.ndarray, z: np.ndarray, damping: float, iterations: int) -> np.ndarray:
    h = hessian(z, damping)
    scale = np.linalg.eigvalsh(h).max()
    current = q
    for _ in range(iterations):
        current = q + (np.eye(len(h)) - h / scale) @ current
    return np.asarray(current / scale)


def conjugate_gradients(q: np.ndarray, z: np.ndarray, damping: float, iterations: int) -> np.ndarray:
    """The best point of the Krylov space in the norm of H: what the recursion computes in exact arithmetic."""
    h = hessian(z, damping)
    space = np.stack([np.linalg.matrix_power(h / np.trace(h), n) @ q for n in range(iterations)], axis=1)
    basis, _ = np.linalg.qr(space)
    return np.asarray(basis @ np.linalg.solve(basis.T @ h @ basis, basis.T @ q))


def datainf(q: np.ndarray, z: np.ndarray, damping: float) -> np.ndarray:
    d = len(q)
    lam = damping * sum(row @ row for row in z) / len(z) / d
    solved = [np.linalg.inv(np.outer(row, row) + lam * np.eye(d)) @ q for row in z]
    return np.asarray(np.mean(solved, axis=0))


def factors(z: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    mats = [row.reshape(rows, -1) for row in z]
    g, a = np.mean([m @ m.T for m in mats], axis=0), np.mean([m.T @ m for m in mats], axis=0)
    return np.asarray(g), np.asarray(a)


def kfac(q: np.ndarray, z: np.ndarray, damping: float, rows: int = K) -> np.ndarray:
    g, a = factors(z, rows)
    g_damped = g + np.sqrt(damping) * np.trace(g) / len(g) * np.eye(len(g))
    a_damped = a + np.sqrt(damping) * np.trace(a) / len(a) * np.eye(len(a))
    return np.linalg.solve(np.kron(g_damped, a_damped) / np.trace(g), q)


def ekfac(q: np.ndarray, z: np.ndarray, damping: float, rows: int = K) -> np.ndarray:
    g, a = factors(z, rows)
    basis = np.kron(np.linalg.eigh(g)[1], np.linalg.eigh(a)[1])
    seconds = np.mean([(basis.T @ row) ** 2 for row in z], axis=0)
    h = basis @ np.diag(seconds + damping * seconds.mean()) @ basis.T
    return np.linalg.solve(h, q)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays one: a text of two tokens has no gradient in queries and keys."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-30))


def expected(store: Any, psi_of: Callable[..., np.ndarray], norm: str, **options: Any) -> np.ndarray:
    """Scores [q, n] by the formula."""
    q, z, blocks = vectors(store)
    psi = np.zeros_like(q)
    for block in blocks:
        where = slice(block.offset, block.offset + block.length)
        for row in range(len(q)):
            psi[row, where] = psi_of(q[row, where], z[:, where], **options)
        if norm == "block":
            psi[:, where] = unit(psi[:, where]) / len(blocks)
            z[:, where] = unit(z[:, where])
    if norm == "vector":
        psi, z = unit(psi), unit(z)
    scores: np.ndarray = psi @ z.T
    return scores


def all_scores(store: Any, name: str) -> np.ndarray:
    rows = store.rows(
        "SELECT query_id, example_id, score FROM scores JOIN scorings USING (scoring_id) "
        "WHERE name = $n AND rank > 0",
        {"n": name},
    )
    found = np.full((len(QUERIES), N), np.nan)
    for query, example, value in rows:
        found[query, example] = value
    return found


@pytest.mark.parametrize(
    ("method", "options", "psi_of", "norm", "formula"),
    [
        ("influence", {}, exact, "none", {"damping": DAMPING}),
        ("influence", {"norm": "vector", "damping": 1.0}, exact, "vector", {"damping": 1.0}),
        ("influence", {"norm": "block"}, exact, "block", {"damping": DAMPING}),
        ("cg", {"iterations": 3}, conjugate_gradients, "none", {"damping": DAMPING, "iterations": 3}),
        ("cg", {}, exact, "none", {"damping": DAMPING}),
        ("lissa", {"iterations": 7}, lissa, "none", {"damping": DAMPING, "iterations": 7}),
        ("lissa", {}, lissa, "none", {"damping": DAMPING, "iterations": 50}),
        ("datainf", {}, datainf, "none", {"damping": DAMPING}),
        ("datainf", {"damping": 2.0, "norm": "block"}, datainf, "block", {"damping": 2.0}),
        ("kfac", {}, kfac, "none", {"damping": DAMPING}),
        ("ekfac", {}, ekfac, "none", {"damping": DAMPING}),
        ("ekfac", {"damping": 0.5, "norm": "vector"}, ekfac, "vector", {"damping": 0.5}),
    ],
)
def test_scores_equal_the_formula(
    encoded: Path,
    method: str,
    options: dict[str, Any],
    psi_of: Callable[..., np.ndarray],
    norm: str,
    formula: dict[str, Any],
) -> None:
    with attrstore.open(encoded, writable=True) as store:
        made = score(store, method, top_k=N, **options)
        found = all_scores(store, method)
        wanted = expected(store, psi_of, norm, **formula)
    assert made.n_examples == N
    assert made.spec["damping"] == formula["damping"]
    assert np.isfinite(wanted).all()
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, wanted / largest, atol=2e-4)


def test_a_mixed_curvature_is_inverted_too(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        score(store, "influence", top_k=N, curvature="mixed", mixing=0.3)
        found = all_scores(store, "influence")
        q, z, blocks = vectors(store)
        wanted = np.zeros((len(q), len(z)))
        for block in blocks:
            where = slice(block.offset, block.offset + block.length)
            qb, zb = q[:, where], z[:, where]
            r = 0.3 * qb.T @ qb / len(qb) + 0.7 * zb.T @ zb / len(zb)
            h = r + DAMPING * np.trace(r) / len(r) * np.eye(len(r))
            wanted += np.linalg.solve(h, qb.T).T @ zb.T
    assert np.isfinite(wanted).all()
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, wanted / largest, atol=2e-4)


def system_of(seed: int = 0, d: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """An ill-conditioned H with eigenvalues 1 to 1/100, and three vectors."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    h = (basis * torch.logspace(0, -2, d, dtype=torch.float64)) @ basis.T
    return h, torch.randn(3, d, generator=generator, dtype=torch.float64)


def residuals(h: torch.Tensor, v: torch.Tensor, steps: Any, at: list[int]) -> list[float]:
    found = {}
    for n in at:
        x = solvers.after(steps(h, v), n).numpy()
        found[n] = float(np.linalg.norm(x @ h.numpy() - v.numpy()) / np.linalg.norm(v.numpy()))
    return [found[n] for n in at]


def test_solvers_converge_to_numpys_solution() -> None:
    h, v = system_of()
    wanted = np.linalg.solve(h.numpy(), v.numpy().T).T
    np.testing.assert_allclose(solvers.cholesky(h, v).numpy(), wanted, rtol=1e-10)
    np.testing.assert_allclose(
        solvers.after(solvers.conjugate_gradients(h, v), 40).numpy(), wanted, rtol=1e-7
    )
    np.testing.assert_allclose(solvers.after(solvers.lissa(h, v), 3000).numpy(), wanted, rtol=1e-7)
    by_lissa = residuals(h, v, solvers.lissa, [1, 5, 20, 100, 500])
    assert all(later < 0.9 * earlier for earlier, later in pairwise(by_lissa))
    by_cg = residuals(h, v, solvers.conjugate_gradients, [1, 4, 8, 12])
    assert by_cg[-1] < 1e-6 < 1e-2 < by_cg[0]
    assert by_cg[2] < by_lissa[3]  # eight steps of one beat a hundred of the other


def test_conjugate_gradients_stop_and_bear_a_zero_vector() -> None:
    h, v = system_of()
    v[1] = 0
    steps = list(solvers.conjugate_gradients(h, v))
    assert len(steps) < 20
    assert steps[-1].isfinite().all()
    assert not steps[-1][1].any()


def test_the_scale_of_lissa_is_the_largest_eigenvalue() -> None:
    h, _ = system_of()
    assert 0.9 < solvers.largest_eigenvalue(h) <= 1 + 1e-12


def test_a_block_without_gradients_scores_zero_and_harms_nothing() -> None:
    blocks = (Block("a", 0, 4), Block("b", 4, 4))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 8, generator=generator)
    rows[:, 4:] = 0
    queries = torch.randn(2, 8, generator=generator)
    queries[:, 4:] = 0
    system = solvers.System(
        blocks=blocks,
        shapes=lambda: [(2, 2), (2, 2)],
        matrices=lambda: [rows[:, :4].T @ rows[:, :4] / 9, torch.zeros(4, 4)],
        rows=lambda: iter(rows.split(5)),
        damping=0.1,
        iterations=10,
    )
    for name, solver in solvers.SOLVERS.items():
        psi = solver(system, queries)
        assert psi.isfinite().all(), name
        assert psi[:, :4].abs().min() > 0, name
        assert not psi[:, 4:].any(), name


def test_factors_of_a_kronecker_product_give_the_exact_inverse() -> None:
    """Where R is a Kronecker product and the damping is small, K-FAC and EK-FAC are exact."""
    generator = torch.Generator().manual_seed(1)
    g, a = (torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (2, 3))
    # Phi = g E_ij a over every unit matrix E_ij: E[phi phi^T] is (g g^T) (x) (a^T a) / 6
    units = torch.eye(6, dtype=torch.float64).view(6, 2, 3)
    rows = (g @ units @ a).flatten(1).float()
    queries = torch.randn(4, 6, generator=generator)
    r = rows.double().T @ rows.double() / 6
    system = solvers.System(
        blocks=(Block("m", 0, 6),), shapes=lambda: [(2, 3)], matrices=lambda: [r.float()],
        rows=lambda: iter([rows]), damping=1e-9, iterations=1,
    )  # fmt: skip
    wanted = np.linalg.solve(r.numpy(), queries.double().numpy().T).T
    for name, tolerance in (("ekfac", 1e-3), ("kfac", 1e-2)):
        found = solvers.SOLVERS[name](system, queries).numpy()
        assert np.abs(found - wanted).max() < tolerance * np.abs(wanted).max(), name


def test_bad_options_change_nothing(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        tables = ("SELECT * FROM scores ORDER BY ALL", "SELECT name FROM scorings ORDER BY 1")
        before = [store.rows(table) for table in tables]
        for method, options, message in (
            ("influence", {"damping": 0.0}, "needs a damping above 0"),
            ("influence", {"curvature": "none"}, "nothing to invert"),
            ("influence", {"iterations": 3}, "takes no iterations"),
            ("cg", {"iterations": 0}, "must be at least 1"),
            ("lissa", {"iterations": -2}, "must be at least 1"),
            ("datainf", {"curvature": "mixed"}, "takes no curvature"),
            ("kfac", {"mixing": 0.5}, "takes no mixing"),
            ("ekfac", {"damping": -1.0}, "damping -1: must be at least 0"),
        ):
            with pytest.raises(InputError, match=message):
                score(store, method, **options)
        assert before == [store.rows(table) for table in tables]


@pytest.mark.parametrize(("method", "psi_of"), [("kfac", kfac), ("ekfac", ekfac)])
def test_modules_smaller_than_the_projection_have_factors_of_their_own_sizes(
    tmp_path: Path, model: Path, method: str, psi_of: Callable[..., np.ndarray]
) -> None:
    shapes = {
        "q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16),
        "gate_proj": (18, 16), "up_proj": (18, 16), "down_proj": (16, 18),
        "embed_tokens": (16, 18), "lm_head": (18, 16),
    }  # fmt: skip
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES, LABELS)
        ingest_gradients(store, model=model, projection_dim=18, code="fp16", modules=".")
        score(store, method, top_k=N)
        found = all_scores(store, method)
        q, z, blocks = vectors(store)
    psi = np.zeros_like(q)
    for block in blocks:
        rows, columns = shapes[block.name.rsplit(".", 1)[-1]]
        assert (block.rows, block.length) == (rows, rows * columns)
        where = slice(block.offset, block.offset + block.length)
        for row in range(len(q)):
            psi[row, where] = psi_of(q[row, where], z[:, where], damping=DAMPING, rows=rows)
    wanted = psi @ z.T
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, wanted / largest, atol=5e-4)


def test_a_block_that_is_not_square_and_of_unknown_shape_is_refused(tmp_path: Path, model: Path) -> None:
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(6), QUERIES)
        ingest_gradients(store, model=model, projection_dim=20)
        store.execute(
            """UPDATE encoders SET blocks = (SELECT to_json(list(struct_pack(
               name := b ->> 'name', "offset" := (b ->> 'offset')::INT, length := (b ->> 'length')::INT)))
               FROM (SELECT unnest(blocks::JSON[]) AS b))"""
        )
        score(store, "influence")
        for method in ("kfac", "ekfac"):
            with pytest.raises(InputError, match=r"is not a 20 x 20 matrix"):
                score(store, method)


def test_a_single_prompt_can_be_asked_by_an_inverse_method(encoded: Path, model: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        score(store, "ekfac", top_k=5)
        wanted = store.rows(
            "SELECT external_id, score FROM scores JOIN scorings USING (scoring_id) JOIN examples USING (example_id) "
            "WHERE name = 'ekfac' AND query_id = 0 AND rank BETWEEN 1 AND 5 ORDER BY rank"
        )
        answer = ask(store, *QUERIES[0], method="ekfac", model=model)
    assert [example for _, example, _, _ in answer.influence] == [example for example, _ in wanted]
    assert [value for _, _, value, _ in answer.influence] == pytest.approx(
        [value for _, value in wanted], rel=1e-4
    )
