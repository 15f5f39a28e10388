"""A store with encodings of two models asks which one is meant; a half-encoded one refuses; ask says what is said."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import attrstore
from attrstore.cli import main
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.model import causal
from tests import tiny

QUERIES = [("a b", " c"), ("d e f", " g"), ("river", " stone")]


def run(*arguments: Any) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(24), QUERIES, [(0, 3)])
        ingest_lexical(store)
        model = tiny.checkpoint(folder / "final")
        ingest_gradients(store, model=model, projection_dim=4, name="first")
        ingest_gradients(store, model=model, projection_dim=3, name="second")
    return folder


@pytest.fixture
def one(built: Path, tmp_path: Path) -> Path:
    """A copy with two encoders of one model."""
    (tmp_path / "s.duckdb").write_bytes((built / "s.duckdb").read_bytes())
    return tmp_path / "s.duckdb"


@pytest.fixture
def two(one: Path, tmp_path: Path) -> Path:
    """A copy with an encoder of an earlier checkpoint too, ingested last."""
    earlier = tiny.checkpoint(tmp_path / "earlier", seed=1)
    with attrstore.open(one, writable=True) as store:
        ingest_gradients(store, model=earlier, projection_dim=4, name="of the earlier")
    return one


def test_two_models_are_asked_about_and_named(two: Path, built: Path) -> None:
    for command in (
        ["score", two, "dot"], ["ask", two, "a b", " c"], ["diagnose", two], ["trace", two, "--no-tail-patch"],
    ):  # fmt: skip
        done = run(*command)
        assert done.exit_code == 2, command
        assert "which model?" in done.stderr
        assert str(built / "final") in done.stderr
        assert str(two.parent / "earlier") in done.stderr
    with attrstore.open(two) as store:
        assert store.value("SELECT count(*) FROM scorings") == 0
    scored = run("score", two, "dot", "--encoder", "of the earlier")
    assert f"; encoder of the earlier; model {two.parent / 'earlier'}." in scored.stdout
    asked = run("ask", two, "a b", " c", "--encoder", "first")
    assert asked.stdout.startswith(f"model {built / 'final'}, encoder first\n")


def test_of_one_models_encoders_a_later_one_changes_nothing(one: Path, built: Path) -> None:
    done = run("score", one, "dot")
    assert "dot: 24 of 24 examples ranked for 3 of 3 queries." in done.stdout
    assert "; encoder first; model " in done.stdout
    with attrstore.open(one) as store:
        assert store.rows("SELECT encoder, model FROM scoring_status") == [("first", str(built / "final"))]
    assert "encoder first\n" in run("ask", one, "a b", " c").stdout


def test_a_half_encoded_store_is_refused_with_counts(one: Path) -> None:
    with attrstore.open(one, writable=True) as store:
        store.execute("DELETE FROM query_encodings WHERE query_id = 1")
    done = run("score", one, "cosine")
    assert done.exit_code == 2
    assert "1 of 3 queries are not encoded under first" in done.stderr
    with attrstore.open(one, writable=True) as store:
        store.execute("DELETE FROM encodings WHERE example_id < 5")
    for command in (["score", one, "cosine"], ["ask", one, "a b", " c"]):
        done = run(*command)
        assert done.exit_code == 2
        assert "are not encoded under first" in done.stderr
    assert "5 of the examples" in done.stderr


@pytest.mark.slow
def test_trace_scores_again_what_is_stale_as_it_was_made(one: Path, tmp_path: Path) -> None:
    run("score", one, "bm25", "--k1", "0.7", "--top-k", "9")
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"id": "new", "prompt": "a", "target": " b"}), encoding="utf-8"
    )
    run("ingest", "queries", one, tmp_path / "q.jsonl")
    stale = "Stale: bm25: made for 3 queries, now there are 4. Score again"
    assert stale in run("report", one).stderr
    done = run("trace", one, "--method", "bm25", "--no-tail-patch")
    assert "Scored again: bm25: made for 3 queries, now there are 4." in done.stderr
    with attrstore.open(one) as store:
        ((spec, queries, is_stale),) = store.rows(
            "SELECT spec, queries, stale FROM scorings JOIN scoring_status USING (scoring_id)"
        )
    assert (json.loads(spec)["k1"], json.loads(spec)["top_k"], queries, is_stale) == (0.7, 9, 4, False)
    assert "Stale" not in run("report", one).stderr
    assert "Scored again" not in run("trace", one, "--method", "bm25", "--no-tail-patch").stderr


def said(folder: Path, prompt: str) -> tuple[str, float]:
    """Greedy, four tokens, by hand."""
    loaded = causal.load(folder, device="cpu")
    tokens = loaded.tokenizer(prompt)["input_ids"]
    words, logprob = [], 0.0
    for _ in range(4):
        with torch.no_grad():
            logprobs = loaded.model(torch.tensor([tokens])).logits[0, -1].log_softmax(0)
        tokens = [*tokens, int(logprobs.argmax())]
        words.append(tiny.WORDS[tokens[-1]] if tokens[-1] < len(tiny.WORDS) else "")
        logprob += float(logprobs.max())
    return words[0], math.exp(logprob)


def test_ask_says_what_the_model_says(one: Path, built: Path) -> None:
    first, probability = said(built / "final", "a b")
    other = next(word for word in ("c", "d") if word != first)
    done = run("ask", one, "a b", f" {other}")
    assert f"P = {probability:.3g}" in done.stdout
    assert f"The model says ' {first}" in done.stdout or f"The model says '{first}" in done.stdout
    assert "what made the model say it" not in done.stdout
    assert f"what makes ' {other}' more likely; the model does not say it" in done.stdout
    assert "what made the model say it" in run("ask", one, "a b", f" {first}").stdout


def test_ask_hints_at_the_leading_space(built: Path, tmp_path: Path) -> None:
    """A tokenizer for which ` c` and `c` are two words, and a model that says the first."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<pad>", "a", " b", "c", " c", "d"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    model = tiny.model(seed=3)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        hidden = model.base_model(torch.tensor([[2, 3]])).last_hidden_state[0, -1]
        head[5], head[4] = 4 * hidden / hidden.norm(), -4 * hidden / hidden.norm()
    model.save_pretrained(tmp_path / "spaced")
    tokenizer.save_pretrained(tmp_path / "spaced")
    with attrstore.open(tmp_path / "t.duckdb", create=True) as store:
        tiny.fill(store, ["a b c", "d a", "a b"], [("a b", " c")])
        ingest_gradients(store, model=tmp_path / "spaced", projection_dim=4)
    done = run("ask", tmp_path / "t.duckdb", "a b", "c")
    assert "With a leading space the target is far more probable: P(' c')" in done.stdout
    assert "far more probable" not in run("ask", tmp_path / "t.duckdb", "a b", " c").stdout


def test_ask_without_a_target_explains_what_the_model_says(one: Path) -> None:
    done = run("ask", one, "a b")
    assert done.exit_code == 0, done.output
    said = re.search(r"P\('(.+?)' \| 'a b'\)", done.stdout)
    assert said is not None  # the tiny model may say tokens that its tokenizer has no words for
    assert f"The model says '{said[1]}"[:20] in done.stdout
    again = run("ask", one, "a b", said[1]).stdout
    assert again == done.stdout


def test_ask_without_gradients_shows_what_states_it(tmp_path: Path) -> None:
    path = tmp_path / "words.duckdb"
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, ["north river", "south stone"], [])
    assert "no gradient encodings yet" in run("ask", path, "north").output
    with attrstore.open(path, writable=True) as store:
        ingest_lexical(store)
    done = run("ask", path, "north", " river")
    assert (done.exit_code, "No gradient encodings" in done.stdout, "e-0" in done.stdout) == (0, True, True)
    assert "Influence" not in done.stdout


def test_an_answer_for_programs_has_model_and_encoder_in_each_row(one: Path, built: Path) -> None:
    printed = run("ask", one, "a b", " c", "--top", 2, "--format", "jsonl").stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [(row["family"], row["rank"]) for row in rows] == [
        ("influence", 1), ("influence", 2), ("retrieval", 1), ("retrieval", 2)
    ]  # fmt: skip
    assert {(row["method"], row["encoder"]) for row in rows[:2]} == {("cosine-block", "first")}
    assert rows[0]["model"] == str((built / "final").resolve())
    assert {(row["method"], row["model"], row["encoder"]) for row in rows[2:]} == {("bm25", None, None)}
    assert {row["target"] for row in rows} == {" c"}
    shown = run("ask", one, "a b", " c").stdout
    assert f"P(' c' | 'a b') = {rows[0]['probability']:.3g}" in shown
    assert f"The model says {rows[0]['said']!r}: P = {rows[0]['said_probability']:.3g}" in shown


def test_which_tokens_carry_loss_for_programs(one: Path) -> None:
    printed = run("show", one, "q-2", "--format", "csv").stdout
    assert printed == "window,position,token,loss\n0,0,river,False\n0,1,stone,True\n"
