"""Optimizers' states as people have them: each is read as what torch's AdamW would hold, or refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from attrstore.errors import InputError
from attrstore.ingest.model import linear, optimizer
from tests import tiny


def trained(kind: Any, **settings: Any) -> tuple[Any, Any]:
    """A model after two steps, and its optimizer."""
    model = tiny.model().train()
    made = kind(model.parameters(), lr=1e-3, **settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        tokens = torch.randint(2, 28, (4, 9), generator=generator)
        model(input_ids=tokens, labels=tokens).loss.backward()
        made.step()
    return model, made


@pytest.fixture(scope="module")
def adamw() -> tuple[Any, Any]:
    return trained(torch.optim.AdamW)


def saved(folder: Path, content: object, name: str = "state.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def test_transformers_adafactor_gives_its_own_second_moment(tmp_path: Path) -> None:
    model, made = trained(transformers.Adafactor, relative_step=False, scale_parameter=False)
    file = saved(tmp_path, made.state_dict())
    full = optimizer.second_moments(file, model, linear.find(model), "full")
    factored = optimizer.second_moments(file, model, linear.find(model), "factored")
    parameters = dict(model.named_parameters())
    for linear_map in linear.find(model):
        own = made.state[parameters[linear_map.weight]]
        row, column = own["exp_avg_sq_row"].double(), own["exp_avg_sq_col"].double()
        expected = torch.outer(row / row.mean(), column)
        moment, factors = full[linear_map.name], factored[linear_map.name]
        assert isinstance(moment, optimizer.Full)
        assert isinstance(factors, optimizer.Factored)
        expected_full = expected.clamp(min=float(expected.mean()) * optimizer.FLOOR)
        assert torch.allclose(moment.values.double(), expected_full, rtol=1e-5, atol=0)
        assert torch.allclose(factors.row.double(), row, rtol=1e-6)
        assert torch.allclose(factors.column.double(), column, rtol=1e-6)
    (norm,) = (
        m for name, m in optimizer.parameter_moments(file, model).items() if name == "model.norm.weight"
    )
    assert torch.equal(norm.values, made.state[parameters["model.norm.weight"]]["exp_avg_sq"])
    assert norm.beta2 == pytest.approx(1 - 3**-0.8)  # Adafactor's decay in its third step


def test_states_by_name_flattened_and_wrapped_are_those_of_torch(
    adamw: tuple[Any, Any], tmp_path: Path
) -> None:
    model, made = adamw
    expected = optimizer.parameter_moments(saved(tmp_path, made.state_dict(), "torch.pt"), model)
    by_name: Any = get_optimizer_state_dict(model, made, options=StateDictOptions(full_state_dict=True))
    flat = get_optimizer_state_dict(
        model, made, options=StateDictOptions(full_state_dict=True, flatten_optimizer_state_dict=True)
    )
    wrapped = {
        "state": {f"_fsdp_wrapped_module.{name}": entry for name, entry in by_name["state"].items()},
        "param_groups": [
            {**group, "params": [f"_fsdp_wrapped_module.{name}" for name in group["params"]]}
            for group in by_name["param_groups"]
        ],
    }
    for content in (by_name, flat, wrapped, {"model": {}, "optimizer": by_name}):
        found = optimizer.parameter_moments(saved(tmp_path, content), model)
        assert found.keys() == expected.keys()
        for name, moment in found.items():
            assert torch.equal(moment.values, expected[name].values)
            assert moment[1:] == expected[name][1:]  # epsilon, beta2, bias, rate
    name = "model.layers.0.mlp.up_proj.weight"
    by_name["state"][name]["exp_avg_sq"] = torch.ones(3, 3)
    with pytest.raises(InputError, match=r"up_proj.weight is \(3, 3\) there and \(24, 16\) in the model"):
        optimizer.second_moments(saved(tmp_path, by_name), model, linear.find(model), "factored")


def in_8_bits(values: torch.Tensor, hidden: bool) -> dict[str, Any]:
    """Quantise as bitsandbytes does: of each 256 numbers the largest, and each one's place in a table."""
    table = torch.linspace(0, 1, 256) ** 3
    blocks = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % 256)).view(-1, 256)
    scales = blocks.amax(dim=1)
    shares = (blocks / scales[:, None]).flatten()[: values.numel()]
    codes = (shares[:, None] - table).abs().argmin(dim=1).to(torch.uint8).view(values.shape)
    quantised = {
        "state1": codes,
        "state2": codes,
        "qmap1": table,
        "qmap2": table,
        "absmax1": scales,
        "absmax2": scales,
    }
    return {"step": 2, "__bnb_optimizer_quant_state__": quantised} if hidden else {"step": 2, **quantised}


@pytest.mark.parametrize("hidden", [False, True])
def test_bitsandbytes_states_are_made_whole(adamw: tuple[Any, Any], tmp_path: Path, hidden: bool) -> None:
    model, made = adamw
    state = copy.deepcopy(made.state_dict())
    expected = optimizer.parameter_moments(saved(tmp_path, state, "torch.pt"), model)
    for entry in state["state"].values():
        whole = entry["exp_avg_sq"]
        small = {
            "step": 2,
            "state1": whole,
            "state2": whole,
        }  # bitsandbytes leaves small parameters in 32 bits
        state_of = in_8_bits(whole, hidden) if whole.numel() > 300 else small
        entry.clear()
        entry.update(state_of)
    found = optimizer.parameter_moments(saved(tmp_path, state), model)
    for name, moment in found.items():
        wanted = expected[name].values
        if wanted.numel() <= 300:
            assert torch.equal(moment.values, wanted)
        else:  # half the table's widest step, of the largest in the block
            assert float((moment.values - wanted).abs().max()) <= float(wanted.max()) * 3 / 255 / 2
            assert not torch.equal(moment.values, wanted)
        assert moment[1:] == expected[name][1:]


def test_what_cannot_be_read_is_named_with_the_fix(adamw: tuple[Any, Any], tmp_path: Path) -> None:
    model, made = adamw
    one = copy.deepcopy(made.state_dict())
    one["state"][0] = {"step": 2, "state1": one["state"][0]["exp_avg"]}
    lone = copy.deepcopy(made.state_dict())
    lone["state"][0] = {
        "step": 2,
        "state1": torch.zeros(1),
        "state2": torch.zeros(40, 16, dtype=torch.uint8),
        "max2": 1,
    }
    shards = tmp_path / "optimizer_0"
    shards.mkdir()
    for file, reason in (
        (saved(tmp_path, one), "state of parameter 0 has one moment .of Lion.*Encode without it"),
        (
            saved(tmp_path, lone, "lone.pt"),
            "parameter 0 is not quantised in blocks .it has step, state1, state2, max2",
        ),
        (
            saved(tmp_path, {"zero_stage": 2}, "ds.pt"),
            "a DeepSpeed state, flattened across parameters. Train with",
        ),
        (
            saved(tmp_path, {}, "zero_pp_rank_0_mp_rank_00_optim_states.pt"),
            "a rank's part of a DeepSpeed state",
        ),
        (shards, "a folder. FSDP's shards .*dcp_to_torch_save; give that"),
        (saved(tmp_path, {"state": {}, "x": 1}, "half.pt"), "not an optimizer's state_dict"),
    ):
        with pytest.raises(InputError, match=reason):
            optimizer.parameter_moments(file, model)
