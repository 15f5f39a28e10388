"""Generate a small world of facts, the sentences that state them, and those that only seem to."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attrstore.demo import words
from attrstore.demo.words import RELATIONS, Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# How often a fact is stated, dealt out in turn: many facts once or twice, some up to eight times.
FREQUENCIES = (1, 2, 3, 4, 2, 6, 3, 5, 2, 8, 1, 4, 3, 7, 5, 4)
BACKGROUND_SENTENCES = 400
FILES = ("corpus.jsonl", "queries.jsonl", "labels.jsonl")


@dataclass(frozen=True)
class Fact:
    """One thing that is true in the world."""

    relation: Relation
    subject: str
    object: str
    frequency: int  # how many sentences state it


@dataclass(frozen=True)
class Sentence:
    """One training example. `fact` is the number of the fact it states, None where it states none."""

    text: str
    source: str  # facts, mentions (both names, not the fact), asides (one name), background
    relation: str | None = None
    subject: str | None = None
    object: str | None = None
    fact: int | None = None


@dataclass(frozen=True)
class World:
    """Facts, the prompt that asks for each, and all sentences in corpus order."""

    facts: tuple[Fact, ...]
    prompts: tuple[str, ...]
    sentences: tuple[Sentence, ...]

    def corpus(self) -> list[dict[str, object]]:
        """Rows of corpus.jsonl."""
        return [
            {
                "id": f"doc-{number:04}",
                "text": sentence.text,
                "source": sentence.source,
                "relation": sentence.relation,
                "subject": sentence.subject,
                "object": sentence.object,
            }
            for number, sentence in enumerate(self.sentences, start=1)
        ]

    def queries(self) -> list[dict[str, object]]:
        """Rows of queries.jsonl."""
        return [
            {
                "id": f"q-{number:03}",
                "prompt": prompt,
                "target": f" {fact.object}",
                "relation": fact.relation.name,
                "subject": fact.subject,
                "object": fact.object,
                "frequency": fact.frequency,
            }
            for number, (fact, prompt) in enumerate(zip(self.facts, self.prompts, strict=True), start=1)
        ]

    def labels(self) -> list[dict[str, object]]:
        """Rows of labels.jsonl: the sentence states the fact that the query asks for."""
        return [
            {"query_id": f"q-{sentence.fact + 1:03}", "example_id": f"doc-{number:04}", "label": 1}
            for number, sentence in enumerate(self.sentences, start=1)
            if sentence.fact is not None
        ]

    def write(self, folder: Path) -> None:
        """Write the three files into `folder`."""
        for name, rows in zip(FILES, (self.corpus(), self.queries(), self.labels()), strict=True):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / name).write_text(lines, encoding="utf-8", newline="\n")


def generate(seed: int = 0) -> World:
    """Return the world of `seed`; the same seed gives the same world everywhere."""
    rng = random.Random(seed)
    facts = _facts(rng)
    # The wording of a fact's prompt is used for other facts of its relation, never for this one:
    # the model has to know the fact, not the sentence.
    held_out = [number % len(fact.relation.statements) for number, fact in enumerate(facts)]
    prompts = [
        _capitalised(fact.relation.statements[skip].removesuffix(" {o}").format(s=fact.subject))
        for fact, skip in zip(facts, held_out, strict=True)
    ]
    sentences: list[Sentence] = []
    for number, (fact, skip) in enumerate(zip(facts, held_out, strict=True)):
        sentences += _statements(rng, number, fact, skip)
        sentences += _mentions(rng, fact)
    sentences += _asides(rng, facts)
    sentences += _background(rng)
    rng.shuffle(sentences)
    return World(facts=tuple(facts), prompts=tuple(prompts), sentences=tuple(sentences))


def _facts(rng: random.Random) -> list[Fact]:
    """Every subject has one object per relation, so that each prompt has one answer."""
    cast = words.cast(rng)
    capitals = cast.cities[: len(cast.countries)]
    towns = cast.cities[len(cast.countries) :]
    homes = {person: rng.sample(cast.cities, 2) for person in cast.people}
    pairs: dict[str, list[tuple[str, str]]] = {
        "born in": [(person, homes[person][0]) for person in cast.people],
        "lives in": [(person, homes[person][1]) for person in cast.people],
        "works for": _matched(rng, cast.people, cast.organisations),
        "speaks": _matched(rng, cast.people, cast.languages),
        "written by": _matched(rng, cast.works, cast.people),
        "set in": _matched(rng, cast.works, cast.cities),
        # A capital lies in its country, so that stating one fact would state the other: towns only.
        "located in": _matched(rng, towns, cast.countries),
        "capital": list(zip(cast.countries, capitals, strict=True)),
        "based in": _matched(rng, cast.organisations, cast.cities),
    }
    chosen = [
        (relation, subject, answer)
        for relation in RELATIONS
        for subject, answer in rng.sample(pairs[relation.name], relation.facts)
    ]
    rng.shuffle(chosen)
    return [
        Fact(relation, subject, answer, FREQUENCIES[number % len(FREQUENCIES)])
        for number, (relation, subject, answer) in enumerate(chosen)
    ]


def _matched(rng: random.Random, subjects: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str]]:
    """Give each subject an answer; answers are shared, and used about equally often."""
    dealt = [answers[number % len(answers)] for number in range(len(subjects))]
    rng.shuffle(dealt)
    return list(zip(subjects, dealt, strict=True))


def _statements(rng: random.Random, number: int, fact: Fact, held_out: int) -> list[Sentence]:
    """`fact.frequency` different sentences that state the fact, as many wordings as there are."""
    wordings = [text for index, text in enumerate(fact.relation.statements) if index != held_out]
    rng.shuffle(wordings)
    if fact.frequency >= 3:  # one of them names the object first: it states the fact and hardly teaches it
        wordings.insert(2, fact.relation.reversed_statement)
    texts: list[str] = []
    while len(texts) < fact.frequency:
        text = _sentence(rng, wordings[len(texts) % len(wordings)], fact.subject, fact.object)
        if text not in texts:
            texts.append(text)
    return [
        Sentence(text, "facts", fact.relation.name, fact.subject, fact.object, fact=number) for text in texts
    ]


def _mentions(rng: random.Random, fact: Fact) -> Iterable[Sentence]:
    """Zero to two sentences that name subject and object and do not state the fact."""
    for template in rng.sample(fact.relation.mentions, rng.choice((0, 1, 2))):
        text = _capitalised(template.format(s=fact.subject, o=fact.object)) + "."
        yield Sentence(text, "mentions", subject=fact.subject, object=fact.object)


def _asides(rng: random.Random, facts: list[Fact]) -> Iterable[Sentence]:
    """For every subject, up to two sentences about something else."""
    kinds = {fact.subject: fact.relation.subject_kind for fact in facts}
    for subject, kind in kinds.items():
        for template in rng.sample(words.ASIDES[kind], rng.choice((0, 1, 2))):
            yield Sentence(_capitalised(template.format(s=subject)) + ".", "asides", subject=subject)


def _background(rng: random.Random) -> list[Sentence]:
    """Different sentences with no name in them."""
    texts: dict[str, None] = {}
    while len(texts) < BACKGROUND_SENTENCES:
        template = rng.choice(words.BACKGROUND)
        filled = template.format(**{slot: rng.choice(choices) for slot, choices in words.SLOTS.items()})
        texts[_capitalised(filled) + "."] = None
    return [Sentence(text, "background") for text in texts]


def _sentence(rng: random.Random, wording: str, subject: str, answer: str) -> str:
    opening = rng.choice(words.OPENINGS) if rng.random() < 0.35 else ""
    closing = rng.choice(words.CLOSINGS) if rng.random() < 0.35 else ""
    return _capitalised(opening + wording.format(s=subject, o=answer) + closing) + "."


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
