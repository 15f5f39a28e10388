"""Encodings against gradients that torch.func computed, example by example, and projected in the open."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad

from attrstore.ingest.encode import kronecker, projection
from attrstore.ingest.encode.capture import GradientEncoder
from attrstore.ingest.model import linear, optimizer, sequences
from tests import tiny

K = 3
ARCHITECTURES = sorted(tiny.ARCHITECTURES)


def reference_gradients(
    model: Any, maps: list[linear.LinearMap], tokens: list[int], first: int
) -> dict[str, Tensor]:
    """Gradient of the summed loss of tokens[first:], for each map as out x in, in float64.

    A matrix that is the embedding and the head counts as two, one for each use.
    """
    parameters = model.double().named_parameters(remove_duplicate=False)
    double = {name: p.detach().double() for name, p in parameters}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        logits = functional_call(model, parameters, (torch.tensor([tokens]),), tie_weights=False).logits[0]
        log_probabilities = logits.log_softmax(dim=-1)
        total: Tensor = log_probabilities[range(first - 1, len(tokens) - 1), tokens[first:]].sum()
        return -total

    gradients = grad(loss)(double)
    model.float()
    return {m.name: m.oriented(gradients[f"{m.name}.weight"]) for m in maps}


def signs(key: str, n_rows: int, n_columns: int) -> np.ndarray:
    """The projection as its definition says, without torch."""
    if n_columns <= n_rows:
        return np.eye(n_columns)
    packed = np.frombuffer(hashlib.shake_256(key.encode()).digest((n_rows * n_columns + 7) // 8), np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[: n_rows * n_columns].reshape(n_rows, n_columns)
    matrix: np.ndarray = (bits * 2.0 - 1) / np.sqrt(n_rows)
    return matrix


def encode(model: Any, maps: list[linear.LinearMap], projections: dict[str, Any], items: list[Any]) -> Tensor:
    encoder = GradientEncoder(model.requires_grad_(False), maps, projections, lambda m: m.name)
    (batch,) = sequences.batches(items, 10_000)
    phi, losses = encoder.encode(batch)
    order = torch.tensor([item.key for item in batch.items]).argsort()
    assert torch.isfinite(losses).all()
    by_key: Tensor = phi[order]
    return by_key


@pytest.fixture(scope="module", params=ARCHITECTURES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, three texts and a query, with reference gradients of each."""
    model = tiny.model(request.param)
    maps = linear.find(model, ".")
    tokenizer = tiny.tokenizer()
    items = sequences.examples(enumerate(tiny.sentences(3, seed=1)), tokenizer, 32, "truncate")
    (query,) = sequences.queries([(3, "a b c", " stone river")], tokenizer, 32)
    items.append(query)
    references = [reference_gradients(model, maps, item.windows[0], item.first_target) for item in items]
    state = tiny.adam_state(tmp_path_factory.mktemp(request.param), request.param)
    return {"model": model, "maps": maps, "items": items, "references": references, "state": state}


def assert_close(phi: Tensor, expected: list[np.ndarray]) -> None:
    wanted = torch.from_numpy(np.stack(expected)).float()
    error = (phi - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert error.max() < 2e-5, error


def test_projected_gradients_equal_torch_func(world: dict[str, Any]) -> None:
    maps = world["maps"]
    projections = {m.name: projection.make(m, dim=K, seed=7, moment=None) for m in maps}
    phi = encode(world["model"], maps, projections, world["items"])
    expected = [
        np.concatenate(
            [
                (
                    signs(f"7/{m.name}/out", K, m.n_out)
                    @ g[m.name].numpy()
                    @ signs(f"7/{m.name}/in", K, m.n_in).T
                ).ravel()
                for m in maps
            ]
        )
        for g in world["references"]
    ]
    assert_close(phi, expected)


@pytest.mark.parametrize("correction", ["factored", "full"])
def test_optimizer_correction_divides_by_the_root_of_the_second_moment(
    world: dict[str, Any], correction: str
) -> None:
    model, maps = world["model"], world["maps"]
    moments = optimizer.second_moments(world["state"], model, maps, correction)
    projections = {m.name: projection.make(m, dim=K, seed=0, moment=moments[m.name]) for m in maps}
    phi = encode(model, maps, projections, world["items"])
    names = [name for name, _ in model.named_parameters()]
    saved = torch.load(world["state"], weights_only=True)["state"]
    expected = []
    for g in world["references"]:
        parts = []
        for m in maps:
            v = m.oriented(saved[names.index(m.weight)]["exp_avg_sq"].double()).numpy()
            if correction == "factored" or m.role != "layer":
                # Tokens that never occurred have a second moment of zero, and a floor.
                row, column = (part.clip(part.mean() * 1e-8) for part in (v.mean(axis=1), v.mean(axis=0)))
                root = np.sqrt(np.outer(row, column) / row.mean())
            else:
                # An entry that hardly moved is held to a thousandth of the mean, or its step would be all there is.
                root = np.sqrt(v.clip(v.mean() * 1e-3)) + 1e-8
            p_out, p_in = signs(f"0/{m.name}/out", K, m.n_out), signs(f"0/{m.name}/in", K, m.n_in)
            parts.append((p_out @ (g[m.name].numpy() / root) @ p_in.T).ravel())
        expected.append(np.concatenate(parts))
    assert_close(phi, expected)


def test_kronecker_whitening_uses_the_factors_of_the_sample(world: dict[str, Any]) -> None:
    model, maps, items = world["model"], world["maps"], world["items"][:3]
    model.requires_grad_(False)
    projections = {m.name: projection.make(m, dim=K, seed=0, moment=None) for m in maps}
    encoder = GradientEncoder(model, maps, projections, lambda m: m.name)
    kronecker.whiten(projections, maps, encoder.backward, list(sequences.batches(items, 10_000)))
    layers = [m for m in maps if m.role == "layer"]
    inputs, gradients = collect_tokens(model, layers, items)
    for m in layers:
        for side, rows, n in (("in", inputs[m.name], m.n_in), ("out", gradients[m.name], m.n_out)):
            factor = rows.T @ rows / len(rows)
            values, vectors = np.linalg.eigh(factor)
            values = values.clip(0) + 0.1 * values.clip(0).mean()  # a tenth: as every stored encoding has it
            expected = signs(f"0/{m.name}/{side}", K, n) @ (vectors * values**-0.5) @ vectors.T
            found = getattr(projections[m.name], f"p_{side}").double().numpy()
            assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def collect_tokens(
    model: Any, maps: list[linear.LinearMap], items: list[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and output gradients of every real token, text by text without padding, float64."""
    inputs: dict[str, list[np.ndarray]] = {m.name: [] for m in maps}
    gradients: dict[str, list[np.ndarray]] = {m.name: [] for m in maps}
    model.double().requires_grad_(True)
    handles = []
    for m in maps:

        def forward(_: Any, given: Any, out: Tensor, name: str = m.name) -> None:
            inputs[name].append(given[0][0].detach().numpy())
            out.register_hook(lambda g: gradients[name].append(g[0].numpy()))

        handles.append(m.module.register_forward_hook(forward))
    for item in items:
        tokens = torch.tensor(item.windows)
        logits = model(input_ids=tokens).logits
        torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum").backward()
    for handle in handles:
        handle.remove()
    model.float().requires_grad_(False)
    return (
        {n: np.concatenate(r) for n, r in inputs.items()},
        {n: np.concatenate(r) for n, r in gradients.items()},
    )


def test_windows_of_a_split_example_add_up() -> None:
    model = tiny.model()
    maps = linear.find(model, ".")
    projections = {m.name: projection.make(m, dim=K, seed=0, moment=None) for m in maps}
    text = " ".join(tiny.sentences(4, seed=3))
    (split,) = sequences.examples([(0, text)], tiny.tokenizer(), 8, "split")
    assert len(split.windows) > 2
    parts = [sequences.Item(i, [window]) for i, window in enumerate(split.windows)]
    whole = encode(model, maps, projections, [split])
    assert torch.allclose(whole[0], encode(model, maps, projections, parts).sum(dim=0), rtol=1e-4, atol=1e-5)


def test_padding_and_batch_mates_do_not_change_an_encoding() -> None:
    model = tiny.model()
    maps = linear.find(model, ".")
    projections = {m.name: projection.make(m, dim=K, seed=0, moment=None) for m in maps}
    items = sequences.examples(enumerate(tiny.sentences(6, seed=5)), tiny.tokenizer(), 32, "truncate")
    together = encode(model, maps, projections, items)
    for item in items:
        alone = encode(model, maps, projections, [sequences.Item(0, item.windows)])
        assert torch.allclose(alone[0], together[item.key], rtol=1e-4, atol=1e-5)


def test_trainer_groups_and_adafactor_states_are_matched(tmp_path: Path) -> None:
    model = tiny.model("gpt2")
    maps = linear.find(model, ".")
    names = [name for name, _ in model.named_parameters()]
    plain = [n for n in names if n.endswith("bias") or ".ln_" in n]
    order = [n for n in names if n not in plain] + plain
    shapes = {name: p.shape for name, p in model.named_parameters()}
    state = {i: {"exp_avg_sq": torch.full(shapes[n], float(names.index(n) + 1))} for i, n in enumerate(order)}
    groups = [
        {"params": list(range(len(order) - len(plain)))},
        {"params": list(range(len(order) - len(plain), len(order)))},
    ]
    torch.save({"state": state, "param_groups": groups}, tmp_path / "trainer.pt")
    moments = optimizer.second_moments(tmp_path / "trainer.pt", model, maps, "full")
    for m in maps:
        moment = moments[m.name]
        values = (
            moment.values if isinstance(moment, optimizer.Full) else torch.outer(*moment) / moment.row.mean()
        )
        assert float(values.mean()) == pytest.approx(names.index(m.weight) + 1)

    def factors(shape: torch.Size) -> dict[str, Tensor]:
        if len(shape) != 2:
            return {"exp_avg_sq": torch.ones(shape)}
        rows, columns = (torch.arange(1.0, n + 1) for n in shape)
        return {"exp_avg_sq_row": rows, "exp_avg_sq_col": columns}

    rows = {i: factors(shapes[n]) for i, n in enumerate(names)}
    torch.save(
        {"state": rows, "param_groups": [{"params": list(range(len(names)))}]}, tmp_path / "adafactor.pt"
    )
    factored = optimizer.second_moments(tmp_path / "adafactor.pt", model, maps, "factored")
    for m in maps:  # GPT-2 keeps weights as in x out, so the state's columns are the outputs
        moment = factored[m.name]
        assert isinstance(moment, optimizer.Factored)
        assert moment.row.tolist() == list(range(1, m.n_out + 1))
        assert moment.column.tolist() == list(range(1, m.n_in + 1))


def test_bfloat16_stays_close_to_float32() -> None:
    """bfloat16 keeps 8 bits, so a sum over layers should keep its direction to about one per cent."""
    items = sequences.examples(enumerate(tiny.sentences(6, seed=5)), tiny.tokenizer(), 32, "truncate")
    encodings = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny.model().to(dtype)
        maps = linear.find(model, ".")
        projections = {m.name: projection.make(m, dim=K, seed=0, moment=None) for m in maps}
        encodings.append(encode(model, maps, projections, items))
    single, half = encodings
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(single, half, dim=1).min() > 0.99
