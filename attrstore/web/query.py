"""One query: the proponents of two scorings side by side, and what ties them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

from attrstore.errors import InputError
from attrstore.web import marks, parts
from attrstore.web.frame import chosen_pair, hidden, nothing, number, page, select, sides, signed, state
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.queries import listed, saying

if TYPE_CHECKING:
    from attrstore.store import Store
    from attrstore.web.address import Address
    from attrstore.web.frame import Pair
    from attrstore.web.lease import Snapshot

DEPTHS = (5, 10, 20, 50, 100, 200)


class Query(NamedTuple):
    """One query as it is stored."""

    query_id: int
    name: str
    prompt: str
    target: str
    metadata: str | None
    logprob: float | None
    labelled: int

    @property
    def known(self) -> dict[str, object]:
        """The metadata, by key."""
        found = json.loads(self.metadata or "{}")
        return found if isinstance(found, dict) else {}


class Card(NamedTuple):
    """An example that at least one of two scorings ranks for a query."""

    example_id: int
    name: str
    text: str
    length: int
    source: str | None
    a_rank: int | None
    a_score: float | None
    b_rank: int | None
    b_score: float | None
    a_number: int | None
    b_number: int | None
    label: float | None
    tail_patch: float | None
    kind: str | None


class Shown(NamedTuple):
    """What the cards of one query have in common."""

    words: marks.Words
    ties: dict[int, int]  # of the examples in both columns
    tints: dict[tuple[str, int], list[parts.Part]]  # of the explained pairs, by scoring and example


def query_page(snapshot: Snapshot, address: Address) -> str:
    """Return the page at `/query`."""
    query = find(snapshot.store, address.id)
    pair = chosen_pair(snapshot, address)
    before, after = _neighbours(snapshot, address, pair)
    body: list[Child] = [
        _way(address, before, after),
        heading(query),
    ]
    if pair is None:
        command = f"attrstore score {snapshot.store.path.name} bm25"
        return page(snapshot, address, "/query", query.name, *body, nothing("No scorings yet.", command))
    body.append(_form(snapshot, address, pair, query))
    body.append(columns(snapshot, address, pair, query))
    return page(snapshot, address, "/query", query.name, *body)


def find(store: Store, name: str) -> Query:
    """Return the query called so.

    Raises `InputError` when there is none.
    """
    found = store.named("web", "query", {"id": name}).fetchall()
    if not found:
        raise InputError(f"no query is called {name!r}.")
    return Query(*found[0])


def heading(query: Query) -> Markup:
    """Return prompt and target, how likely the target is, and what is known of the query."""
    facts: list[tuple[str, str]] = [("query", query.name)]
    if query.logprob is not None:
        facts.append(("log-probability", number(query.logprob)))
        facts.append(("probability", f"{math.exp(min(query.logprob, 0.0)):.1%}"))
    facts.append(("labelled examples", f"{query.labelled:,}"))
    facts += [(key, _short(value)) for key, value in query.known.items()]
    known = [el("div", el("dt", key), el("dd", el("bdi", value))) for key, value in facts]
    return join(
        (el("h1", saying(query.prompt, query.target), class_="saying"), el("dl", *known, class_="facts"))
    )


def columns(snapshot: Snapshot, address: Address, pair: Pair, query: Query) -> Markup:
    """Return both columns of proponents, and of opponents when asked for."""
    ends: list[Child] = [_end(snapshot.store, address, pair, query, 1)]
    if address.opponents:
        ends.append(_end(snapshot.store, address, pair, query, -1))
    else:
        more = el("a", "Show opponents", href=f"{address.to('/query', opponents=1)}#opponents")
        ends.append(el("p", more, class_="more"))
    return el("div", *ends, class_="ends")


def _end(store: Store, address: Address, pair: Pair, query: Query, sign: int) -> Markup:
    cards = _cards(store, address, pair, query, sign)
    what = _words(store, query)
    tints = parts.explained(store, query.query_id, (pair.a.scoring_id, pair.b.scoring_id))
    title = "Proponents" if sign > 0 else "Opponents"
    both = {c.example_id for c in cards if _shown(c.a_number, address) and _shown(c.b_number, address)}
    ties = {example: i for i, example in enumerate(sorted(both), 1)}
    lists = [_column(cards, side, pair, address, Shown(what, ties, tints)) for side in ("a", "b")]
    return el(
        "section",
        el("h2", title, el("span", f" {len(both)} shared", class_="quiet")),
        el("div", *lists, class_="columns"),
        id=address.prefix + title.lower(),
        class_="end",
    )


def _cards(store: Store, address: Address, pair: Pair, query: Query, sign: int) -> list[Card]:
    known = query.known
    parameters = {
        **{
            key: None if known.get(key) is None else str(known[key])
            for key in ("subject", "object", "relation")
        },
        "a": pair.a.scoring_id,
        "b": pair.b.scoring_id,
        "query": query.query_id,
        "n": address.n,
        "source": address.source or None,
        "sign": sign,
        "length": marks.FETCHED,
    }
    return [Card(*row) for row in store.named("web", "pairs", parameters).fetchall()]


def _words(store: Store, query: Query) -> marks.Words:
    every = list({*marks.split(query.prompt), *marks.split(query.target)})
    rare = store.named("web", "rare_words", {"words": every}).fetchall()
    return marks.words(query.prompt, query.target, frozenset(word for (word,) in rare))


def _shown(number_in_column: int | None, address: Address) -> bool:
    return number_in_column is not None and number_in_column <= address.n


def _column(cards: list[Card], side: str, pair: Pair, address: Address, shown: Shown) -> Markup:
    scoring = pair.a if side == "a" else pair.b
    place = "a_number" if side == "a" else "b_number"
    mine = sorted(
        (c for c in cards if _shown(getattr(c, place), address)), key=lambda c: int(getattr(c, place))
    )
    items = [el("li", _card(card, side, pair, shown, address)) for card in mine]
    empty = el("p", f"{scoring.name} found nothing here.", class_="nothing")
    heading = el("h3", scoring.name, el("span", f" {scoring.family}", class_="quiet"), state(scoring))
    return el("div", heading, el("ol", *items) if items else empty, class_=f"column side-{side}")


def _card(card: Card, side: str, pair: Pair, shown: Shown, address: Address) -> Markup:
    rank, score = (card.a_rank, card.a_score) if side == "a" else (card.b_rank, card.b_score)
    stated = (card.label or 0) > 0
    tied = card.example_id in shown.ties
    tokens = shown.tints.get(((pair.a if side == "a" else pair.b).scoring_id, card.example_id))
    tint = address.tint and tokens and card.length <= marks.SHOWN
    text = (
        parts.tinted(card.text, tokens or ()) if tint else marks.excerpt(card.text, card.length, shown.words)
    )
    head = el(
        "header",
        el("span", _rank(rank), class_="rank"),
        el("span", number(score, 4), class_="score", title="score"),
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
    other, rank, score = (
        (pair.b, card.b_rank, card.b_score) if side == "a" else (pair.a, card.a_rank, card.a_score)
    )
    if rank is None:
        return join((other.name, " –"))
    says = el("span", f"{other.name} {_rank(rank)}", title=f"score {number(score, 4)}")
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
    why = address.to("/why", example=card.name)
    if explained and why:
        facts.append(el("a", "why", href=why))
    return el("footer", *(el("span", fact) for fact in facts))


def _rank(rank: int | None) -> str:
    return "–" if rank is None else f"{rank:,}".replace("-", "−")


def _form(snapshot: Snapshot, address: Address, pair: Pair, query: Query) -> Markup:
    ids = {"query": query.query_id, "a": pair.a.scoring_id, "b": pair.b.scoring_id}
    found = snapshot.store.named("web", "sources", ids).fetchall()
    depths = sorted({*DEPTHS, address.n})
    fields: list[Child] = [
        *hidden(address, "id", "at", "search", "key", "value", "metric", "low", "high", "sort"),
        sides(pair),
        select("n", "Each", [(str(n), f"first {n}") for n in depths], str(address.n)),
    ]
    if found:
        options = [("", "all"), *((source, f"{source} ({n:,})") for source, n in found)]
        fields.append(select("source", "Source", options, address.source))
    fields += [_check(address, "opponents", "Opponents"), _check(address, "tint", "Tint tokens")]
    return el("form", *fields, el("button", "Show", type="submit"), class_="filters", action="/query")


def _check(address: Address, name: str, says: str) -> Markup:
    on = bool(getattr(address, name))
    box = el("input", type="checkbox", name=name, value="1", checked=on, data_submit=True)
    return el("label", box, el("span", says), class_="check")


def _neighbours(snapshot: Snapshot, address: Address, pair: Pair | None) -> tuple[str | None, str | None]:
    """Return the addresses of the queries before and after this one in the list that it was opened from."""
    if not address.at:
        return None, None
    found = listed(snapshot, address, pair)

    def link(at: int) -> str | None:
        if not 1 <= at <= len(found):
            return None
        name = snapshot.store.value(
            "SELECT external_id FROM queries WHERE query_id = $id", {"id": found[at - 1].query_id}
        )
        return address.to("/query", id=str(name), at=at)

    return link(address.at - 1), link(address.at + 1)


def _way(address: Address, before: str | None, after: str | None) -> Markup:
    back = address.list_only().to("/", page=max(1, -(-address.at // 50)))
    steps = [
        el("a", says, href=link, rel=rel) if link else el("span", says, class_="off")
        for says, link, rel in (("← Previous", before, "prev"), ("Next →", after, "next"))
    ]
    place = el("span", f"{address.at:,}") if address.at else None
    return el("nav", el("a", "All queries", href=back, data_key="u"), *steps[:1], place, *steps[1:],
              class_="way", aria_label="Queries")  # fmt: skip


def _short(value: object) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 120 else shown[:119] + "…"
