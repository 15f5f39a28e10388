"""Mixtures of experts whose experts are one parameter: refused by name, unless what is encoded was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import attrstore
from tests import tiny

COMMON: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_experts_per_tok": 2, "max_position_embeddings": 32, "use_cache": False,
}  # fmt: skip
# Attention has q, k, v, o of 16 x 16, 8 x 16, 8 x 16, 16 x 16; of three experts each has 2 x 24 x 16 + 16 x 24, or
# 2 x 8 x 16 + 16 x 8. The router is 3 x 16 and no torch.nn.Linear.
MIXTURES = {
    "mixtral": (transformers.MixtralConfig(num_local_experts=3, **COMMON), 3456 / (3456 + 768)),
    "qwen3": (
        transformers.Qwen3MoeConfig(num_experts=3, moe_intermediate_size=8, head_dim=8, **COMMON),
        1152 / (1152 + 768),
    ),
}


@pytest.mark.parametrize("kind", list(MIXTURES))
def test_stacked_experts_are_never_left_out_in_silence(path: Path, tmp_path: Path, kind: str) -> None:
    config, share = MIXTURES[kind]
    folder = tmp_path / kind
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(4), [("a", " b")])
        with pytest.raises(attrstore.InputError, match="a stack of matrices as of experts") as caught:
            store.encode_gradients(model=folder, projection_dim=4)
        assert f"That would leave out {share:.0%} of the layers' matrices" in str(caught.value)
        assert "model.layers.0.mlp.experts.gate_up_proj is (3, " in str(caught.value)
        assert str(caught.value).endswith("modules self_attn")
        assert store.value("SELECT count(*) FROM models") == 0
        assert store.encode_gradients(model=folder, projection_dim=4, modules="self_attn").examples == 4
        (blocks,) = store.rows("SELECT list_sort((blocks->>'$[*].name')) FROM encoders")[0]
        assert blocks == [f"model.layers.0.self_attn.{part}_proj" for part in "koqv"]
