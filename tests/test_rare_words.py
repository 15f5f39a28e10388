"""Which words the page marks as shared by two texts: those that few examples have."""

from __future__ import annotations

from pathlib import Path

import pytest

import attrstore
from attrstore.ingest.lexical import ingest_lexical
from tests import tiny


@pytest.mark.parametrize("stemmer", [None, "english"])
def test_words_of_many_examples_are_not_marked_as_shared(path: Path, stemmer: str | None) -> None:
    """Of 60 examples all have `rivers`, three `boats` and two `harbours`: one in twenty is where rare begins."""
    with attrstore.open(path, create=True) as store:
        words = ["rivers boats harbours"] * 2 + ["rivers boats"] + ["rivers"] * 57
        tiny.fill(store, words, [])
        ingest_lexical(store, stemmer=stemmer)
        common = {word for (word,) in store.named("web", "common_words").fetchall()}
        assert common == {"rivers", "boats"} | ({"river", "boat"} if stemmer else set())


def test_in_a_small_corpus_a_word_of_two_examples_is_not_rare(store: attrstore.Store) -> None:
    tiny.fill(store, ["rivers boats"] * 2 + ["harbours"] + ["mills"] * 7, [])
    ingest_lexical(store)
    common = {word for (word,) in store.named("web", "common_words").fetchall()}
    assert common == {"rivers", "boats", "mills"}
