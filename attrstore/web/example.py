"""One example: its text, and the queries that it drives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from attrstore.errors import InputError
from attrstore.web.frame import chosen_pair, number, page
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.queries import saying

if TYPE_CHECKING:
    from attrstore.web.address import Address
    from attrstore.web.frame import Scoring
    from attrstore.web.kept import Snapshot

SHOWN = 200_000  # characters


def example_page(snapshot: Snapshot, address: Address) -> str:
    """Return the page at `/example`."""
    found = snapshot.store.named("web", "example", {"id": address.id, "length": SHOWN}).fetchall()
    if not found:
        raise InputError(f"no example is called {address.id!r}.")
    example_id, name, text, length, source, metadata = found[0]
    facts = {
        "example": name,
        "source": source,
        "characters": f"{length:,}",
        **(json.loads(metadata or "{}") or {}),
    }
    known = [
        el("div", el("dt", key), el("dd", el("bdi", str(value))))
        for key, value in facts.items()
        if value is not None
    ]
    body: list[Child] = [
        el("h1", "Example"),
        el("p", text, class_="text whole", dir="auto"),
        el("p", f"The first {SHOWN:,} characters of {length:,}.", class_="quiet") if length > SHOWN else None,
        el("dl", *known, class_="facts"),
    ]
    pair = chosen_pair(snapshot, address)
    if pair:
        body += [_drives(snapshot, address, s, example_id) for s in dict.fromkeys(pair[:2])]
    return page(snapshot, address, "/example", name, *body)


def _drives(snapshot: Snapshot, address: Address, scoring: Scoring, example_id: int) -> Markup:
    asked = {"scoring": scoring.scoring_id, "example": example_id}
    rows = [_row(address, row) for row in snapshot.store.named("web", "drives", asked).fetchall()]
    heads = [el("th", says, scope="col") for says in ("Rank", "Score", "Prompt → target", "Label")]
    title = el("h2", f"Queries that have it among their first 50 by {scoring.name}")
    if not rows:
        return join((title, el("p", "None.", class_="nothing")))
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *rows), class_="drives")
    return join(
        (title, el("div", table, class_="scroll", tabindex=0, role="region", aria_label=scoring.name))
    )


def _row(address: Address, row: tuple[str, str, str, int, float, float | None]) -> Markup:
    name, prompt, target, rank, score, label = row
    link = el("a", saying(prompt, target), href=address.to("/query", id=name))
    return el(
        "tr",
        el("td", rank, class_="figure"),
        el("td", number(score, 4), class_="figure"),
        el("th", link, scope="row"),
        el("td", el("span", "✓ states it", class_="stated") if (label or 0) > 0 else None),
    )
