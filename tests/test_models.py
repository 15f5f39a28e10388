"""Models that are no folder of safetensors: in memory with their tokenizers, GGUF files."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner

import attrstore
from attrstore.cli import main
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


def wide() -> Any:
    """A tiny Llama of sides that GGUF's blocks of 32 divide."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, **tiny.COMMON,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def gguf_file(file: Path, quantised: bool = False) -> Path:
    """Write the tiny Llama as GGUF with a byte-level tokenizer, as llama.cpp's converter lays it out."""
    import gguf

    model = wide()
    config = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    spaced = [f"Ġ{letter}" for letter in "abcdefghijk"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|endoftext|>", *tiny.WORDS[1:28], "Ġ", *spaced])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges([f"Ġ {word[1:]}" for word in spaced])
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        n = heads.get(name.split(".")[-2])
        if n is not None:  # llama.cpp rotates neighbours, and transformers halves
            weight = weight.unflatten(0, (n, 2, -1)).transpose(1, 2).flatten(0, 2)
        values, kind = weight.contiguous().numpy(), None
        if quantised and weight.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.quants.quantize(values, kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("quantised", [False, True])
def test_a_gguf_file_is_a_model(
    store: attrstore.Store, tmp_path: Path, capfd: pytest.CaptureFixture[str], quantised: bool
) -> None:
    (tmp_path / "model").mkdir()
    file = gguf_file(tmp_path / "model" / "tiny.gguf", quantised)
    done = CliRunner().invoke(main, ["ingest", "gradients", str(store.path), "--model", str(file), "-h"])
    assert "GGUF" in done.output
    store.encode_gradients(model=file, projection_dim=4, code="fp16", name="file")
    assert "quantizing" not in capfd.readouterr().err  # transformers' bar
    assert store.rows("SELECT fingerprint, path FROM models") == [
        (hashlib.sha256(file.read_bytes()).hexdigest()[:16], str(file))
    ]
    assert store.encode_gradients(model=file.parent, projection_dim=4, code="fp16", name="file").examples == 0

    expected = wide().state_dict()
    loaded = causal.load(file)
    for name, weight in loaded.model.state_dict().items():
        # Q8_0 has 127 steps to the largest of 32 weights.
        far = float(expected[name].abs().max()) / 127 if quantised and weight.ndim == 2 else 0
        assert float((weight - expected[name]).abs().max()) <= far / 2 * 1.01, name
    # The same weights saved as safetensors give the same codes.
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    store.encode_gradients(model=tmp_path / "saved", projection_dim=4, code="fp16", name="saved")
    assert codes(store, "saved") == codes(store, "file")
    assert store.ask("a b", " c", encoder="file").probability  # from where ingest saw it


def test_gguf_files_that_cannot_be_used_are_named(
    store: attrstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF no more")
    with pytest.raises(attrstore.InputError, match=r"which file\? Give one: .*a\.gguf, .*b\.gguf"):
        store.encode_gradients(model=tmp_path)
    with pytest.raises(attrstore.InputError, match=r"a\.gguf: no tokenizer can be loaded"):
        store.encode_gradients(model=tmp_path / "a.gguf")
    with pytest.raises(attrstore.InputError, match=r"c\.gguf: no such file"):
        store.encode_gradients(model=tmp_path / "c.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(attrstore.InputError, match=r'needs gguf, .*pip install "attrstore\[gguf\]"'):
        store.encode_gradients(model=tmp_path / "a.gguf")
    assert store.value("SELECT count(*) FROM models") == 0
