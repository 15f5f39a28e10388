"""The residual table against residuals computed one query and block at a time in float64."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

import attrstore
from attrstore.cli import main
from attrstore.errors import InputError
from attrstore.evaluation.diagnostics import diagnose
from attrstore.ingest.encode.gradients import ingest_gradients
from tests import test_inverse as formulas
from tests import tiny
from tests.test_scoring import QUERIES, vectors

N = 40


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnosed")
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES)
        model = tiny.checkpoint(folder / "model")
        ingest_gradients(store, model=model, projection_dim=formulas.K, code="fp16")
    return folder / "s.duckdb"


def test_every_residual_and_cosine_equals_the_formula(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        diagnose(store, damping=0.5, iterations=[4, 1])
        rows = store.rows("SELECT method, iterations, block, n_queries, residual, cosine FROM residuals")
        q, z, blocks = vectors(store)
    ways: dict[tuple[str, int | None], Callable[..., np.ndarray]] = {
        ("exact", None): formulas.exact,
        ("identity", None): lambda v, zb, damping: v / formulas.hessian(zb, damping).trace() * len(v),
        ("datainf", None): formulas.datainf,
        ("kfac", None): formulas.kfac,
        ("ekfac", None): formulas.ekfac,
        **{("cg", n): formulas.conjugate_gradients for n in (1, 4)},
        **{("lissa", n): formulas.lissa for n in (1, 4)},
    }
    assert len(rows) == len(ways) * len(blocks)
    of_name = {block.name: block for block in blocks}
    for method, iterations, name, n_queries, residual, cosine in rows:
        block = of_name[name]
        where = slice(block.offset, block.offset + block.length)
        steps = {} if iterations is None else {"iterations": iterations}
        residuals, cosines = [], []
        for phi in q[:, where]:
            if not np.linalg.norm(phi):
                continue
            psi = ways[method, iterations](phi, z[:, where], damping=0.5, **steps)
            exact = formulas.exact(phi, z[:, where], damping=0.5)
            h = formulas.hessian(z[:, where], 0.5)
            residuals.append(np.linalg.norm(h @ psi - phi) / np.linalg.norm(phi))
            cosines.append(psi @ exact / np.linalg.norm(psi) / np.linalg.norm(exact))
        assert n_queries == len(residuals)
        assert residual == pytest.approx(np.mean(residuals), rel=2e-3, abs=1e-5), (method, iterations, name)
        assert cosine == pytest.approx(np.mean(cosines), abs=2e-4), (method, iterations, name)


def test_cg_and_lissa_converge_and_the_view_says_so_without_python(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        returned = diagnose(store, iterations=[1, 10, 100])
    with duckdb.connect(str(encoded), read_only=True) as connection:
        found = {
            (method, iterations): (residual, worst, cosine)
            for method, iterations, residual, worst, cosine in connection.execute(
                "SELECT method, iterations, residual, worst_residual, cosine FROM residual_report WHERE damping = 0.1"
            ).fetchall()
        }
    assert {(row[0], row[1]): row[2] for row in returned} == {key: value[0] for key, value in found.items()}
    for method in ("cg", "lissa"):
        first, tenth, last = (found[method, n][0] for n in (1, 10, 100))
        assert first > 1.5 * tenth > 3 * last, method
    assert found["cg", 100][1] < 1e-6
    assert found["cg", 100][2] == pytest.approx(1)
    assert found["exact", None][1] < 1e-10


def test_a_second_run_replaces_its_rows_and_keeps_other_dampings(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        diagnose(store, damping=1.0, iterations=[1, 2])
        diagnose(store, damping=2.0, iterations=[3])
        before = store.rows("SELECT * FROM residuals WHERE damping = 1 ORDER BY ALL")
        diagnose(store, damping=2.0, iterations=[4])
        assert store.rows("SELECT * FROM residuals WHERE damping = 1 ORDER BY ALL") == before
        steps = "SELECT DISTINCT iterations FROM residuals WHERE damping = 2 AND iterations IS NOT NULL"
        assert store.rows(steps) == [(4,)]


def test_bad_options_and_the_command(encoded: Path, tmp_path: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        for options, message in (
            ({"damping": 0.0}, "needs a damping above 0"),
            ({"iterations": [0, 1]}, "must be at least 1"),
            ({"iterations": []}, "must be at least 1"),
            ({"encoder": "x"}, "no gradient encoder of that name"),
        ):
            with pytest.raises(InputError, match=message):
                diagnose(store, **options)
    with (
        attrstore.open(tmp_path / "empty.duckdb", create=True) as store,
        pytest.raises(InputError, match="no gradient encodings yet"),
    ):
        diagnose(store)
    result = CliRunner().invoke(main, ["diagnose", str(encoded), "--iterations", "1,3"])
    assert result.exit_code == 0, result.output
    assert re.search(r"Means over \d+ blocks of at most \d+ queries; encoder \S+, model \S+\.", result.output)
    for way in ("exact", "identity", "datainf", "kfac", "ekfac", "cg", "lissa"):
        assert way in result.output
    assert CliRunner().invoke(main, ["diagnose", str(encoded), "--iterations", "1,x"]).exit_code == 2
