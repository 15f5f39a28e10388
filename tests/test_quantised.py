"""Adapters on bases of 4 and 8 bits (QLoRA): their gradients are those on the same base with its weights made whole."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import attrstore
from attrstore.ingest.model import optimizer
from tests import tiny

bitsandbytes = pytest.importorskip(
    "bitsandbytes", reason="bitsandbytes quantises the base: pip install bitsandbytes"
)
pytest.importorskip("accelerate", reason="transformers loads quantised weights with it")
pytestmark = pytest.mark.filterwarnings("ignore")

BITS: dict[int, dict[str, Any]] = {
    4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    8: {"load_in_8bit": True},
}


def whole() -> Any:
    """A tiny Llama whose sides bitsandbytes' blocks of 64 divide."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, **tiny.COMMON,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def folders(folder: Path, bits: int) -> dict[str, Path]:
    """A quantised base, the same made whole again, and one adapter on each."""
    import peft

    config = transformers.BitsAndBytesConfig(**BITS[bits])
    load = transformers.AutoModelForCausalLM.from_pretrained
    trained = saved(whole(), folder / "trained")
    made = {"base": saved(load(trained, quantization_config=config, dtype=torch.float32), folder / "base")}
    base, again = load(made["base"], dtype=torch.float32), whole()
    for name, module in base.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            values = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            values = module.weight.data.float() * (module.weight.SCB[:, None] / 127)
        else:
            continue
        again.get_submodule(name).weight.data = values.float()
    made["whole"] = saved(again, folder / "whole")
    torch.manual_seed(1)
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    made["adapter"] = saved(peft.get_peft_model(base, lora), folder / "adapter")
    made["plain"] = Path(shutil.copytree(made["adapter"], folder / "plain"))
    described = json.loads((made["plain"] / "adapter_config.json").read_text())
    described["base_model_name_or_path"] = str(made["whole"])
    (made["plain"] / "adapter_config.json").write_text(json.dumps(described))
    return made


@pytest.mark.parametrize(("bits", "far"), [(4, 1e-5), (8, 1e-3)])  # 8 bits multiply activations of 8 bits
@pytest.mark.parametrize(("quantised", "like"), [("adapter", "plain"), ("base", "whole")])
def test_gradients_are_those_of_the_weights_made_whole(
    path: Path, tmp_path: Path, bits: int, far: float, quantised: str, like: str
) -> None:
    made = folders(tmp_path, bits)
    texts = [
        text for text in tiny.sentences(12) if len(text.split()) > 2
    ]  # of two the attention has no gradient
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, texts, [("a b", " c"), ("d", " e f")])
        for name in (quantised, like):
            store.encode_gradients(model=made[name], name=name, projection_dim=64, code="fp16")
        found: dict[str, list[Any]] = {quantised: [], like: []}
        for name, code, loss in store.rows(
            "SELECT name, code, loss FROM encodings JOIN encoders USING (encoder_id) ORDER BY example_id"
        ):
            found[name].append((torch.frombuffer(bytearray(code), dtype=torch.float16).float(), loss))
        assert len(found[like]) == len(texts) > 5
        for (one, loss), (other, wanted) in zip(found[quantised], found[like], strict=True):
            assert float(torch.cosine_similarity(one, other, dim=0)) > 1 - far
            assert loss == pytest.approx(wanted, rel=1e-3)
        store.index_lexical()
        store.score("bm25")
        store.score("cosine-block", encoder=quantised)
        assert len(store.rows("FROM compare('cosine-block', 'bm25')")) > 0
        step = partial(store.tail_patch, model=made[quantised], scorings=["cosine-block"], top=1)
        if quantised == "base":
            with pytest.raises(attrstore.InputError, match="is quantised, and no step moves it"):
                step()
        else:
            assert step().pairs == 2


def saved_state(file: Path, kind: Any) -> tuple[Any, Path]:
    """A model after three steps, and its optimizer's state."""
    model = whole().train()
    steps, drawn = kind(model.parameters(), lr=1e-4), torch.Generator().manual_seed(0)
    for _ in range(3):
        tokens = torch.randint(2, 28, (4, 9), generator=drawn)
        steps.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        steps.step()
    torch.save(steps.state_dict(), file)
    return model, file


@pytest.mark.parametrize(("kind", "far"), [("AdamW8bit", 0.02), ("AdamW32bit", 1e-6)])
def test_states_that_bitsandbytes_itself_saved(tmp_path: Path, kind: str, far: float) -> None:
    """Beside torch's AdamW after the same steps; `far` is a share of the largest second moment."""
    theirs, wanted = (
        optimizer.parameter_moments(file, model)
        for model, file in (
            saved_state(tmp_path / "theirs.pt", getattr(bitsandbytes.optim, kind)),
            saved_state(tmp_path / "torch.pt", torch.optim.AdamW),
        )
    )
    assert theirs.keys() == wanted.keys()
    for name, moment in theirs.items():
        values = wanted[name].values
        assert float((moment.values - values).abs().max()) <= far * float(values.max()), name


def test_a_state_of_lion_is_refused(tmp_path: Path) -> None:
    model, file = saved_state(tmp_path / "lion.pt", bitsandbytes.optim.Lion8bit)
    with pytest.raises(attrstore.InputError, match=r"has one moment \(of Lion, RMSprop"):
        optimizer.parameter_moments(file, model)
