"""The corpus's curvature: over which rows, kept when, and never a stale one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.scoring import score
from attrstore.vectors import curvature, stored
from tests import tiny
from tests.test_scoring import QUERIES, vectors

if TYPE_CHECKING:
    from attrstore import Store

N, MORE = 100, 60  # so many that the curvature takes less than a tenth of the codes' bytes
DAMPING = 0.1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model"))


def ingest(store: Store, model: Path, texts: list[str], queries: list[tuple[str, str]]) -> None:
    tiny.fill(store, texts, queries)
    ingest_gradients(store, model=model, projection_dim=4, code="fp16")


def whitened(store: Store, rows: list[int]) -> np.ndarray:
    """The scores of `trak` in float64, with the curvature of these rows."""
    q, z, blocks = vectors(store)
    total = np.zeros((len(q), len(z)))
    for block in blocks:
        where = slice(block.offset, block.offset + block.length)
        r = z[rows, where].T @ z[rows, where] / len(rows)
        values, basis = np.linalg.eigh(r)
        values = values.clip(0) + DAMPING * values.clip(0).mean()
        total += q[:, where] @ (basis / values) @ basis.T @ z[:, where].T
    return total


def scores(store: Store, n: int) -> np.ndarray:
    score(store, "trak", top_k=n)
    found = np.full((len(QUERIES), n), np.nan)
    for query, example, value in store.rows("SELECT query_id, example_id, score FROM scores WHERE rank > 0"):
        found[query, example] = value
    return found


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, wanted / largest, atol=2e-3)  # the kept one is float16


def test_what_is_appended_counts_in_the_curvature(store: Store, model: Path) -> None:
    ingest(store, model, tiny.sentences(N), QUERIES)
    close(scores(store, N), whitened(store, list(range(N))))
    assert store.value("SELECT count(*) FROM curvatures") > 0
    ingest(store, model, tiny.sentences(MORE, seed=5, longest=4), [])
    stale, wanted = whitened(store, list(range(N))), whitened(store, list(range(N + MORE)))
    assert np.abs(stale - wanted).max() > 0.05 * np.abs(wanted).max()
    close(scores(store, N + MORE), wanted)


def test_a_second_score_reads_the_kept_curvature(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(store, model, tiny.sentences(N), QUERIES)
    first = scores(store, N)
    blocks = store.value("SELECT json_array_length(blocks) FROM encoders")
    assert store.rows("SELECT side, n, count(*) FROM curvatures GROUP BY ALL") == [("corpus", N, blocks)]

    def again(*_: Any) -> Any:
        raise AssertionError("the corpus was read again for its curvature")

    monkeypatch.setattr(stored, "corpus_rows", again)
    np.testing.assert_array_equal(scores(store, N), first)


def test_a_small_corpus_keeps_no_curvature(store: Store, model: Path) -> None:
    ingest(store, model, tiny.sentences(40), QUERIES)
    scores(store, 40)
    assert store.value("SELECT count(*) FROM curvatures") == 0


def test_a_large_corpus_is_sampled_by_a_hash_of_its_ids(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "CURVATURE_ROWS", 25)
    ingest(store, model, tiny.sentences(N), QUERIES)
    numbers = [int.from_bytes(hashlib.md5(str(i).encode()).digest(), "little") for i in range(N)]
    sample = [i for i, number in enumerate(numbers) if number % 4 == 0]
    assert 15 < len(sample) < 35
    close(scores(store, N), whitened(store, sample))


def test_mixing_damps_the_papers_share_of_the_components() -> None:
    """1,000 of 65,536 components (TrackStar, section 3), here 11 of 700: lambda weighs the eleventh of each alike."""
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for rate in (0.97, 0.9):
        spectrum = rate ** torch.arange(700)
        blocks.append(spectrum[torch.randperm(700, generator=generator)])
    of_corpus, of_queries = ([torch.diag(part) for part in block.split(350)] for block in blocks)
    c, q = 0.97**10, 0.9**10
    assert curvature.choose_mixing(of_corpus, of_queries) == pytest.approx(c / (c + q), rel=1e-5)
