"""Models that are no folder of safetensors: in memory with their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import attrstore
from attrstore.ingest.model import causal
from attrstore.ingest.model.memory import PLACE, InMemory
from tests import tiny

QUERIES = [("a b", " c"), ("north", " stone")]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with attrstore.open(tmp_path / "s.duckdb", create=True) as opened:
        tiny.fill(opened, tiny.sentences(12), QUERIES)
        yield opened


def codes(store: attrstore.Store, encoder: str) -> list[Any]:
    return store.rows(
        "SELECT example_id, code, scales, loss FROM encodings JOIN encoders USING (encoder_id) "
        "WHERE name = $name ORDER BY example_id",
        {"name": encoder},
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # gpt2 ties its head to its embedding
def test_a_model_in_memory_is_that_of_its_folder_bit_for_bit(
    store: attrstore.Store, tmp_path: Path, architecture: str
) -> None:
    folder = tiny.checkpoint(tmp_path / "model", architecture)
    state = tiny.adam_state(folder, architecture)
    model, tokenizer = tiny.model(architecture).train(), tiny.tokenizer()
    config = model.config.to_dict()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    fields: dict[str, Any] = {"projection_dim": 4, "code": "fp16", "optimizer_state": state}
    kept = store.encode_gradients(model=model, tokenizer=tokenizer, name="g", **fields)
    in_memory = codes(store, "g")
    assert kept.examples == len(in_memory) == 12
    assert store.value("SELECT path FROM models") == PLACE

    loaded = causal.load(folder)
    assert store.value("SELECT fingerprint FROM models") == loaded.fingerprint
    again = store.encode_gradients(
        model=folder, name="g", **fields
    )  # the same encoder: nothing is left to do
    assert again.examples == 0
    assert store.value("SELECT path FROM models") == str(folder)  # from now on it can be loaded
    store.execute("DELETE FROM encodings")
    store.encode_gradients(model=folder, name="g", **fields)
    assert codes(store, "g") == in_memory

    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert model.config.to_dict() == config


def test_every_job_that_runs_a_model_takes_one_in_memory(store: attrstore.Store, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    given = {"model": model, "tokenizer": tiny.tokenizer()}
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    store.encode_gradients(**given, projection_dim=4)
    assert store.value("SELECT path FROM models") == str(folder)  # where it came from, and still is
    store.encode_representations(**given)
    store.score("cosine-block")
    assert store.tail_patch(**given, top=2).pairs == 4
    assert store.ask("a b", " c", **given) == store.ask("a b", " c", model=folder)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    with pytest.raises(
        attrstore.MismatchError, match=rf"model {PLACE}: fingerprint \w+, and k4-halfbit was made"
    ):
        store.ask("a b", " c", **given)


def test_what_cannot_be_taken_from_memory_is_refused_with_the_fix(
    store: attrstore.Store, tmp_path: Path
) -> None:
    import peft

    model, tokenizer = tiny.model(), tiny.tokenizer()
    lora = peft.get_peft_model(tiny.model(), peft.LoraConfig(target_modules=["q_proj"]))
    cases: list[tuple[tuple[Any, Any], Any, str]] = [
        ((model, None), {}, r"LlamaForCausalLM: needs its tokenizer beside it. Give tokenizer="),
        ((lora, tokenizer), {}, r"PeftModel: not a plain model of transformers. Save one with an adapter"),
        ((lora.get_base_model(), tokenizer), {}, r"LlamaForCausalLM: not a plain model of transformers"),
        ((torch.nn.Linear(2, 2), tokenizer), {}, r"Linear: not a plain model of transformers"),
        ((tiny.model().bfloat16(), tokenizer), {}, "its weights are bfloat16, and dtype is float32. Give dtype bf"),
        ((tiny.model().to("meta"), tokenizer), {}, r"its weights are on meta. Move them to one device."),
        ((model, tokenizer), {"device": "cuda"}, r"it is on cpu, and device is cuda. Leave device out"),
    ]  # fmt: skip
    for given, options, reason in cases:
        with pytest.raises(attrstore.InputError, match=reason):
            store.encode_gradients(model=given[0], tokenizer=given[1], **options)
    store.encode_gradients(model=InMemory(model, tokenizer), projection_dim=2)
    store.score("cosine")
    with pytest.raises(
        attrstore.InputError, match=r"the store saw this model in memory only\. Give it with its"
    ):
        store.tail_patch()
    assert store.value("SELECT count(*) FROM encoders") == 1
