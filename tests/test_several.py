"""Methods over several encoders, against sums and cosines of the stored vectors in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import Store
from attrstore.cli import main
from attrstore.errors import InputError, MismatchError
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.scoring import score
from attrstore.vectors import encoders, scan
from tests import tiny
from tests.test_scoring import LABELS, QUERIES

N = 40


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one architecture, the first one also with its optimizer's state."""
    folder = tmp_path_factory.mktemp("several")
    first, second = tiny.checkpoint(folder / "first"), tiny.checkpoint(folder / "second", seed=1)
    recipe: dict[str, Any] = {"projection_dim": 4, "code": "fp16"}
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES, LABELS)
        ingest_gradients(store, model=first, name="first", **recipe)
        ingest_gradients(store, model=second, name="second", **recipe)
        ingest_gradients(store, model=first, name="whitened", kronecker_factors=True, **recipe)
        ingest_gradients(
            store, model=first, name="adam",
            optimizer_state=tiny.adam_state(first), **recipe,
        )  # fmt: skip
    return folder / "s.duckdb"


def vectors(store: Store, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Queries and examples of an encoder as float64, from the stored bytes."""
    encoder = encoders.choose(store, "gradient", name)
    key = {"e": encoder.encoder_id}
    q = [
        np.frombuffer(vector, np.float32).astype(float)
        for (vector,) in store.rows(
            "SELECT vector FROM query_encodings WHERE encoder_id = $e ORDER BY query_id", key
        )
    ]
    z = []
    for code, scales in store.rows(
        "SELECT code, scales FROM encodings WHERE encoder_id = $e ORDER BY example_id", key
    ):
        phi = np.frombuffer(code, np.float16).astype(float)
        norms = (np.frombuffer(scales, np.uint16).astype(np.uint32) << 16).view(np.float32)
        for block, norm in zip(encoder.blocks, norms, strict=True):
            part = phi[block.offset : block.offset + block.length]
            part *= norm / max(float(np.linalg.norm(part)), 1e-30)
        z.append(phi)
    return np.stack(q), np.stack(z)


def found_scores(store: Store, name: str) -> np.ndarray:
    found = np.full((len(QUERIES), N), np.nan)
    for query, example, value in store.rows(
        "SELECT query_id, example_id, score FROM scores JOIN scorings USING (scoring_id) "
        "WHERE name = $n AND rank > 0",
        {"n": name},
    ):
        found[query, example] = value
    return found


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.isfinite(wanted).all()
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, wanted / largest, atol=2e-5)


def cosine(q: np.ndarray, z: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(q, axis=1, keepdims=True) * np.linalg.norm(z, axis=1)
    return np.asarray(q @ z.T / lengths)


@pytest.mark.parametrize("rows", [7, 1000])
def test_tracincp_is_the_weighted_sum_of_the_checkpoints(
    encoded: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(scan, "rows_at_once", lambda encoder: rows)
    with attrstore.open(encoded, writable=True) as store:
        (q1, z1), (q2, z2) = vectors(store, "first"), vectors(store, "second")
        made = score(store, "tracincp", top_k=N, encoders="first,second", weights="0.3,2")
        close(found_scores(store, "tracincp"), 0.3 * q1 @ z1.T + 2 * q2 @ z2.T)
        assert made.n_examples == N
        assert made.spec["weights"] == [0.3, 2.0]
        assert len(made.spec["encoders"]) == 2
        score(store, "tracincp", top_k=N, encoders=["second", "first"], norm="vector")
        close(found_scores(store, "tracincp"), cosine(q1, z1) + cosine(q2, z2))


def test_tracincp_gives_labelled_pairs_their_exact_rank(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        (q1, z1), (q2, z2) = vectors(store, "first"), vectors(store, "second")
        wanted = q1 @ z1.T + q2 @ z2.T
        score(store, "tracincp", top_k=1, encoders="first,second")
        rows = store.rows(
            "SELECT query_id, example_id, rank FROM scores JOIN scorings USING (scoring_id) WHERE name = 'tracincp'"
        )
    ranks = (-wanted).argsort(axis=1).argsort(axis=1) + 1
    placed = {(q, e): r if r > 0 else N + 1 + r for q, e, r in rows}
    assert set(LABELS) <= set(placed)
    assert all(ranks[q, e] == r for (q, e), r in placed.items())


def test_tracincp_leaves_out_what_one_checkpoint_could_not_encode(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        second = encoders.choose(store, "gradient", "second").encoder_id
        key = {"e": second}
        kept = store.rows("SELECT code FROM encodings WHERE encoder_id = $e AND example_id = 5", key)[0][0]
        store.execute("UPDATE encodings SET code = NULL WHERE encoder_id = $e AND example_id = 5", key)
        made = score(store, "tracincp", top_k=N, encoders="first,second", name="without")
        store.execute(
            "UPDATE encodings SET code = $code WHERE encoder_id = $e AND example_id = 5",
            {**key, "code": kept},
        )
        missing = np.isnan(found_scores(store, "without"))
    assert made.n_examples == N - 1
    assert missing[:, 5].all()
    assert missing.sum() == len(QUERIES)


def test_less_is_the_cosine_of_plain_queries_and_corrected_examples(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        (plain, _), (corrected, z) = vectors(store, "first"), vectors(store, "adam")
        made = score(store, "less", top_k=N)  # one encoder alone is corrected
        found = found_scores(store, "less")
        assert made.spec["query_encoder"] == encoders.choose(store, "gradient", "first").encoder_id
        score(store, "less", top_k=N, encoder="adam", query_encoder="first", name="named")
        np.testing.assert_array_equal(found, found_scores(store, "named"))
    close(found, cosine(plain, z))
    assert np.abs(found - cosine(corrected, z)).max() > 0.01  # which is what `cosine` would give


def test_bad_choices_of_encoders_change_nothing(encoded: Path) -> None:
    with attrstore.open(encoded, writable=True) as store:
        tables = ("SELECT * FROM scores ORDER BY ALL", "SELECT name FROM scorings ORDER BY 1")
        before = [store.rows(table) for table in tables]
        cases: list[tuple[str, dict[str, Any], str]] = [
            ("tracincp", {}, "encoders: needed"),
            ("tracincp", {"encoders": "first,"}, "none empty"),
            ("tracincp", {"encoders": "first,first"}, "the same encoder twice"),
            ("tracincp", {"encoders": "first,nothing"}, "no gradient encoder of that name"),
            ("tracincp", {"encoders": "first,second", "weights": "1"}, "1 for 2 encoders"),
            ("tracincp", {"encoders": "first,second", "weights": "1,x"}, "numbers with commas"),
            ("tracincp", {"encoders": "first,second", "weights": "1,nan"}, "numbers with commas"),
            ("tracincp", {"encoder": "first"}, "takes no encoder;"),
            ("less", {"encoder": "first"}, "corrected by the optimizer's state"),
            ("less", {"encoder": "whitened"}, "without Kronecker whitening"),
            ("less", {"encoder": "adam", "query_encoder": "none"}, "no gradient encoder of that name"),
        ]
        for method, options, message in cases:
            with pytest.raises(InputError, match=message):
                score(store, method, **options)
        for wrong in ("second", "whitened", "adam"):
            with pytest.raises(MismatchError, match=f"query_encoder {wrong}: does not go with adam"):
                score(store, "less", encoder="adam", query_encoder=wrong)
        assert before == [store.rows(table) for table in tables]


def test_the_commands(encoded: Path) -> None:
    for arguments in (
        ["tracincp", "--encoders", "first,second", "--weights", "1e-3,1e-4"],
        ["less", "--encoder", "adam", "--query-encoder", "first"],
        ["lissa", "--iterations", "5", "--encoder", "first"],
    ):
        result = CliRunner().invoke(main, ["score", str(encoded), *arguments])
        assert result.exit_code == 0, result.output
        assert f"{arguments[0]}: 40 of 40 examples ranked for" in result.output
