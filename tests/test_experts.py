"""Mixtures of experts whose experts are one parameter: each one's gradients are exact, and what is left out is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.func import functional_call, grad

import attrstore
from attrstore.ingest.encode import projection
from attrstore.ingest.encode.capture import GradientEncoder, hooked
from attrstore.ingest.encode.low_rank import LowRankEncoder
from attrstore.ingest.measure import ekfac
from attrstore.ingest.measure.exact import ExactGradients
from attrstore.ingest.model import linear, optimizer, sequences
from tests import tiny

COMMON: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_experts_per_tok": 2, "max_position_embeddings": 32, "use_cache": False,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
CONFIGS = {
    "mixtral": lambda: transformers.MixtralConfig(num_local_experts=3, **COMMON),
    "qwen3": lambda: transformers.Qwen3MoeConfig(
        num_experts=3, moe_intermediate_size=8, head_dim=8, **COMMON
    ),
    # transposed, with biases, gate and up in turn, and a gate of its own
    "gpt-oss": lambda: transformers.GptOssConfig(
        num_local_experts=3, head_dim=8, layer_types=["full_attention"], **COMMON
    ),
}
# The second is so short that it does not reach every expert.
ITEMS = [
    sequences.Item(0, [[3, 7, 1, 30, 2, 9, 11]]),
    sequences.Item(1, [[5, 6]]),
    sequences.Item(2, [[8, 8, 4]]),
]


def mixture(kind: str) -> Any:
    """A small mixture, seeded; its weights are frozen."""
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
    for parameter in model.parameters():  # experts begin at zero where a class leaves them so
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def exact(model: Any, kind: str, maps: list[linear.LinearMap]) -> list[torch.Tensor]:
    """Each item's gradients by torch.func in float64, map after map: float64 [numbers]."""
    plain = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval().double()
    plain.load_state_dict(model.state_dict())
    plain.config._experts_implementation = "eager"  # the fast ones know no float64
    parameters = {name: parameter.detach() for name, parameter in plain.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], tokens: torch.Tensor) -> Any:
        logits = functional_call(plain, parameters, (tokens.unsqueeze(0),)).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum")

    found = []
    for item in ITEMS:
        gradients = grad(loss)(parameters, torch.tensor(item.windows[0]))
        whole = [gradients[m.weight] if m.expert is None else gradients[m.weight][m.expert] for m in maps]
        found.append(torch.cat([m.oriented(g).flatten() for m, g in zip(maps, whole, strict=True)]))
    return found


def whole_projections(maps: list[linear.LinearMap]) -> dict[str, Any]:
    """Those that leave every gradient as it is."""
    return {m.name: projection.make(m, dim=64, seed=0, moment=None) for m in maps}


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_gradients_of_each_expert_are_those_of_torch_func(kind: str) -> None:
    model = mixture(kind)
    maps = linear.find(model)
    assert [m.name for m in maps if m.expert is not None] == [
        f"model.layers.0.mlp.experts.{expert}.{own}" for expert in range(3) for own in ("gate_up_proj", "down_proj")
    ]  # fmt: skip
    (batch,) = sequences.batches(ITEMS, 1000)
    expected = dict(enumerate(exact(model, kind, maps)))
    encoder = GradientEncoder(model, maps, whole_projections(maps), lambda m: m.name)
    phi, _ = encoder.encode(batch)
    for row, item in zip(phi.double(), batch.items, strict=True):
        assert torch.allclose(row, expected[item.key], rtol=1e-4, atol=1e-6), item.key
    # A token's parts add up to the product with any direction, and re-ranking has the same products.
    parts = encoder.token_parts(batch, phi[:1]).sum(dim=(1, 3))[:, 0]
    products = phi.double() @ phi[0].double()
    assert torch.allclose(parts, products, rtol=1e-4, atol=1e-6)
    reranked = ExactGradients(model, maps, whole_projections(maps), lambda m: m.name)
    for formed in (False, True):
        reranked.hold([batch], formed=formed)
        found = reranked.products(batch, [torch.tensor([0])] * 3)
        assert torch.allclose(torch.stack([p.sum() for p in found.of_pairs]), products, rtol=1e-4, atol=1e-6)
    moments = torch.cat([part.flatten() for part in reranked.moments([batch]).values()])
    assert torch.allclose(moments, phi.square().mean(dim=0), rtol=1e-3, atol=1e-8)
    fitted = ekfac.fit(model, maps, whole_projections(maps), [batch])
    assert all(part.isfinite().all() for of_map in fitted.values() for part in of_map)
    # Codes of low rank keep each map's strongest pair and its norm.
    low_rank = LowRankEncoder(model, maps, whole_projections(maps), rank=1, query_rank=1)
    norms = low_rank.encode(batch)[0][:, -2 * len(maps) : -len(maps)]
    by_hand = torch.stack([phi[:, b.offset : b.offset + b.length].norm(dim=1) for b in encoder.blocks], dim=1)
    assert torch.allclose(norms, by_hand, rtol=1e-3, atol=1e-6)
    assert all("forward" not in vars(module) for module in model.modules())  # it is as it was


def test_a_mixture_whose_weights_are_fetched_layer_by_layer() -> None:
    """accelerate wraps a module's forward to fetch its weights: that goes on around the experts, and stays after."""
    from accelerate import cpu_offload

    model = mixture("mixtral")
    maps = linear.find(model)
    (batch,) = sequences.batches(ITEMS, 1000)
    with torch.no_grad():
        expected = model(input_ids=batch.tokens).logits
    cpu_offload(model, execution_device=torch.device("cpu"))
    stack = model.model.layers[0].mlp.experts
    assert stack.down_proj.is_meta
    wrapped = stack.forward
    seen: list[str] = []

    def take(m: linear.LinearMap, inputs: torch.Tensor) -> Any:
        seen.append(m.name)
        return lambda gradient: None

    watched = [m for m in maps if m.expert is not None]
    with hooked(watched, batch, take), torch.enable_grad():
        found = model(input_ids=batch.tokens).logits
    assert seen == [m.name for m in watched]
    assert torch.allclose(found, expected, atol=1e-5)
    assert stack.forward is wrapped


def test_an_optimizer_s_state_has_a_part_for_each_expert(tmp_path: Path) -> None:
    model = mixture("mixtral")
    maps = linear.find(model)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    torch.manual_seed(0)
    v = {name: torch.rand(shape) + 0.1 for name, shape in shapes.items()}
    entries: dict[str, dict[int, dict[str, torch.Tensor]]] = {
        "adamw": {i: {"exp_avg_sq": part, "step": torch.tensor(3.0)} for i, part in enumerate(v.values())},
        "adafactor": {
            i: {"exp_avg_sq_row": part.mean(dim=-1), "exp_avg_sq_col": part.mean(dim=-2)}
            if part.ndim > 1
            else {"exp_avg_sq": part}
            for i, part in enumerate(v.values())
        },
    }
    for kind, state in entries.items():
        file = tmp_path / f"{kind}.pt"
        groups = [{"params": list(state), "lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8}]
        torch.save({"state": state, "param_groups": groups}, file)
        moments = optimizer.second_moments(file, model, maps, "factored")
        for m in maps:
            part = v[m.weight] if m.expert is None else v[m.weight][m.expert]
            moment = moments[m.name]
            assert isinstance(moment, optimizer.Factored)
            assert torch.allclose(moment.row, part.mean(dim=1)), (kind, m.name)
            assert torch.allclose(moment.column, part.mean(dim=0)), (kind, m.name)


def test_a_mixture_from_its_folder_to_an_answer(path: Path, tmp_path: Path) -> None:
    """What was trained on is the strongest proponent of itself; `info` names what is left out, with its share."""
    model = mixture("qwen3")
    model.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, ["a b c", "n o p", "e f g h"], [("n", " o p")])
        made = store.encode_gradients(model=tmp_path / "model", projection_dim=64, code="fp16")
        assert made.examples == 3
        store.score("cosine")
        assert store.value("SELECT example FROM influence WHERE rank = 1") == "e-1"
        assert store.value("SELECT spec ->> 'experts' FROM encoders") == "true"
        (described,) = store.info()["encoders"]
        # Attention 768, experts 1,152; the embedding and the head 640 each, five norms of 16 or 8, a router of 48.
        assert described["weights_encoded"] == pytest.approx(1920 / (1920 + 1280 + 64 + 48))
        assert described["weights_left_out"] == (
            "output head 19.3%, token embedding 19.3%, norms 1.9%, Qwen3MoeTopKRouter 1.4%"
        )
        store.encode_gradients(model=tmp_path / "model", projection_dim=4, modules="self_attn")
        assert store.rows(
            "SELECT part, weights FROM encoder_weights JOIN encoders USING (encoder_id) "
            "WHERE NOT encoded AND name LIKE '%self_attn' ORDER BY weights DESC LIMIT 1"
        ) == [("experts", 1152)]


def test_other_stacks_are_never_left_out_in_silence(path: Path, tmp_path: Path) -> None:
    """Llama 4 multiplies its stack of experts at once, in no way that can be watched."""
    sizes = COMMON | {"intermediate_size_mlp": 24, "head_dim": 8}
    config = transformers.Llama4TextConfig(num_local_experts=3, interleave_moe_layer_step=1, **sizes)
    folder = tmp_path / "llama4"
    transformers.Llama4ForCausalLM(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(4), [("a", " b")])
        with pytest.raises(
            attrstore.InputError, match="a stack of matrices that is not computed as"
        ) as caught:
            store.encode_gradients(model=folder, projection_dim=4)
        assert "experts.gate_up_proj is (3, 16, 48)" in str(caught.value)
        assert str(caught.value).endswith("modules self_attn")
        assert store.value("SELECT count(*) FROM models") == 0
        assert store.encode_gradients(model=folder, projection_dim=4, modules="self_attn").examples == 4
