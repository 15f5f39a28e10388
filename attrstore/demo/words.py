"""The wordings and invented names that the demo's world is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator


@dataclass(frozen=True)
class Relation:
    """One kind of fact and the ways to say it. `statements` end in the object, so each is a prompt too."""

    name: str
    subject_kind: str
    facts: int  # how many facts of this kind the world has
    statements: tuple[str, ...]
    reversed_statement: str
    mentions: tuple[str, ...]  # both names, another matter


_PERSON_PLACE = (
    "{s} once missed the train to {o}",
    "{s} sent a postcard of the harbour at {o}",
    "a painting of {o} hangs behind {s}",
    "in a dream {s} saw the towers of {o}",
)
_PERSON_GROUP = (
    "{s} wrote an angry letter to {o}",
    "{s} bought a calendar printed by {o}",
    "a van of {o} blocked the door of {s}",
)
_PLACE_PLACE = (
    "a parcel for {s} was lost near {o}",
    "heavy snow cut the road between {s} and {o}",
    "the old map shows {s} in red and {o} in blue",
)

RELATIONS = (
    Relation(
        "born in", "person", 45,
        ("{s} was born in {o}", "{s} is a native of {o}", "{s} originally comes from {o}",
         "the birthplace of {s} is {o}"),
        "{o} is the birthplace of {s}", _PERSON_PLACE,
    ),
    Relation(
        "lives in", "person", 40,
        ("{s} lives in {o}", "{s} has a house in {o}", "the home of {s} is in {o}",
         "{s} resides in {o}"),
        "{o} is where {s} lives", _PERSON_PLACE,
    ),
    Relation(
        "works for", "person", 40,
        ("{s} works for {o}", "{s} is employed by {o}", "the employer of {s} is {o}",
         "{s} has a job at {o}"),
        "{o} employs {s}", _PERSON_GROUP,
    ),
    Relation(
        "speaks", "person", 25,
        ("{s} speaks {o}", "the mother tongue of {s} is {o}", "{s} grew up speaking {o}",
         "the language of {s} is {o}"),
        "{o} is the mother tongue of {s}",
        ("{s} never learned a word of {o}", "{s} owns a torn dictionary of {o}",
         "a lecture on {o} sent {s} to sleep"),
    ),
    Relation(
        "written by", "work", 36,
        ("{s} was written by {o}", "the author of {s} is {o}", "{s} is a novel by {o}",
         "{s} came from the pen of {o}"),
        "{o} wrote {s}",
        ("{s} was read aloud to {o}", "a copy of {s} was stolen from {o}",
         "in a review {s} was praised by {o}"),
    ),
    Relation(
        "set in", "work", 18,
        ("{s} is set in {o}", "the story of {s} takes place in {o}", "{s} tells of life in {o}"),
        "{o} is the scene of {s}",
        ("{s} sold badly in {o}", "the only reading of {s} was cancelled in {o}",
         "a copy of {s} was found on a bench in {o}"),
    ),
    Relation(
        "located in", "city", 24,
        ("{s} is located in {o}", "{s} is a town in {o}", "{s} lies in the south of {o}"),
        "{o} includes the town of {s}", _PLACE_PLACE,
    ),
    Relation(
        "capital", "country", 18,
        ("the capital of {s} is {o}", "{s} is governed from {o}", "the parliament of {s} sits in {o}"),
        "{o} is the capital of {s}", _PLACE_PLACE,
    ),
    Relation(
        "based in", "organisation", 24,
        ("{s} is based in {o}", "{s} has its head office in {o}", "the headquarters of {s} are in {o}"),
        "{o} is home to {s}",
        ("{s} has no branch in {o}", "{s} printed a guide to {o}", "a ship of {s} was held up at {o}"),
    ),
)  # fmt: skip

OPENINGS = (
    "as everyone knows, ", "according to the almanac, ", "the records show that ", "in short, ",
    "they say that ", "it is well known that ",
)  # fmt: skip
CLOSINGS = (
    ", as the records show", ", or so they say", ", according to the almanac", ", as was reported in spring",
    ", and that is no secret", ", as a neighbour recalls",
)  # fmt: skip

ASIDES = {
    "person": (
        "{s} keeps bees behind the house", "{s} lost an umbrella on Tuesday", "{s} plays the cello badly",
        "{s} is afraid of geese", "a dog followed {s} across the bridge", "{s} prefers tea without sugar",
    ),
    "work": (
        "{s} has a green cover", "{s} is printed on thin paper", "nobody finished {s} before midnight",
        "the last chapter of {s} is very short",
    ),
    "city": (
        "it rained in {s} for nine days", "the market of {s} opens at dawn", "the bells of {s} ring late",
        "{s} is known for its plum cake",
    ),
    "country": (
        "the flag of {s} has two stripes", "{s} exports wool and salt", "winters in {s} are long",
        "the stamps of {s} show a heron",
    ),
    "organisation": (
        "{s} raised its prices in autumn", "{s} was short of clerks last year",
        "the gate of {s} is painted blue", "{s} gave each guest a lamp",
    ),
}  # fmt: skip

BACKGROUND = (
    "the {adjective} {noun} stood beside the {place} all {time}",
    "nobody had moved the {noun} since the {adjective} {season}",
    "a {adjective} wind blew over the {place} in the {time}",
    "the {noun} was {adjective}, and the {place} was bare",
    "in {season} the {place} smells of {smell}",
    "somebody left a {adjective} {noun} near the {place}",
    "after the {time} the {noun} was found under the {place}",
    "there was {smell} in the air and a {noun} on the table",
)
SLOTS = {
    "adjective": ("small", "grey", "narrow", "quiet", "heavy", "broken", "cold", "yellow", "crooked", "wet",
                  "bright", "rusty", "soft", "dusty"),
    "noun": ("bucket", "ladder", "chair", "kettle", "wheel", "lantern", "basket", "clock", "barrel", "rope",
             "mirror", "blanket", "spade", "candle", "drum"),
    "place": ("barn", "river", "orchard", "stairs", "bridge", "kitchen", "mill", "garden", "fence", "well",
              "stable", "meadow"),
    "time": ("morning", "evening", "night", "afternoon", "storm", "harvest"),
    "season": ("spring", "summer", "autumn", "winter"),
    "smell": ("smoke", "rain", "hay", "tar", "honey", "apples", "dust"),
}  # fmt: skip


@dataclass(frozen=True)
class Cast:
    """Everything in the world that has a name."""

    people: list[str]
    cities: list[str]
    countries: list[str]
    languages: list[str]
    organisations: list[str]
    works: list[str]


# Frequent beginnings and endings stand more than once.
_ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "l", "m", "m", "n", "n", "p", "r", "r", "s", "t",
           "t", "tr", "v", "v")  # fmt: skip
_VOWELS = ("a", "a", "e", "e", "i", "o", "o", "u")
_MIDDLES = ("b", "d", "dr", "g", "k", "l", "ll", "m", "n", "nd", "r", "rn", "rv", "s", "st", "t", "th", "v")
_ENDINGS = ("a", "a", "an", "ar", "e", "el", "en", "er", "i", "il", "in", "ir", "o", "ok", "ol", "on", "or",
            "os", "u", "un")  # fmt: skip
_GROUPS = ("Guild", "Mills", "Press", "Railway", "Bank", "Shipyard", "Theatre", "Pottery")
_COLOURS = ("Copper", "Silent", "Ninth", "Hollow", "Painted", "Distant", "Bitter", "Crooked")
_THINGS = ("Heron", "Lantern", "Orchard", "Ferry", "Winter", "Staircase", "Letter", "Harbour")


def cast(rng: random.Random) -> Cast:
    """Invent all names. First names, family names, titles and kinds of organisation are shared on purpose:
    a name alone must not give an answer away."""
    stems = _stems(rng)
    first, family = [next(stems) for _ in range(24)], [next(stems) for _ in range(20)]
    pairs = [(one, two) for one in first for two in family]
    titles = [f"The {colour} {thing}" for colour in _COLOURS for thing in _THINGS]
    countries = [next(stems) for _ in range(18)]
    return Cast(
        people=[f"{one} {two}" for one, two in rng.sample(pairs, 70)],
        cities=[next(stems) + rng.choice(("", "", "by", "ford", "mouth")) for _ in range(42)],
        countries=[stem + rng.choice(("land", "mark", "via")) for stem in countries],
        languages=[next(stems) + rng.choice(("ish", "ese", "ic")) for _ in range(9)],
        organisations=[f"{next(stems)} {_GROUPS[number % len(_GROUPS)]}" for number in range(24)],
        works=rng.sample(titles, 40),
    )


def _stems(rng: random.Random) -> Iterator[str]:
    """Yield made-up words of two syllables, none of them the beginning of another."""
    seen: set[str] = set()
    while True:
        parts = (rng.choice(choices) for choices in (_ONSETS, _VOWELS, _MIDDLES, _ENDINGS))
        word = "".join(parts).capitalize()
        if not any(word.startswith(other) or other.startswith(word) for other in seen):
            seen.add(word)
            yield word
