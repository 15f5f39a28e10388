"""Queries under tokenizers that put tokens around texts, --max-length, and which optimizer's state is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers import processors

import attrstore
from attrstore.cli import main
from attrstore.ingest.model import sequences
from tests import tiny

BOS, EOS = 26, 27  # "y" and "z" play them
A, B, C, D = 2, 3, 4, 5
PROMPT, TARGET = "a b", " c d"
TEMPLATES = {
    "none": None,
    "bos": "y $A",
    "eos": "$A z",
    "both": "y $A z",
    "chat": "y $A",  # and the roles' tokens in the text itself
}


def tokenizer(kind: str) -> Any:
    made = tiny.tokenizer()
    template = TEMPLATES[kind]
    if template is not None:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("y", BOS), ("z", EOS)]
        )
    if kind == "chat":
        made.add_special_tokens({"additional_special_tokens": ["north", "south"]})
    return made


@pytest.mark.parametrize("kind", TEMPLATES)
def test_nothing_stands_between_prompt_and_target(kind: str) -> None:
    prompt, target = ("north a b south", " c d") if kind == "chat" else (PROMPT, TARGET)
    (item,) = sequences.queries([(0, prompt, target)], tokenizer(kind), 32)
    north, south = (tiny.WORDS.index(word) for word in ("north", "south"))
    said = [north, A, B, south, C, D] if kind == "chat" else [A, B, C, D]
    opening = [BOS] if kind in ("bos", "both", "chat") else []
    assert item.windows == [opening + said]
    assert item.first_target == len(opening + said) - 2
    assert sequences.encoding_version(tokenizer(kind)) == (2 if kind in ("eos", "both") else 1)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_query_that_is_cut_keeps_its_opening_and_its_end(kind: str) -> None:
    opening = [BOS] if kind in ("bos", "both", "chat") else []
    (item,) = sequences.queries([(0, "a a a a b", TARGET)], tokenizer(kind), 4)
    assert item.windows == [(opening + [A, B, C, D][len(opening) :])]
    assert item.windows[0][item.first_target :] == [C, D]
    assert item.status == f"truncated: kept 4 of {7 + len(opening)} tokens"
    (all_target,) = sequences.queries([(0, "a", " b c d e")], tokenizer(kind), 4)
    assert all_target.status == "skipped: the target has 4 tokens, context 4"


def checkpoint(folder: Path, kind: str = "none") -> Path:
    tiny.model().save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    return folder


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def ingest(store: Path, folder: Path, *options: str | Path, command: str = "gradients") -> Any:
    dim = ("--projection-dim", "4") if command == "gradients" else ()
    result = run("ingest", command, store, "--model", folder, *dim, *options)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def filled(path: Path) -> Path:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, ["a b c d e f g h", "a b", "c d e"], [(PROMPT, TARGET)], [(0, 1)])
    return path


def test_an_end_token_moves_no_query(filled: Path, tmp_path: Path) -> None:
    """The queries' vectors are those of the tokenizer without an end token, of the same model."""
    vectors = []
    for kind in ("none", "eos"):
        ingest(filled, checkpoint(tmp_path / kind, kind), "--name", kind) if kind == "none" else None
        if kind == "eos":
            other = filled.with_name("eos.duckdb")
            with attrstore.open(other, create=True) as store:
                tiny.fill(store, ["a b c"], [(PROMPT, TARGET)])
            ingest(other, checkpoint(tmp_path / kind, kind))
        with attrstore.open(filled if kind == "none" else other) as store:
            vectors.append(store.value("SELECT vector FROM query_encodings"))
    assert vectors[0] == vectors[1]


@pytest.mark.parametrize("command", ["gradients", "representations", "embeddings"])
def test_texts_are_cut_at_max_length_and_the_spec_says_so(filled: Path, tmp_path: Path, command: str) -> None:
    folder = checkpoint(tmp_path / "model")
    ingest(filled, folder, "--max-length", "4", command=command)
    with attrstore.open(filled) as store:
        (spec,) = (json.loads(spec) for (spec,) in store.rows("SELECT spec FROM encoders"))
        assert spec["context"] == 4
        assert store.rows("SELECT n_tokens, status FROM encodings ORDER BY example_id") == [
            (4, "truncated: kept 4 of 8 tokens"), (2, "ok"), (3, "ok")]  # fmt: skip
    other = run(
        "ingest",
        command,
        filled,
        "--model",
        folder,
        *(("--projection-dim", "4") if command == "gradients" else ()),
    )
    assert other.exit_code == 2
    assert "context 4 there and 32 now" in other.output
    refused = run("ingest", command, filled, "--model", folder, "--max-length", "33", "--name", "n")
    assert "--max-length 33: must be between 2 and 32" in refused.output


def test_a_prompt_is_asked_at_the_encoders_length(filled: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    ingest(filled, folder, "--max-length", "4")
    result = run("ask", filled, "a a a a a b", " c d")
    assert result.exit_code == 0, result.output
    shown = run("ask", filled, "a b", " c d")
    probability = [text.splitlines()[1].rpartition(" = ")[2] for text in (result.output, shown.output)]
    assert probability[0] == probability[1]
    assert result.output.splitlines()[2:] == shown.output.splitlines()[2:]


def encoders_of(store: Path) -> list[str]:
    with attrstore.open(store) as opened:
        return [name for (name,) in opened.rows("SELECT name FROM encoders ORDER BY created")]


def test_the_state_beside_the_model_is_used_and_named(filled: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    assert f"optimizer's state: none; there is no {folder / 'optimizer.pt'}" in ingest(
        filled, folder, "--name", "before"
    )
    tiny.adam_state(folder)
    # The encoder that is there is gone on with, and that is said.
    said = ingest(filled, folder, "--name", "before")
    assert "before: 0 examples" in said
    assert "optimizer's state: none, as before was made without one" in said
    given = ingest(filled, folder, "--optimizer-state", folder / "optimizer.pt", "--name", "corrected")
    assert "corrected: 3 examples" in given
    said = ingest(filled, folder, "--name", "corrected")  # now that it is there, so does the rule
    assert "corrected: 0 examples" in said
    assert f"optimizer's state: {folder / 'optimizer.pt'}, beside the model" in said
    assert encoders_of(filled) == ["before", "corrected"]


def test_a_new_store_takes_it_by_default_and_none_refuses_it(filled: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    tiny.adam_state(folder)
    ingest(filled, folder)
    assert "as --optimizer-state none asks" in ingest(filled, folder, "--optimizer-state", "none")
    assert encoders_of(filled) == ["k4-halfbit-factored", "k4-halfbit"]
    run("score", filled, "cosine-block")
    for options, said in (
        ((), "adamw, learning rate 1e-06"),
        (("--optimizer-state", "none"), "sgd, learning rate 0.001"),
    ):
        result = run("tail-patch", filled, *options)
        assert result.exit_code == 0, result.output
        assert said in result.output
        assert "optimizer's state: " in result.output


def test_a_state_beside_the_model_that_does_not_fit_is_left_and_named(filled: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    torch.save({"state": {}, "param_groups": [{"params": [0]}]}, folder / "optimizer.pt")
    said = ingest(filled, folder)
    assert f"optimizer's state: none; {folder / 'optimizer.pt'} is not used: fits no order" in said
    given = run(
        "ingest", "gradients", filled, "--model", folder, "--optimizer-state", folder / "optimizer.pt"
    )
    assert given.exit_code == 2
