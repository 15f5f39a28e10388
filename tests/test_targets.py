"""What a query's numbers are of: its target's tokens, after as much of its prompt as the model can read."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

import attrstore
from attrstore.errors import MismatchError
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.workflows.ask import ask
from tests import tiny

CONTEXT = 32  # of the tiny models
WORDS = tiny.WORDS[2:]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model"))


def log_probability(words: list[str], n_target: int) -> float:
    """The summed log-probability of the last `n_target` words after those before them, in float64."""
    lm = tiny.model().double()
    ids = torch.tensor([[tiny.WORDS.index(word) for word in words]])
    with torch.no_grad():
        each = lm(input_ids=ids).logits[0].log_softmax(dim=1)
    places = range(len(words) - n_target, len(words))
    return sum(float(each[place - 1, ids[0, place]]) for place in places)


def encoded(path: Path, model: Path, query: tuple[list[str], list[str]]) -> tuple[Any, ...]:
    with attrstore.open(path, create=True) as store:
        prompt, target = query
        tiny.fill(store, tiny.sentences(5), [(" ".join(prompt), " " + " ".join(target))])
        ingest_gradients(store, model=model, projection_dim=4)
        (row,) = store.rows("SELECT loss, n_tokens, status, vector IS NULL FROM query_encodings")
    return row


def test_a_query_longer_than_the_context_keeps_its_end(path: Path, model: Path) -> None:
    words = [WORDS[(7 * i) % len(WORDS)] for i in range(41)]
    loss, n_tokens, status, _ = encoded(path, model, (words[:38], words[38:]))
    assert (n_tokens, status) == (CONTEXT, f"truncated: kept {CONTEXT} of 41 tokens")
    assert loss == pytest.approx(-log_probability(words[-CONTEXT:], 3), rel=1e-4)


def test_a_target_as_long_as_the_context_is_skipped_and_one_shorter_counts_whole(
    path: Path, model: Path
) -> None:
    words = [WORDS[(5 * i) % len(WORDS)] for i in range(CONTEXT + 2)]
    row = encoded(path, model, (words[:2], words[2:]))
    assert row[0] is None
    assert row[2:] == (f"skipped: the target has {CONTEXT} tokens, context {CONTEXT}", True)
    path.unlink()
    loss, _, status, missing = encoded(path, model, (words[:2], words[3:]))
    assert status.startswith("truncated")
    assert not missing
    # One token of the prompt is left, after which all 31 of the target are foretold.
    assert loss == pytest.approx(-log_probability([words[1], *words[3:]], CONTEXT - 1), rel=1e-4)


def test_ask_gives_the_targets_probability(path: Path, model: Path) -> None:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(20), [("a b c", " d")])
        ingest_gradients(store, model=model, projection_dim=4)
    with attrstore.open(path) as store:
        answer = ask(store, "north of the river", " stone b")
    words = ["north", "of", "the", "river", "stone", "b"]
    known = [word if word in tiny.WORDS else "<unk>" for word in words]
    assert answer.probability == pytest.approx(math.exp(log_probability(known, 2)), rel=1e-4)
    assert answer.probability is not None
    assert answer.probability < 1


def test_a_known_model_with_another_tokenizer_is_refused(path: Path, model: Path, tmp_path: Path) -> None:
    """Its tokens would be other words, so that its encodings would be of other texts."""
    other = shutil.copytree(model, tmp_path / "other")
    swapped = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(reversed(tiny.WORDS))}, unk_token="<unk>")
    )
    swapped.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=swapped, unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(other)
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(5), [("a b c", " d")])
        ingest_gradients(store, model=model, projection_dim=4)
        tables = (
            "FROM models",
            "SELECT encoder_id FROM encoders",
            "SELECT encoder_id, example_id FROM encodings",
        )
        before = [store.rows(table) for table in tables]
        known = store.value("SELECT tokenizer_fingerprint FROM models")
        with pytest.raises(MismatchError, match=f"with tokenizer {known}, and this folder's tokenizer is"):
            ingest_gradients(store, model=other, projection_dim=4, name="second")
        assert [store.rows(table) for table in tables] == before
