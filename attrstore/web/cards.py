"""The cards of one query: what two scorings rank for it, side by side, and what ties them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attrstore.web import marks, parts
from attrstore.web.frame import number, signed, state
from attrstore.web.kinds import kind, words_of
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.stretch import rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attrstore.store import Store
    from attrstore.web.address import Address
    from attrstore.web.frame import Pair
    from attrstore.web.kept import Snapshot
    from attrstore.web.query import Query


class Place(NamedTuple):
    """Where a scoring has an example: its rank, and its score."""

    rank: int
    score: float


class Card(NamedTuple):
    """An example that at least one of two scorings ranks for a query."""

    example_id: int
    name: str
    text: str
    length: int
    source: str | None
    a: Place | None
    b: Place | None
    label: float | None
    tail_patch: float | None
    kind: str | None


class Shown(NamedTuple):
    """What the cards of one query have in common."""

    words: marks.Words
    ties: dict[int, int]  # of the examples in both columns
    tints: dict[tuple[str, int], list[parts.Part]]  # of the explained pairs, by scoring and example


class Ranked(NamedTuple):
    """What each of two scorings keeps of a query, by example."""

    a: dict[int, Place]
    b: dict[int, Place]

    def first(self, side: str, sign: int, n: int) -> list[int]:
        """Return the first `n` examples of one end of a side, the strongest first."""
        places = self.a if side == "a" else self.b
        of_end = [(abs(place.rank), example) for example, place in places.items() if place.rank * sign > 0]
        return [example for _, example in sorted(of_end)[:n]]


def columns(snapshot: Snapshot, address: Address, pair: Pair, query: Query) -> Markup:
    """Return both columns of proponents, and of opponents when asked for."""
    ranked = _ranked(snapshot, address, pair, query)
    signs = (1, -1) if address.opponents else (1,)
    ends = {sign: (ranked.first("a", sign, address.n), ranked.first("b", sign, address.n)) for sign in signs}
    cards = _cards(snapshot, query, ranked, {e for both in ends.values() for side in both for e in side})
    what = _words(snapshot, query)
    tints = parts.explained(snapshot, query.query_id, pair)
    shown: list[Child] = [
        _end(cards, both, pair, address, sign=sign, shown=Shown(what, _ties(both), tints))
        for sign, both in ends.items()
    ]
    if not address.opponents:
        more = el("a", "Show opponents", href=f"{address.to('/query', opponents=1)}#opponents")
        shown.append(el("p", more, class_="more"))
    return el("div", *shown, class_="ends")


def _ties(both: tuple[list[int], list[int]]) -> dict[int, int]:
    return {example: i for i, example in enumerate(sorted({*both[0]} & {*both[1]}), 1)}


def _end(
    cards: Mapping[int, Card],
    both: tuple[list[int], list[int]],
    pair: Pair,
    address: Address,
    *,
    sign: int,
    shown: Shown,
) -> Markup:
    title = "Proponents" if sign > 0 else "Opponents"
    lists = [
        _column([cards[example] for example in examples if example in cards], side, pair, address, shown)
        for side, examples in zip("ab", both, strict=True)
    ]
    return el(
        "section",
        el("h2", title, el("span", f" {len(shown.ties)} shared", class_="quiet")),
        el("div", *lists, class_="columns"),
        id=address.prefix + title.lower(),
        class_="end",
    )


# From the store


def _ranked(snapshot: Snapshot, address: Address, pair: Pair, query: Query) -> Ranked:
    sides = (pair.a.scoring_id, pair.b.scoring_id)
    if not address.source:
        kept = (rows(snapshot, "ranked", query.query_id, scoring=scoring) for scoring in sides)
        return Ranked(*({example: Place(*place) for example, *place in side} for side in kept))
    asked = {"query": query.query_id, "a": sides[0], "b": sides[1], "source": address.source}
    of: dict[str, dict[int, Place]] = {scoring: {} for scoring in sides}
    for example, scoring, rank, score in snapshot.store.named("web", "ranked_of_source", asked).fetchall():
        of[scoring][example] = Place(rank, score)
    return Ranked(*(of[scoring] for scoring in sides))


def _cards(snapshot: Snapshot, query: Query, ranked: Ranked, examples: set[int]) -> dict[int, Card]:
    asked = {"ids": sorted(examples), "length": marks.FETCHED}
    texts = snapshot.store.named("web", "example_texts", asked).fetchall()
    kinds = _kinds(snapshot, query, texts)
    patches = _patches(snapshot, query)
    return {
        example: Card(
            example,
            name,
            text,
            length,
            source,
            ranked.a.get(example),
            ranked.b.get(example),
            query.labels.get(example),
            patches.get(example),
            kinds.get(example),
        )
        for example, name, text, length, source, _ in texts
    }


def _kinds(
    snapshot: Snapshot, query: Query, examples: list[tuple[int, str, str, int, str | None, str | None]]
) -> dict[int, str]:
    """Return the kind of each example; none where the query names no subject and object."""
    known = query.known
    subject, object_, relation = (
        None if known.get(key) is None else str(known[key]) for key in ("subject", "object", "relation")
    )
    if subject is None or object_ is None:
        return {}
    spelt_subject, spelt_object, *texts = words_of(
        snapshot, [subject, object_, *(row[2] for row in examples)]
    )
    return {
        row[0]: kind(
            query.labels.get(row[0]),
            text,
            spelt_subject,
            spelt_object,
            same_relation=relation is not None and row[5] == relation,
        )
        for row, text in zip(examples, texts, strict=True)
    }


def _patches(snapshot: Snapshot, query: Query) -> dict[int, float]:
    """Return the tail-patch of the query's measured pairs, in the setting that measured most."""
    settings = snapshot.once("patched", lambda s: s.named("web", "patched").fetchall())
    if not settings:
        return {}
    asked = dict(zip(("model", "optimizer", "rate"), settings[0], strict=True))
    return dict(rows(snapshot, "patches", query.query_id, **asked))


def _words(snapshot: Snapshot, query: Query) -> marks.Words:
    return marks.words(query.prompt, query.target, common_words(snapshot))


def common_words(snapshot: Snapshot) -> frozenset[str]:
    """Return the words that say nothing of what two texts share."""

    def make(store: Store) -> frozenset[str]:
        return frozenset(word for (word,) in store.named("web", "common_words").fetchall())

    return snapshot.once("common words", make)


# On the page


def _column(cards: list[Card], side: str, pair: Pair, address: Address, shown: Shown) -> Markup:
    scoring = pair.a if side == "a" else pair.b
    items = [el("li", _card(card, side, pair, shown, address)) for card in cards]
    empty = el("p", f"{scoring.name} found nothing here.", class_="nothing")
    heading = el("h3", scoring.name, el("span", f" {scoring.family}", class_="quiet"), state(scoring))
    return el("div", heading, el("ol", *items) if items else empty, class_=f"column side-{side}")


def _card(card: Card, side: str, pair: Pair, shown: Shown, address: Address) -> Markup:
    here = card.a if side == "a" else card.b
    rank = _rank(here)
    stated = (card.label or 0) > 0
    tied = card.example_id in shown.ties
    tokens = shown.tints.get(((pair.a if side == "a" else pair.b).scoring_id, card.example_id))
    tint = address.tint and tokens and card.length <= marks.SHOWN
    text = (
        parts.tinted(card.text, tokens or ()) if tint else marks.excerpt(card.text, card.length, shown.words)
    )
    head = el(
        "header",
        el("span", rank, class_="rank"),
        el("span", number(here and here.score, 4), class_="score", title="score"),
        el("span", "✓ states it", class_="stated") if stated else None,
        el("span", _elsewhere(card, side, pair, address, tied=tied), class_="elsewhere"),
    )
    return el(
        "article",
        head,
        el("p", text, class_="text", dir="auto"),
        _foot(card, address, explained=tokens is not None),
        id=f"{address.prefix}{side}-{card.example_id}",
        tabindex=-1,
        data_example=card.example_id if tied else None,
        class_="stating" if stated else None,
        aria_label=f"{rank}, {card.name}",
    )


def _elsewhere(card: Card, side: str, pair: Pair, address: Address, *, tied: bool) -> Markup:
    """Say where the other column's scoring has the example; a link where that column shows it."""
    other, there = (pair.b, card.b) if side == "a" else (pair.a, card.a)
    if there is None:
        return join((other.name, " –"))
    says = el("span", f"{other.name} {_rank(there)}", title=f"score {number(there.score, 4)}")
    across = "b" if side == "a" else "a"
    return el("a", says, href=f"#{address.prefix}{across}-{card.example_id}", class_="tie") if tied else says


def _foot(card: Card, address: Address, *, explained: bool) -> Markup:
    facts: list[Child] = [el("a", el("bdi", card.name), href=address.to("/example", id=card.name, at=0))]
    if card.source:
        facts.append(el("bdi", card.source))
    if card.kind not in (None, "states the fact", "other"):
        facts.append(card.kind)
    if card.tail_patch is not None:
        says = f"tail-patch {signed(card.tail_patch)}"
        facts.append(el("span", says, class_="up" if card.tail_patch > 0 else "down"))
    if card.length > marks.SHOWN:
        facts.append(f"{card.length:,} characters")
    if explained and (why := address.to("/why", example=card.name)):
        facts.append(el("a", "why", href=why))
    return el("footer", *(el("span", fact) for fact in facts))


def _rank(place: Place | None) -> str:
    return "–" if place is None else f"{place.rank:,}".replace("-", "−")
