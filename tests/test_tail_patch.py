"""Tail-patch against an explicit loop in float64, and everything around one measurement."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import attrstore
from attrstore import Store
from attrstore.cli import main
from attrstore.errors import InputError, Interrupted, MismatchError
from attrstore.ingest.measure import tail_patch as job
from attrstore.ingest.measure.one_step import OneStep
from attrstore.ingest.measure.tail_patch import tail_patch
from attrstore.ingest.model import causal, optimizer, sequences
from tests import tiny

TEXTS = ["a b c d e f", "b c a", "g h i j k l m n", "d a", "p q r s t", "u v w x y z a b c", "m n", "e f g h"]
QUERIES = [("a b c", " d"), ("g h i", " j k"), ("p", " q r s"), ("m n o", " p")]
RANKINGS = {
    "one": {0: [0, 1, 2], 1: [2, 0, 5], 2: [4, 3, 7], 3: [6, 2, 1]},
    "two": {0: [1, 3, 0], 1: [7, 2, 4], 2: [4, 5, 6], 3: [0, 6, 7]},
}
RATE = {"sgd": 1e-3, "adam": 1e-5, "adamw": 1e-5}


def add_ranking(store: Store, name: str, ranking: dict[int, list[int]]) -> None:
    store.execute(
        "INSERT INTO scorings VALUES ($name, $name, 'influence', $name, '{}', NULL, 8, now(), '0')",
        {"name": name},
    )
    pairs = [(name, q, e, r, 1.0 / r) for q, examples in ranking.items() for r, e in enumerate(examples, 1)]
    opponents = [(name, q, 7 - examples[0], -1, -1.0) for q, examples in ranking.items()]
    store.connection.executemany("INSERT INTO scores VALUES (?, ?, ?, ?, ?)", pairs + opponents)
    ranked = "SELECT DISTINCT scoring_id, query_id FROM scores WHERE scoring_id = $name"
    store.execute(f"INSERT INTO scoring_queries {ranked}", {"name": name})


@pytest.fixture
def ranked(store: Store) -> Store:
    tiny.fill(store, TEXTS, QUERIES)
    for name, ranking in RANKINGS.items():
        add_ranking(store, name, ranking)
    return store


def pairs(*names: str, top: int = 10) -> set[tuple[int, int]]:
    return {(q, e) for name in names for q, found in RANKINGS[name].items() for e in found[:top]}


def measured(store: Store) -> dict[tuple[int, int], tuple[float, ...]]:
    rows = store.rows(
        "SELECT query_id, example_id, base_logprob, delta_logprob, base_prob, delta_prob FROM tail_patches"
    )
    found = {(q, e): tuple(values) for q, e, *values in rows}
    assert len(found) == len(rows)  # no pair twice
    return found


def tokens(tokenizer: Any, text: str) -> Any:
    return torch.tensor([tokenizer(text)["input_ids"]])


def target_logprob(model: Any, tokenizer: Any, prompt: str, target: str) -> Any:
    whole = tokens(tokenizer, prompt + target)
    n_target = len(tokens(tokenizer, target)[0])
    logprobs = model(whole).logits[0].log_softmax(dim=-1)
    return sum(logprobs[i - 1, whole[0, i]] for i in range(whole.shape[1] - n_target, whole.shape[1]))


def slow(
    folder: Path,
    example: str,
    query: tuple[str, str],
    name: str,
    state: Path | None,
    rate: float | None = None,
) -> list[float]:
    """One step on a float64 copy of the model, adamw's by torch.optim itself, and what it changed."""
    rate = rate or RATE[name]
    loaded = causal.load(folder)
    model = copy.deepcopy(loaded.model).double()
    model.requires_grad_(True)
    ids = tokens(loaded.tokenizer, example)
    model(input_ids=ids, labels=ids).loss.backward()  # the mean over the predicted tokens
    with torch.no_grad():
        base = float(target_logprob(model, loaded.tokenizer, *query))
        saved = None if state is None else torch.load(state)
        if name == "adamw":
            stepping = torch.optim.AdamW(model.parameters())
            stepping.load_state_dict(saved or {})
            beta2 = torch.load(str(state))["param_groups"][0]["betas"][1]
            stepping.param_groups[0].update(lr=rate, betas=(0.0, beta2), weight_decay=0)
            stepping.step()
        else:
            for index, parameter in enumerate(model.parameters()):
                direction = parameter.grad
                if saved is not None:
                    direction = direction / (saved["state"][index]["exp_avg_sq"].double().sqrt() + 1e-8)
                parameter -= rate * direction
        after = float(target_logprob(model, loaded.tokenizer, *query))
    probabilities = [float(torch.tensor(value, dtype=torch.float64).exp()) for value in (base, after)]
    return [base, after - base, probabilities[0], probabilities[1] - probabilities[0]]


# gpt2 has tied embeddings and transposed weights; gpt_neox and qwen2 have biases
@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "sgd"), ("llama", "adam"), ("llama", "adamw"), ("gpt2", "adam"), ("gpt2", "adamw"),
        ("gpt_neox", "adamw"), ("qwen2", "adamw"),
    ],
)  # fmt: skip
def test_a_float64_loop_gives_the_same(ranked: Store, tmp_path: Path, architecture: str, name: str) -> None:
    folder = tiny.checkpoint(tmp_path / "model", architecture)
    state = None if name == "sgd" else tiny.adam_state(tmp_path, architecture)
    done = tail_patch(
        ranked, model=folder, learning_rate=RATE[name], optimizer_state=state, optimizer_name=name
    )
    found = measured(ranked)
    assert set(found) == pairs("one", "two")
    assert (done.pairs, done.examples, done.optimizer) == (len(found), 8, name)
    deltas = []
    for (query, example), values in sorted(found.items())[::3]:
        expected = slow(folder, TEXTS[example], QUERIES[query], name, state)
        assert values == pytest.approx(expected, rel=1e-5, abs=3e-6), (query, example)
        deltas.append(abs(values[1]))
    assert max(deltas) > 3e-4  # far above the tolerance


def test_the_model_stays_as_it_was_to_the_bit(tmp_path: Path) -> None:
    loaded = causal.load(tiny.checkpoint(tmp_path / "model"))
    moments = optimizer.parameter_moments(tiny.adam_state(tmp_path), loaded.model)
    step = OneStep(loaded.model, 1e-2, moments)
    examples = sequences.examples(list(enumerate(TEXTS)), loaded.tokenizer, loaded.context, "truncate")
    queries = sequences.queries([(i, *q) for i, q in enumerate(QUERIES)], loaded.tokenizer, loaded.context)
    (batch,) = sequences.batches(queries, 4096)

    def bytes_of(model: Any) -> list[bytes]:
        return [parameter.detach().numpy().tobytes() for parameter in model.parameters()]

    before = bytes_of(loaded.model)
    seen = []
    for index in (0, 2, 0):
        assert step(examples[index])
        assert bytes_of(loaded.model) == before
        assert all(one != other for one, other in zip(bytes_of(step.copy), before, strict=True))
        seen.append(step.logprobs(batch))
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    # A step does not depend on the ones before it.
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[2][1])
    assert not torch.equal(seen[0][1], seen[1][1])


def test_moments_of_all_parameters_from_adamw_and_adafactor(tmp_path: Path) -> None:
    model = tiny.model("gpt2")
    state = torch.load(tiny.adam_state(tmp_path, "gpt2"))
    moments = optimizer.parameter_moments(tmp_path / "optimizer.pt", model)
    assert list(moments) == [name for name, _ in model.named_parameters()]
    for index, moment in enumerate(moments.values()):
        assert torch.equal(moment.values, state["state"][index]["exp_avg_sq"])
    for index in state["state"]:
        values = state["state"][index].pop("exp_avg_sq")
        if values.ndim == 2:
            factors = {"exp_avg_sq_row": values.mean(dim=1), "exp_avg_sq_col": values.mean(dim=0)}
            state["state"][index] = factors
        else:
            state["state"][index] = {"variance": values}
    torch.save(state, tmp_path / "adafactor.pt")
    factored = optimizer.parameter_moments(tmp_path / "adafactor.pt", model)
    for name, parameter in model.named_parameters():
        full = moments[name].values
        if parameter.ndim == 2:
            full = full.mean(dim=1, keepdim=True) * full.mean(dim=0, keepdim=True) / full.mean()
        assert torch.allclose(factored[name].values, full, rtol=1e-5, atol=0)


def test_parameters_without_a_moment_stay(tmp_path: Path) -> None:
    loaded = causal.load(tiny.checkpoint(tmp_path / "model"))
    moments = optimizer.parameter_moments(tiny.adam_state(tmp_path), loaded.model)
    trained = {name: moment for name, moment in moments.items() if "mlp" in name}
    step = OneStep(loaded.model, 1e-2, trained)
    (example,) = sequences.examples([(0, TEXTS[0])], loaded.tokenizer, loaded.context, "truncate")
    assert step(example)
    base = dict(loaded.model.named_parameters())
    moved = {name for name, p in step.copy.named_parameters() if not torch.equal(p, base[name])}
    assert moved == set(trained)


def test_top_scorings_and_queries_choose_the_pairs(ranked: Store, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    tail_patch(ranked, model=folder, learning_rate=1e-3, scorings=["two"], top=2, queries=3)
    chosen = {(q, e) for q, e in pairs("two", top=2) if q < 3}
    assert set(measured(ranked)) == chosen
    again = tail_patch(ranked, learning_rate=1e-3)  # the store's only model
    assert set(measured(ranked)) == pairs("one", "two")
    assert again.pairs == len(pairs("one", "two")) - len(chosen)
    assert tail_patch(ranked, learning_rate=1e-3).pairs == 0
    assert tail_patch(ranked, learning_rate=1e-4, top=1).pairs == len(pairs("one", "two", top=1))


def test_batches_of_few_tokens_change_nothing(ranked: Store, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    tail_patch(ranked, model=folder, learning_rate=1e-3)
    whole = measured(ranked)
    ranked.execute("DELETE FROM tail_patches")
    tail_patch(ranked, model=folder, learning_rate=1e-3, batch_tokens=1)
    for pair, values in measured(ranked).items():
        assert values == pytest.approx(whole[pair], rel=1e-5, abs=3e-6)


def test_a_model_that_is_not_trunk_and_head_goes_through_its_own_forward(tmp_path: Path) -> None:
    loaded = causal.load(tiny.checkpoint(tmp_path / "model"))
    step = OneStep(loaded.model, 1e-2, None)
    items = sequences.queries([(i, *q) for i, q in enumerate(QUERIES)], loaded.tokenizer, loaded.context)
    (batch,) = sequences.batches(items, 4096)
    (example,) = sequences.examples([(0, TEXTS[0])], loaded.tokenizer, loaded.context, "truncate")
    assert step(example)
    assert step.split
    split = step.logprobs(batch)
    step.split = False
    whole = step.logprobs(batch)
    for one, other in zip(split, whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(whole[0], whole[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", ["ctrl-c", "crash"])
def test_stopped_and_run_again_equals_uninterrupted(
    ranked: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    options: dict[str, Any] = {"model": folder, "learning_rate": 1e-3}
    tail_patch(ranked, **options)
    whole = measured(ranked)
    ranked.execute("DELETE FROM tail_patches")

    def stop(done: int, total: int) -> None:
        if done == 3 and how == "ctrl-c":
            os.kill(os.getpid(), signal.SIGINT)
        elif done == 3:
            raise RuntimeError("crash")

    if how == "crash":
        monkeypatch.setattr(job, "COMMIT_SECONDS", 0.0)
    with pytest.raises(Interrupted if how == "ctrl-c" else RuntimeError) as raised:
        tail_patch(ranked, **options, progress=stop)
    part = measured(ranked)
    # Ctrl-C commits what is open; a crash loses the open batch, here one proponent.
    steps = len({example for _, example in part})
    assert steps == (3 if how == "ctrl-c" else 2)
    if how == "ctrl-c":
        assert f"after {len(part)} pairs" in str(raised.value)
    rest = tail_patch(ranked, **options)
    assert rest.pairs == len(whole) - len(part)
    assert measured(ranked) == whole
    states = [s for (s,) in ranked.rows("SELECT state FROM runs ORDER BY run_id")]
    assert states[1] in ("interrupted", "failed")
    assert states[2] == "finished"


def fail(done: int, total: int) -> None:
    raise ZeroDivisionError


def test_another_optimizer_state_is_refused(ranked: Store, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first, second = tiny.adam_state(one), tiny.adam_state(other, seed=1)
    with pytest.raises(ZeroDivisionError):  # a run that measured nothing binds nobody
        tail_patch(ranked, model=folder, optimizer_state=second, progress=fail)
    tail_patch(ranked, model=folder, top=1, optimizer_state=first)
    before = measured(ranked)
    with pytest.raises(MismatchError, match=r"measured with optimizer state [0-9a-f]{16} .* is [0-9a-f]{16}"):
        tail_patch(ranked, model=folder, top=2, optimizer_state=second)
    assert measured(ranked) == before
    tail_patch(ranked, model=folder, top=2, optimizer_state=first)
    tail_patch(ranked, model=folder, top=1, optimizer_state=second, learning_rate=2e-6)
    settings = ranked.rows(
        "SELECT optimizer, learning_rate, count(*) FROM tail_patches GROUP BY ALL ORDER BY 2"
    )
    top_one, top_two = pairs("one", "two", top=1), pairs("one", "two", top=2)
    assert settings == [("adamw", 1e-6, len(top_two)), ("adamw", 2e-6, len(top_one))]


def test_what_cannot_be_measured_is_counted(store: Store, tmp_path: Path) -> None:
    tiny.fill(store, [*TEXTS, "a"], [*QUERIES, ("a b", "")])
    add_ranking(store, "one", {0: [0, 8], 4: [1, 2]})
    done = tail_patch(store, model=tiny.checkpoint(tmp_path / "model"), learning_rate=1e-3)
    assert set(measured(store)) == {(0, 0)}
    assert done.skipped == {
        "the example has no token to predict": 1,
        "the query's target has no tokens or does not fit": 2,
    }


def test_a_gradient_that_is_not_finite_is_skipped(ranked: Store, tmp_path: Path) -> None:
    broken = tiny.model()
    with torch.no_grad():
        broken.get_input_embeddings().weight[tiny.WORDS.index("p")] = float("nan")
    broken.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    done = tail_patch(ranked, model=tmp_path / "model", learning_rate=1e-3)
    # Example 4, query 2 and query 3 have a p.
    assert set(measured(ranked)) == {(q, e) for q, e in pairs("one", "two") if e != 4 and q < 2}
    assert set(done.skipped) == {
        "the example's gradient is not finite",
        "the target's log-probability is not finite",
    }


def test_report_averages_what_was_measured(ranked: Store, tmp_path: Path) -> None:
    tail_patch(ranked, model=tiny.checkpoint(tmp_path / "model"), learning_rate=1e-3)
    found = measured(ranked)
    few = "SELECT tail_patch_queries, tail_patch_logprob FROM method_report"
    assert ranked.rows(few) == [(4, None)] * 2  # too few for a mean
    ranked.execute("CREATE OR REPLACE VIEW tail_patch_minimum AS SELECT 4 AS queries")
    for name, ranking in RANKINGS.items():
        means = [sum(found[q, e][1] for e in examples) / 3 for q, examples in ranking.items()]
        expected = sum(means) / len(means)
        where = {"name": name}
        shown = ranked.value("SELECT tail_patch_logprob FROM method_report WHERE name = $name", where)
        assert shown == pytest.approx(expected, rel=1e-9)
        ((mean, low, high),) = ranked.rows(
            "SELECT mean, low, high FROM report_intervals() WHERE name = $name AND metric = 'tail_patch_logprob'",
            where,
        )
        assert mean == pytest.approx(expected, rel=1e-9)
        assert min(means) - 1e-9 <= low < mean < high <= max(means) + 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "^top 0: must be at least 1$"),
        ({"queries": 0}, "^queries 0: must be at least 1$"),
        ({"learning_rate": -1.0}, "^learning_rate -1: must be above 0, or training$"),
        ({"learning_rate": float("nan")}, "^learning_rate nan: must be above 0, or training$"),
        ({"learning_rate": "fast"}, "^learning_rate fast: must be above 0, or training$"),
        ({"scorings": "one"}, "^scorings one: must be a list$"),
        ({"batch_tokens": 0}, "^batch_tokens 0: must be at least 1$"),
        ({"learning_rate": "training"}, "learning.rate training: needs an optimizer's state"),
        ({"max_length": 33}, "max_length 33: must be between 2 and 32"),
        ({"scorings": ["three"]}, "no scoring is called three; there are one, two"),
        ({"optimizer_name": "adam"}, "optimizer.state FILE"),
        (
            {"optimizer_name": "lion"},
            "^optimizer_name lion: there is no such choice; there are adamw, adam, sgd$",
        ),
        ({"optimizer_name": "sgd", "optimizer_state": "x.pt"}, "optimizer sgd"),
        ({"optimizer_state": "x.pt"}, "x.pt: no such file"),
        ({"model": None}, "which model"),
        ({"model": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    ranked: Store, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"model": tiny.checkpoint(tmp_path / "model"), **options}
    with pytest.raises(InputError, match=message):
        tail_patch(ranked, **given)
    assert not ranked.rows("FROM tail_patches")
    assert not ranked.rows("FROM runs")


def test_another_model_at_the_known_path_is_refused(ranked: Store, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    tail_patch(ranked, model=folder, top=1, learning_rate=1e-3)
    tiny.checkpoint(folder, seed=1)
    with pytest.raises(MismatchError, match=r"fingerprint [0-9a-f]{16} now, and the store's model had"):
        tail_patch(ranked, learning_rate=1e-3)


def test_each_optimizer_has_its_learning_rate(ranked: Store, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    assert tail_patch(ranked, model=folder, top=1, queries=1).learning_rate == 1e-3
    state = tiny.adam_state(tmp_path)
    assert tail_patch(ranked, top=1, queries=1, optimizer_state=state).learning_rate == 1e-6
    assert ranked.rows("SELECT DISTINCT optimizer, learning_rate FROM tail_patches ORDER BY ALL") == [
        ("adamw", 1e-6),
        ("sgd", 1e-3),
    ]


def test_command(ranked: Store, path: Path, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    state = tiny.adam_state(tmp_path)
    ranked.close()

    def run(*options: str) -> Any:
        return CliRunner().invoke(main, ["tail-patch", str(path), "--model", str(folder), *options])

    result = run("--optimizer-state", str(state), "--scoring", "one", "--top", "2", "--queries", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        f"adamw, learning rate 1e-06: 4 pairs measured, 3 steps.\noptimizer's state: {state}\n"
        f"Next: attrstore report {path} --intervals\n"
    )
    refused = run("--optimizer", "adam")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: --optimizer adam: needs the saved second moment.")
    with attrstore.open(path) as store:
        assert set(measured(store)) == {(0, 0), (0, 1), (1, 2), (1, 0)}


def test_unscored_store(path: Path, tmp_path: Path) -> None:
    with (
        attrstore.open(path, create=True) as store,
        pytest.raises(InputError, match="First: attrstore score"),
    ):
        tail_patch(store, model=tmp_path)


def test_a_step_where_nothing_was_ever_moved_is_bounded(ranked: Store, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    file = tiny.adam_state(tmp_path)
    state = torch.load(file)
    for entry in state["state"].values():
        entry["exp_avg_sq"].zero_()
        entry["step"].fill_(10_000)  # so long ago that nothing is corrected for
    usual = state["param_groups"][0]["eps"]
    # Above what float32 leaves of a gradient that is zero, whose direction is the processor's.
    state["param_groups"][0]["eps"] = 1e-5
    torch.save(state, file)
    tail_patch(ranked, model=folder, optimizer_state=file)
    for (query, example), values in measured(ranked).items():
        expected = slow(folder, TEXTS[example], QUERIES[query], "adamw", file, 1e-6)
        assert values == pytest.approx(expected, rel=1e-5, abs=3e-6)
        assert abs(values[1]) < 0.1
    state["param_groups"][0]["eps"] = usual
    torch.save(state, file)
    tail_patch(ranked, model=folder, optimizer_state=file, optimizer_name="adam", top=1, queries=1)
    worst = "SELECT max(abs(delta_logprob)) FROM tail_patches WHERE optimizer = 'adam'"
    assert ranked.value(worst) > 1  # gradients over 1e-8
    assert ranked.value("SELECT count(DISTINCT optimizer) FROM tail_patches") == 2


def test_the_training_rate_is_the_saved_one(ranked: Store, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    tiny.adam_state(folder)  # found beside the model
    done = tail_patch(ranked, model=folder, learning_rate="training", top=1, queries=1)
    assert (done.optimizer, done.learning_rate) == ("adamw", 1e-3)
    assert done.state.startswith(f"optimizer's state: {folder / 'optimizer.pt'}")
    shorter = tail_patch(ranked, model=folder, max_length=4, top=1, queries=1)
    assert shorter.optimizer == "adamw, 4 tokens"
    assert (
        ranked.value("SELECT count(*) FROM tail_patches WHERE optimizer = 'adamw, 4 tokens'") == shorter.pairs
    )
