"""What float32 leaves of a gradient that is zero has no direction, whatever the processor left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.scoring import score
from attrstore.vectors import encoders, stored
from attrstore.vectors.encoders import make_blocks
from attrstore.vectors.rounding import NOISE, is_rounding, silence
from tests import tiny

if TYPE_CHECKING:
    from attrstore import Store


def test_a_block_is_rounding_below_a_share_of_its_whole() -> None:
    squares = torch.tensor([[1.0, (2 * NOISE) ** 2, (NOISE / 2) ** 2], [0, 0, 0]], dtype=torch.float64)
    assert is_rounding(squares).tolist() == [[False, False, True], [True, True, True]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    blocks = make_blocks([("a", 2), ("b", 2)])
    vectors = torch.tensor([[value, 1.0, 1e-30, 1.0]])
    assert torch.equal(silence(vectors.clone(), blocks).nan_to_num(-5), vectors.nan_to_num(-5))


def test_silence_leaves_every_other_number() -> None:
    blocks = make_blocks([("a", 3), ("b", 3), ("c", 2)])
    vectors = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    vectors[1, 3:6] *= NOISE / 10
    vectors[2, 6:] *= NOISE / 10
    vectors[3] *= NOISE / 10  # all of it alike: nothing is rounding
    expected = vectors.clone()
    expected[1, 3:6] = expected[2, 6:] = 0
    assert torch.equal(silence(vectors, blocks), expected)


@pytest.mark.parametrize("recipe", [{}, {"rank": 1, "code": "1bit"}])
def test_queries_and_keys_of_a_text_of_two_tokens_weigh_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Any
) -> None:
    """One position attends to itself alone: the weights of its attention are 1, whatever query and key are."""
    folder = tiny.checkpoint(tmp_path / "model")
    tiny.fill(store, ["a b", "c d e f g"], [("a", " b"), ("c d e", " f")])
    usual = torch.nn.functional.scaled_dot_product_attention

    def rounded(query: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        # As a processor does whose softmax does not cancel exactly: 1e-9 of the query's direction.
        return usual(query, *args, **options) + 1e-9 * query

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", rounded)
    ingest_gradients(store, model=folder, projection_dim=8, **recipe)
    (encoder,) = encoders.load_all(store)
    blocks = [i for i, b in enumerate(encoder.blocks) if b.name.endswith(("q_proj", "k_proj"))]
    scales = store.rows("SELECT scales FROM encodings ORDER BY example_id")
    norms = torch.stack([torch.frombuffer(bytearray(s), dtype=torch.uint8) for (s,) in scales])
    norms = norms[:, : 2 * len(encoder.blocks)].contiguous().view(torch.bfloat16).float()
    assert norms[:, blocks].ne(0).tolist() == [[False] * 4, [True] * 4]
    _, vectors = stored.query_vectors(store, encoder)
    of_blocks = vectors[:, -len(encoder.blocks) :] if recipe else norms_of(vectors, encoder.blocks)
    assert of_blocks[:, blocks].ne(0).tolist() == [[False] * 4, [True] * 4]
    score(store, "cosine-block", top_k=2)
    assert store.value("SELECT count(*) FROM scores") == 4


def norms_of(vectors: torch.Tensor, blocks: Any) -> torch.Tensor:
    return torch.stack([vectors[:, b.offset : b.offset + b.length].norm(dim=1) for b in blocks], dim=1)
