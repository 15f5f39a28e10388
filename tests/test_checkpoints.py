"""Checkpoints side by side: the job against models in float64, the views against numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from scipy import stats

import attrstore
from attrstore import AttrstoreError, InputError, Store
from attrstore.cli import main
from attrstore.errors import MismatchError
from attrstore.ingest.measure.checkpoints import compare_checkpoints
from tests import tiny
from tests.scored import add, add_ranking

QUERIES = [("a b c", " d"), ("north of the", " river stone"), ("e", " f"), ("a", "")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return [tiny.checkpoint(root / f"step-{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def asked(store: Store) -> Store:
    tiny.fill(store, [], QUERIES)
    return store


def parameters(folder: Path) -> torch.Tensor:
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def logprobs(folder: Path, seed: int) -> list[float]:
    """Of each query's target, through the model's own forward in float64."""
    tokenizer, model = tiny.tokenizer(), tiny.model(seed=seed).double()
    sums = []
    for prompt, target in QUERIES[:3]:
        tokens, start = tokenizer(prompt + target)["input_ids"], len(tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            chances = model(torch.tensor([tokens])).logits[0].log_softmax(dim=1)
        sums.append(sum(float(chances[i - 1, tokens[i]]) for i in range(start, len(tokens))))
    return sums


def test_both_kinds_of_change_equal_an_independent_computation(asked: Store, folders: list[Path]) -> None:
    rows = compare_checkpoints(asked, folders)
    assert [(Path(row[0]).name, Path(row[1]).name) for row in rows] == [
        ("step-0", "step-1"), ("step-0", "step-2"), ("step-1", "step-2"),
    ]  # fmt: skip
    for row in rows:
        seeds = [int(row[side][-1]) for side in (0, 1)]
        a, b = (parameters(folders[seed]) for seed in seeds)
        cosine = torch.cosine_similarity(a, b, dim=0)
        assert row[2:5] == pytest.approx(
            (float((b - a).norm()), float((b - a).norm() / a.norm()), float(cosine))
        )
        before, after = (logprobs(folders[seed], seed) for seed in seeds)
        deltas = [y - x for x, y in zip(before, after, strict=True)]
        assert row[5] == 3  # the query without a target is not measured
        assert row[6:8] == pytest.approx((sum(deltas) / 3, sum(map(abs, deltas)) / 3), abs=1e-5)
        assert row[8] <= row[7] <= row[9]
        assert row[10] == pytest.approx(sum(d > 0 for d in deltas) / 3)
        assert row[11] == pytest.approx(spearman(before, after))
    assert asked.rows("SELECT count(*), any_value(status) FROM query_losses WHERE loss IS NULL")[0][0] == 3
    assert asked.value("SELECT max(parameters) FROM checkpoint_changes") == len(parameters(folders[0]))
    per_module = asked.rows(
        "SELECT module, tensors, parameters FROM module_changes WHERE module LIKE '%q_proj%'"
    )
    assert per_module == [("model.layers.*.self_attn.q_proj.weight", 2, 512)] * 3


def spearman(one: list[float], other: list[float]) -> float:
    return float(stats.spearmanr(one, other).statistic)


def test_only_what_is_missing_is_measured(asked: Store, folders: list[Path]) -> None:
    compare_checkpoints(asked, folders[:2])
    kept = [asked.rows(f"FROM {table} ORDER BY ALL") for table in ("query_losses", "parameter_changes")]
    compare_checkpoints(asked, folders[:2])
    assert kept == [
        asked.rows(f"FROM {table} ORDER BY ALL") for table in ("query_losses", "parameter_changes")
    ]
    asked.execute("INSERT INTO queries VALUES (9, 'q-9', 'b', ' c', NULL, 0)")
    compare_checkpoints(asked, folders)
    tensors = len(load_file(folders[0] / "model.safetensors"))
    assert asked.rows("SELECT job, rows, state FROM runs ORDER BY run_id") == [
        ("compare-checkpoints", 2 * 4 + tensors, "finished"),
        ("compare-checkpoints", 0, "finished"),
        ("compare-checkpoints", 2 * 1 + 5 + 2 * tensors, "finished"),
    ]
    assert set(kept[0]) < set(asked.rows("FROM query_losses"))


def test_batches_do_not_change_a_loss(asked: Store, path: Path, folders: list[Path]) -> None:
    compare_checkpoints(asked, folders[:2], batch_tokens=1)
    with attrstore.open(path.with_name("other.duckdb"), create=True) as other:
        tiny.fill(other, [], QUERIES)
        compare_checkpoints(other, folders[:2])
        whole = other.rows("SELECT loss FROM query_losses ORDER BY model_fingerprint, query_id")
    alone = asked.rows("SELECT loss FROM query_losses ORDER BY model_fingerprint, query_id")
    for (one,), (many,) in zip(alone, whole, strict=True):
        assert one is many is None or one == pytest.approx(many, abs=1e-5)


def test_bad_calls_leave_the_store_as_it_was(
    store: Store, asked: Store, folders: list[Path], tmp_path: Path
) -> None:
    other = tiny.checkpoint(tmp_path / "gpt2", "gpt2")
    calls: list[tuple[list[Path], type[AttrstoreError], str]] = [
        ([folders[0]], InputError, "give it twice or more"),
        ([folders[0], folders[0]], InputError, "the same model as"),
        ([folders[0], other], MismatchError, r"lm_head.weight is missing, and in .*step-0 \[40, 16\]"),
        ([folders[0], tmp_path], InputError, r"no weights"),
    ]
    for models, kind, message in calls:
        with pytest.raises(kind, match=message):
            compare_checkpoints(asked, models)
        assert asked.value("SELECT count(*) FROM parameter_changes") == 0
    asked.execute("DELETE FROM queries")
    with pytest.raises(InputError, match="no queries yet"):
        compare_checkpoints(asked, folders)


def test_command_prints_the_table(path: Path, folders: list[Path]) -> None:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, [], QUERIES)
    models = [part for folder in folders[:2] for part in ("--model", str(folder))]
    result = CliRunner().invoke(main, ["compare-checkpoints", str(path), *models])
    assert result.exit_code == 0, result.output
    with attrstore.open(path) as store:
        distance = store.value("SELECT distance FROM behaviour_change")
    assert f"{distance:.4f}" in result.stdout
    assert "step-0" in result.stdout
    assert CliRunner().invoke(main, ["compare-checkpoints", str(path), *models[:2]]).exit_code == 2


# The views


def add_models(store: Store, *names: str) -> None:
    for name in names:
        add(store, "models", name, "tok", f"models/{name}", None, "Llama", 6)


def test_change_of_parameters_and_of_behaviour_by_hand(store: Store) -> None:
    tiny.fill(store, [], [("p", "t")] * 4)
    add_models(store, "a", "b", "c")
    for tensor, one, other in (
        ("model.layers.0.up.weight", [3.0, 0.0], [3.0, 4.0]),
        ("model.layers.11.up.weight", [0.0, 0.0], [0.0, 2.0]),
        ("norm.weight", [4.0, 0.0], [0.0, 0.0]),
    ):
        squares = [sum(x * x for x in side) for side in (one, other)]
        change = sum((y - x) ** 2 for x, y in zip(one, other, strict=True))
        inner = sum(x * y for x, y in zip(one, other, strict=True))
        add(store, "parameter_changes", "a", "b", tensor, 2, *squares, change, inner)
    for model, losses in (("a", [4.0, 3.0, 2.0, 1.0]), ("b", [1.0, 3.5, 2.5, 0.5])):
        for query, loss in enumerate(losses):
            add(store, "query_losses", model, query, 1, loss, "ok")
    # a = (3 0, 0 0, 4 0), b = (3 4, 0 2, 0 0): |b - a|^2 = 16 + 4 + 16, |a| = 5, |b|^2 = 29, <a, b> = 9.
    # Change of the log-probability: 3, -.5, -.5, .5. Places 1 2 3 4 before, and 3 1 2 4 after.
    row = store.rows("SELECT * EXCLUDE (low, high) FROM behaviour_change")[0]
    assert row == (
        "models/a", "models/b", 6.0, 1.2, pytest.approx(9 / (5 * 29**0.5)), 4, pytest.approx(0.625),
        pytest.approx(1.125), 0.5, pytest.approx(1 - 6 * 6 / 60), "a", "b",
    )  # fmt: skip
    ((low, high),) = store.rows("SELECT low, high FROM behaviour_change")
    assert 0.5 <= low < 1.125 < high <= 3
    assert store.rows(
        "SELECT module, tensors, parameters, distance, relative_distance FROM module_changes"
    ) == [
        ("model.layers.*.up.weight", 2, 4, pytest.approx(20**0.5), pytest.approx(20**0.5 / 3)),
        ("norm.weight", 1, 2, 4.0, 1.0),
    ]
    assert store.rows("FROM change_correlation") == [(1, None, None)]
    for pair, distance in ((("a", "c"), 7.0), (("b", "c"), 1.0)):
        add(store, "parameter_changes", *pair, "w", 1, 1.0, 1.0, distance**2, 0.0)
    for query, loss in enumerate([4.0, 3.0, 2.0, 5.0]):
        add(store, "query_losses", "c", query, 1, loss, "ok")
    # Distances 1, 6, 7 and mean sizes of change 2.125, 1.125, 1: the further, the less.
    assert store.value("SELECT list(mean_abs_change ORDER BY distance) FROM behaviour_change") == [
        2.125,
        1.125,
        1.0,
    ]
    assert store.value("SELECT rank_correlation FROM change_correlation") == pytest.approx(-1.0)


def add_checkpoint_scoring(store: Store, name: str, model: str, minute: int, **changed: Any) -> None:
    """A scoring called `name` over its own encoder of a model."""
    spec = {"model": model, "optimizer_state": f"state of {model}", "seed": 0} | changed.get("recipe", {})
    store.execute(
        "INSERT INTO encoders VALUES ($n, 'gradient', $n, $model, $spec, '[]', "
        "TIMESTAMPTZ '2026-01-01' + to_minutes($minute))",
        {"n": name, "model": model, "spec": json.dumps(spec, sort_keys=True), "minute": minute},
    )
    options = {"damping": 0.1, "mixing": minute / 10, "top_k": 2} | changed.get("options", {})
    store.execute(
        "INSERT INTO scorings VALUES ($n, $n, 'influence', $method, $spec, $n, 5, now(), '0')",
        {"n": name, "method": changed.get("method", "trackstar"), "spec": json.dumps(options)},
    )


AGREEMENT = "SELECT * EXCLUDE (overlap_queries, rank_correlation_queries) FROM checkpoint_agreement"


def test_checkpoint_agreement_by_hand(store: Store) -> None:
    tiny.fill(store, ["a"] * 5, [("p", "t")] * 2)
    add_models(store, "a", "b")
    add_checkpoint_scoring(store, "z first", "a", 1)
    add_checkpoint_scoring(store, "second", "b", 2)
    for name, model, changed in (
        ("another option", "b", {"options": {"damping": 1.0}}),
        ("another seed", "b", {"recipe": {"seed": 1}}),
        ("another method", "b", {"method": "cosine"}),
        ("the same model", "a", {"recipe": {"seed": 2}}),
    ):
        add_checkpoint_scoring(store, name, model, 3, **changed)
        add_ranking(store, name, 0, [0, 1, 2, 3, 4], set(), opponents=False)
    for name, orders in (("z first", [[0, 1], [0, 1]]), ("second", [[1, 0], [3, 0]])):
        for query, (one, other) in enumerate(orders):
            add(store, "scoring_queries", name, query)
            add(store, "scores", name, query, one, 1, 2.0)
            add(store, "scores", name, query, other, 2, 1.0)
    (row,) = store.rows(AGREEMENT)
    assert row[:7] == ("trackstar", "z first", "second", "models/a", "models/b", 2, 0.75)
    assert row[7:9] == (0.5, 1.0)
    assert row[9:] == (None, None, None, 1.5, "common top")  # below three there is no correlation


def test_checkpoint_agreement_of_whole_rankings_is_over_all_examples(store: Store) -> None:
    tiny.fill(store, ["a"] * 5, [("p", "t")] * 2)
    add_models(store, "a", "b")
    for minute, (name, orders) in enumerate(
        {"a": [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]], "b": [[1, 0, 2, 4, 3], [4, 3, 2, 1, 0]]}.items()
    ):
        add_checkpoint_scoring(store, name, name, minute, options={"top_k": 3})
        for query, order in enumerate(orders):
            add(store, "scoring_queries", name, query)
            for place, example in enumerate(order, 1):
                add(store, "scores", name, query, example, place if place <= 3 else place - 6, -float(place))
    # 1 - 6 * 4 / 120 = .8 and -1; of three proponents, three and one are shared.
    (row,) = store.rows(AGREEMENT)
    assert row[6:] == (
        pytest.approx(2 / 3), pytest.approx(1 / 3), pytest.approx(1.0), pytest.approx(-0.1), pytest.approx(-1.0),
        pytest.approx(0.8), 5.0, "all examples",
    )  # fmt: skip
