"""A model whose weights lie on disk until a layer is run: the encodings are those of the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import attrstore
from attrstore.errors import InputError
from attrstore.ingest.model import offload
from attrstore.vectors import encoders, stored
from tests import tiny

TEXTS = tiny.sentences(12)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the embedding and one of the two layers; the rest stays on disk."""
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: {"cpu": 18_000})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tiny.checkpoint(tmp_path / "model")
    tiny.adam_state(folder)
    return folder


def vectors(path: Path, model: Path, modules: str | None, **fields: Any) -> dict[str, torch.Tensor]:
    """Encode with both encoders, and return the corpus's and the queries' vectors."""
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, TEXTS, [("a b c", " d"), ("north of", " river")])
        store.encode_gradients(model=model, projection_dim=4, code="fp16", modules=modules, **fields)
        store.encode_representations(model=model, code="fp16", **fields)
        found = {}
        for encoder in encoders.load_all(store):
            found[encoder.encoder_id] = torch.cat(
                list(stored.corpus_rows(store, encoder, torch.device("cpu")))
            )
            found[f"{encoder.encoder_id} queries"] = stored.query_vectors(store, encoder)[1]
        losses = store.rows(
            "SELECT loss FROM encodings WHERE loss IS NOT NULL ORDER BY encoder_id, example_id"
        )
        found["losses"] = torch.tensor(losses)
    return found


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("modules", [None, "."])
def test_an_offloaded_model_encodes_as_the_whole_one_does(
    tmp_path: Path, model: Path, modules: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vectors(tmp_path / "whole.duckdb", model, modules)
    placed: list[dict[str, Any]] = []
    tidy = offload.tidy

    def watched(loaded: Any, spread: dict[str, Any]) -> None:
        placed.append(dict(loaded.hf_device_map))
        assert {p.device.type for p in loaded.parameters()} == {"cpu", "meta"}
        tidy(loaded, spread)

    monkeypatch.setattr(offload, "tidy", watched)
    spread = vectors(tmp_path / "spread.duckdb", model, modules, device="offload")
    assert len(placed) == 2
    assert all("disk" in map(str, where.values()) for where in placed)
    assert spread.keys() == whole.keys()  # the same encoders
    for name, expected in whole.items():
        torch.testing.assert_close(spread[name], expected, rtol=2e-3, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.usefixtures("small_memory")
def test_what_cannot_be_offloaded_is_refused_by_name(tmp_path: Path, model: Path) -> None:
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, TEXTS, [("a", " b")])
        dispatched = transformers.AutoModelForCausalLM.from_pretrained(model, **offload.placement())
        with pytest.raises(InputError, match=r"its weights are on cpu, meta\. .* with device offload"):
            store.encode_gradients(model=dispatched, tokenizer=tiny.tokenizer())
        with pytest.raises(InputError, match="device offload: there is no such device"):
            store.encode_embeddings(model=model, device="offload")
