"""Folders that are not what they say: each is refused in a line that names it, and the store stays as it was."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import attrstore
from attrstore.cli import main
from tests import tiny

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint_and_state(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def filled(path: Path) -> Path:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(3), [("a b", " c")])
    return path


def edit(file: Path, **changed: Any) -> None:
    content = json.loads(file.read_text())
    for key, value in changed.items():
        content[key] = value
    file.write_text(json.dumps(content))


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def truncate(file: Path, n: int = 200) -> None:
    file.write_bytes(file.read_bytes()[:n])


def elsewhere(folder: Path) -> None:
    """Weights that an index file finds in another folder."""
    other = folder.parent / "other"
    other.mkdir()
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(other / WEIGHTS)
    save_file({"unused": torch.zeros(1)}, folder / "some.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, f"../other/{WEIGHTS}")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BERT = {"architectures": ["BertLMHeadModel"], "model_type": "bert", "hidden_size": 16, "vocab_size": 40,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}  # fmt: skip

BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda f: shutil.rmtree(f), "no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json holds a list"),
    "config of wrong types": (lambda f: edit(f / "config.json", hidden_size="wide"), "hidden_size"),
    "context of a wrong type": (lambda f: edit(f / "config.json", max_position_embeddings=[1]), "position_embeddings"),
    "unknown architecture": (lambda f: edit(f / "config.json", model_type="none"), "cannot be loaded|tokenizer"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no weights"),
    "truncated weights": (lambda f: truncate(f / WEIGHTS), "cannot be loaded"),
    "truncated tensors": (lambda f: truncate(f / WEIGHTS, 6000), "cannot be loaded"),
    "weights that are text": (lambda f: (f / WEIGHTS).write_text("weights"), "cannot be loaded"),
    "a missing tensor": (
        lambda f: weights(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")), "lack model.layers.1.mlp.up_proj",
    ),
    "a missing head": (lambda f: weights(f, lambda t: t.pop("lm_head.weight")), "lack lm_head.weight"),
    "one layer more": (lambda f: edit(f / "config.json", num_hidden_layers=3), "lack model.layers.2"),
    "one layer less": (lambda f: edit(f / "config.json", num_hidden_layers=1), "hold model.layers.1"),
    "another width": (lambda f: edit(f / "config.json", intermediate_size=32), "another shape of model.layers.0.mlp"),
    "a BERT config": (lambda f: (f / "config.json").write_text(json.dumps(BERT)), "lack "),
    "quantised without its package": (
        lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "cannot be loaded",
    ),
    "no tokenizer": (lambda f: remove(f, "tokenizer*"), "tokenizer"),
    "tokenizer is no JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
    "tokenizer of wrong types": (lambda f: edit(f / "tokenizer.json", model=[1, 2]), "tokenizer"),
    "a larger tokenizer": (
        lambda f: small(f), "tokens up to number 31",
    ),
    "weights elsewhere": (elsewhere, "not a file of this folder"),
    "an index that is a list": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"), "holds a list",
    ),
    "weights named elsewhere": (
        lambda f: edit(f / "config.json", transformers_weights="../model.safetensors"), "not a file of this folder",
    ),
    "an adapter config that is a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "holds a list"),
    "an adapter of a base that is a number": (
        lambda f: ((f / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": 3}'),
                   shutil.copy(f / WEIGHTS, f / "adapter_model.safetensors")), "no path",
    ),
}  # fmt: skip


def small(folder: Path) -> None:
    """A model of 20 words, whose tokenizer has 32."""
    edit(folder / "config.json", vocab_size=20)
    weights(folder, shrink)


def remove(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()


def shrink(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:20].clone()


def refused(store: Path, *arguments: str | Path) -> str:
    """The one line on stderr of a command that fails and leaves the store as it was."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert result.output.startswith("Error: ")
    assert len(result.output.strip().splitlines()) == 1
    with attrstore.open(store) as opened:
        for table in ("encoders", "encodings", "models"):
            assert opened.value(f"SELECT count(*) FROM {table}") == 0
    return str(result.output)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_in_one_line(filled: Path, folder: Path, name: str) -> None:
    if "adapter" in name:
        pytest.importorskip("peft")
    break_it, problem = BROKEN[name]
    break_it(folder)
    message = refused(filled, "ingest", "gradients", filled, "--model", folder, "--projection-dim", "4")
    assert str(folder) in message
    assert re.search(problem, message), message


def test_tied_weights_are_not_missing(filled: Path, tmp_path: Path) -> None:
    tied = tiny.model("gpt2")  # GPT-2 saves its embedding once, for both ends
    tied.save_pretrained(tmp_path / "tied")
    tiny.tokenizer().save_pretrained(tmp_path / "tied")
    command = ["ingest", "gradients", str(filled), "--model", str(tmp_path / "tied"), "--projection-dim", "4"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output


STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "groups that are a number": (lambda s: s.update(param_groups=3), "state_dict"),
    "groups without parameters": (lambda s: s.update(param_groups=[{}]), "state_dict"),
    "a state that is a list": (lambda s: s.update(state=[1]), "state_dict"),
    "entries that are numbers": (lambda s: s["state"].update(dict.fromkeys(s["state"], 1.0)), "state_dict"),
    "moments that are numbers": (
        lambda s: [e.update(exp_avg_sq=1.0, exp_avg=1.0) for e in s["state"].values()], "torch.optim's",
    ),
    "moments of nothing": (lambda s: [e.pop("exp_avg_sq") for e in s["state"].values()], "second moment"),
    "moments that are not finite": (
        lambda s: [e["exp_avg_sq"].fill_(float("nan")) for e in s["state"].values()], "not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_malformed_optimizer_state_is_refused(filled: Path, folder: Path, name: str) -> None:
    state = torch.load(folder / "adam.pt", weights_only=True)
    STATES[name][0](state)
    torch.save(state, folder / "bad.pt")
    message = refused(
        filled, "ingest", "gradients", filled, "--model", folder, "--optimizer-state", folder / "bad.pt"
    )
    assert "bad.pt" in message
    assert STATES[name][1] in message


@pytest.mark.parametrize(
    ("file", "content"),
    [("modules.json", "3"), ("modules.json", '[{"type": 1}]'), ("config_sentence_transformers.json", "[1]"),
     ("sentence_bert_config.json", '{"max_seq_length": "long"}')],
)  # fmt: skip
def test_a_malformed_embedding_folder_is_refused(filled: Path, folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    message = refused(filled, "ingest", "embeddings", filled, "--model", folder)
    assert str(folder) in message


@pytest.mark.parametrize("command", ["gradients", "representations", "embeddings"])
def test_a_name_that_is_no_folder_is_not_looked_up(
    filled: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def lookup(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket.socket, "connect", lookup)
    message = refused(filled, "ingest", command, filled, "--model", "some/typo")
    assert "--model some/typo: no such folder" in message
    assert not asked
