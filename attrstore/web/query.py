"""One query: what it asks, and the two columns of its proponents."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

from attrstore.errors import InputError
from attrstore.web.cards import columns
from attrstore.web.frame import chosen_pair, hidden, nothing, number, page, select, sides
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.queries import listed, saying
from attrstore.web.stretch import rows

if TYPE_CHECKING:
    from attrstore.web.address import Address
    from attrstore.web.frame import Pair
    from attrstore.web.kept import Snapshot

DEPTHS = (5, 10, 20, 50, 100, 200)


class Query(NamedTuple):
    """One query as it is stored."""

    query_id: int
    name: str
    prompt: str
    target: str
    metadata: str | None
    logprob: float | None
    labels: dict[int, float]  # by example

    @property
    def known(self) -> dict[str, object]:
        """The metadata, by key."""
        found = json.loads(self.metadata or "{}")
        return found if isinstance(found, dict) else {}


def query_page(snapshot: Snapshot, address: Address) -> str:
    """Return the page at `/query`."""
    query = find(snapshot, address.id)
    pair = chosen_pair(snapshot, address)
    before, after = _neighbours(snapshot, address, pair)
    body: list[Child] = [
        _way(address, before, after),
        heading(query),
    ]
    if pair is None:
        command = f"attrstore score {snapshot.store.path.name} bm25"
        return page(snapshot, address, "/query", query.name, *body, nothing("No scorings yet.", command))
    body.append(_form(snapshot, address, pair))
    body.append(columns(snapshot, address, pair, query))
    return page(snapshot, address, "/query", query.name, *body)


def find(snapshot: Snapshot, name: str) -> Query:
    """Return the query called so.

    Raises `InputError` when there is none.
    """
    found = snapshot.store.named("web", "query", {"id": name}).fetchall()
    if not found:
        raise InputError(f"no query is called {name!r}.")
    query_id, _, prompt, target, metadata = found[0]
    encoders = snapshot.once("encoders", lambda s: s.named("web", "gradient_encoders").fetchall())
    losses = (loss for (e,) in encoders for (loss,) in rows(snapshot, "losses", query_id, encoder=e))
    loss = next(losses, None)
    labels = dict(rows(snapshot, "labels", query_id))
    return Query(query_id, name, prompt, target, metadata, None if loss is None else -loss, labels)


def heading(query: Query) -> Markup:
    """Return prompt and target, how likely the target is, and what is known of the query."""
    facts: list[tuple[str, str]] = [("query", query.name)]
    if query.logprob is not None:
        facts.append(("log-probability", number(query.logprob)))
        facts.append(("probability", f"{math.exp(min(query.logprob, 0.0)):.1%}"))
    facts.append(("labelled examples", f"{sum(label > 0 for label in query.labels.values()):,}"))
    facts += [(key, _short(value)) for key, value in query.known.items()]
    known = [el("div", el("dt", key), el("dd", el("bdi", value))) for key, value in facts]
    return join(
        (el("h1", saying(query.prompt, query.target), class_="saying"), el("dl", *known, class_="facts"))
    )


def _form(snapshot: Snapshot, address: Address, pair: Pair) -> Markup:
    found = snapshot.once("sources", lambda s: s.named("web", "sources").fetchall())
    depths = sorted({*DEPTHS, address.n})
    fields: list[Child] = [
        *hidden(address, "id", "at", "search", "key", "value", "metric", "low", "high", "sort"),
        sides(pair),
        select("n", "Each", [(str(n), f"first {n}") for n in depths], str(address.n)),
    ]
    if found:
        options = [("", "all"), *((source, source) for source, _ in found)]
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
    first = max(address.at - 1, 1)
    ids = {at: one.query_id for at, one in enumerate(found.rows(first - 1, address.at + 1), first)}
    names = dict(snapshot.store.named("web", "query_names", {"ids": list(ids.values())}).fetchall())
    before, after = (
        address.to("/query", id=names[ids[at]], at=at) if at in ids else None
        for at in (address.at - 1, address.at + 1)
    )
    return before, after


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
