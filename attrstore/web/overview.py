"""The whole store at a glance: methods with intervals, how far two agree, and where they part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.web import charts
from attrstore.web.frame import chosen_pair, hidden, nothing, page, sides
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.measured import checkpoints, lds
from attrstore.web.method_table import method_table
from attrstore.web.tables import fetched, scrolling
from attrstore.web.two_scorings import agreement, by_value, plane

if TYPE_CHECKING:
    from attrstore.web.address import Address
    from attrstore.web.kept import Snapshot


def overview_page(snapshot: Snapshot, address: Address) -> str:
    """Return the page at `/overview`."""
    body = [el("h1", "Overview"), *sections(snapshot, address)]
    return page(snapshot, address, "/overview", "Overview", *body)


def sections(snapshot: Snapshot, address: Address) -> list[Child]:
    """Return what the overview shows, without what stands around it."""
    pair = chosen_pair(snapshot, address)
    if pair is None:
        command = f"attrstore score {snapshot.store.path.name} bm25"
        return [_totals(snapshot), nothing("No scorings yet.", command)]
    form = el(
        "form",
        hidden(address, "by"),
        sides(pair),
        el("button", "Show", type="submit"),
        class_="filters",
        action="/overview",
    )
    return [
        _totals(snapshot),
        method_table(snapshot, pair),
        el("h2", f"Where {pair.a.name} and {pair.b.name} part", id="part"),
        form,
        el("div", agreement(snapshot, pair), plane(snapshot, pair), class_="two"),
        by_value(snapshot, address, pair),
        _kinds(snapshot),
        lds(snapshot),
        checkpoints(snapshot),
    ]


def _totals(snapshot: Snapshot) -> Markup:
    known = [
        el("div", el("dt", name), el("dd", n))
        for name, n in zip(("examples", "queries", "labels"), snapshot.totals(), strict=True)
    ]
    return el("dl", *known, class_="facts")


def _kinds(snapshot: Snapshot) -> Markup | None:
    columns, rows = snapshot.once("kinds", lambda s: fetched(s, "report", "kinds"))
    if not rows:
        return None
    first = columns.index("states_the_fact")  # the kinds are the last columns
    names = [column.replace("_", " ") for column in columns[first:]]
    legend = [
        el(
            "li",
            charts.svg(10, 10, charts.rect(0, 0, 10, 10, f"kind-{i}"), says=None, class_="bar"),
            " ",
            name,
        )
        for i, name in enumerate(names)
    ]
    body = [
        el(
            "tr",
            el("th", row[0], scope="row"),
            el("td", charts.shares(row[first:], names)),
            el("td", f"{row[first]:.0%}", class_="figure"),
        )
        for row in rows
    ]
    heads = [
        el("th", says, scope="col", class_=class_)
        for says, class_ in (("Scoring", "words"), ("Kinds", "words"), ("State the fact", None))
    ]
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *body), class_="kinds")
    title = el("h2", "What the first ten proponents are", id="kinds")
    return join((title, el("ul", *legend, class_="legend"), scrolling(table, "Kinds of proponents")))
