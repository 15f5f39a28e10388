"""A whole training run: what the callback keeps, what --run reads, and TracInCP of it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner

import attrstore
from attrstore.callback import KeepForAttribution
from attrstore.cli import main
from attrstore.ingest.model import run as runs
from tests import tiny

TEXTS = tiny.sentences(8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, saved after two and four; its rate falls from 1e-3 by a quarter of that each step."""
    folder, tokenizer = tmp_path_factory.mktemp("run"), tiny.tokenizer()
    data = [{"input_ids": ids, "labels": ids} for ids in tokenizer(TEXTS)["input_ids"]]
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=4, save_steps=2, logging_steps=1, per_device_train_batch_size=2, report_to=[],
        disable_tqdm=True, use_cpu=True, learning_rate=1e-3, seed=0,
    )  # fmt: skip
    transformers.Trainer(
        tiny.model(), arguments, train_dataset=data, processing_class=tokenizer,
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer), callbacks=[KeepForAttribution()],
    ).train()  # fmt: skip
    return folder


def test_a_run_is_encoded_for_tracincp(trained: Path, path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, TEXTS, [("a b", " c"), ("north", " stone")])
    options = ["--projection-dim", "4", "--code", "fp16"]
    done = CliRunner().invoke(main, ["ingest", "gradients", str(path), "--run", str(trained), *options])
    assert done.exit_code == 0, done.output
    assert "checkpoint-2: learning rate 0.00075\n" in done.output
    following = done.output.splitlines()[-1]
    assert following == (
        f"Next: attrstore score {path} tracincp --encoders checkpoint-2,checkpoint-4 --weights 0.00075,0.00025"
    )
    assert CliRunner().invoke(main, following.split()[2:]).exit_code == 0

    with attrstore.open(path, writable=True) as store:
        kept = store.encode_run(run=trained / "attribution", name="kept", projection_dim=4, code="fp16")
        # What the callback kept is the same model with the same correction: nothing is left to encode.
        assert kept.encoders == ["checkpoint-2", "checkpoint-4"]
        assert [counts.examples for counts in kept.encoded] == [0, 0]
        assert kept.weights == [0.00075, 0.00025]
        assert store.rows("SELECT DISTINCT spec->>'correction' FROM encoders") == [("factored",)]
        found = pairs(store, "tracincp")
    # By hand, in another store: each checkpoint encoded and scored by itself, times its rate.
    expected: dict[tuple[str, str], float] = {}
    with attrstore.open(path.with_name("hand.duckdb"), create=True) as store:
        tiny.fill(store, TEXTS, [("a b", " c"), ("north", " stone")])
        for step, rate in ((2, 0.00075), (4, 0.00025)):
            store.encode_gradients(
                model=trained / f"checkpoint-{step}", name=f"alone-{step}", projection_dim=4, code="fp16"
            )
            store.score("dot", encoder=f"alone-{step}")
            for query, example, score in pairs(store, "dot"):
                expected[query, example] = expected.get((query, example), 0) + rate * score
    assert len(found) == 2 * len(TEXTS) == len(expected)
    for query, example, score in found:
        assert math.isclose(score, expected[query, example], rel_tol=1e-4, abs_tol=1e-7)


def pairs(store: attrstore.Store, scoring: str) -> list[tuple[str, str, float]]:
    return store.rows(
        "SELECT query_id, example_id, any_value(score) FROM scores JOIN scorings USING (scoring_id) "
        "WHERE name = $name GROUP BY ALL",
        {"name": scoring},
    )


def test_the_callback_keeps_the_weights_and_little_more(trained: Path) -> None:
    for step in (2, 4):
        whole, kept = trained / f"checkpoint-{step}", trained / "attribution" / f"checkpoint-{step}"
        assert (kept / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        one, other = (torch.load(folder / "optimizer.pt", weights_only=True) for folder in (whole, kept))
        names = [name for name, _ in tiny.model().named_parameters()]
        assert sorted(other["state"]) == sorted(names)
        entry = other["state"]["model.layers.1.mlp.down_proj.weight"]
        (like,) = (
            old["exp_avg_sq"]
            for old in one["state"].values()
            if old["exp_avg_sq"].shape == (16, 24)
            and torch.equal(old["exp_avg_sq"].mean(dim=1), entry["exp_avg_sq_row"])
        )
        assert torch.equal(like.mean(dim=0), entry["exp_avg_sq_col"])
        numbers = sum(tensor.numel() for entry in other["state"].values() for tensor in entry.values())
        assert numbers < 0.3 * sum(weight.numel() for weight in tiny.model().parameters())
        state = json.loads((kept / "trainer_state.json").read_text())
        assert state["log_history"] == [{"step": step, "learning_rate": {2: 0.00075, 4: 0.00025}[step]}]
    assert not list((trained / "attribution").glob("*.unfinished"))


def test_a_run_that_cannot_be_read_says_why(trained: Path, tmp_path: Path, path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, TEXTS, [])
        with pytest.raises(attrstore.InputError, match=r"no folder checkpoint-N in it"):
            store.encode_run(run=tmp_path / "nowhere")
        with pytest.raises(attrstore.InputError, match=r"each checkpoint of a run has its own"):
            store.encode_run(run=trained, optimizer_state="optimizer.pt")
        run = tmp_path / "run"
        shutil.copytree(trained, run)
        state = run / "checkpoint-4" / "trainer_state.json"
        content = json.loads(state.read_text())
        content["log_history"] = [
            {"step": 3, "learning_rate": 0.5},
            {"step": 5, "learning_rate": 0.1},
            {"step": 4},
        ]
        state.write_text(json.dumps(content))
        assert runs.checkpoints(run)[1][1:] == (4, 0.5, 3)
        content["log_history"] = []
        state.write_text(json.dumps(content))
        with pytest.raises(
            attrstore.InputError, match=r"checkpoint-4/trainer_state.json has no learning rate logged"
        ):
            store.encode_run(run=run)
        state.unlink()
        with pytest.raises(attrstore.InputError, match=r"checkpoint-4 has no trainer_state.json"):
            store.encode_run(run=run)
        assert store.value("SELECT count(*) FROM models") == 0
    both = CliRunner().invoke(main, ["ingest", "gradients", str(path), "--run", "x", "--model", "y"])
    assert "give --model MODEL or --run DIR, one of the two" in both.output
