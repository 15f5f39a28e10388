"""Where two scorings part: shared proponents, rank against rank, means by a key of the metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.web import charts
from attrstore.web.frame import hidden, number, select
from attrstore.web.markup import Markup, el
from attrstore.web.tables import scrolling

if TYPE_CHECKING:
    from attrstore.web.address import Address
    from attrstore.web.frame import Pair
    from attrstore.web.kept import Snapshot

PLOTTED = 2_000  # queries in the plot of ranks


def agreement(snapshot: Snapshot, pair: Pair) -> Markup:
    """Return how many queries share how many of their first ten proponents."""
    ids = {"a": pair.a.scoring_id, "b": pair.b.scoring_id}
    found = dict(
        snapshot.once("overlaps", lambda s: s.named("web", "overlaps", ids).fetchall(), (*ids.values(),))
    )
    counts = [(str(n), float(found.get(n, 0))) for n in range(11)]
    total = sum(found.values()) or 1
    mean = sum(n * count for n, count in found.items()) / total
    says = f"Queries by how many of the first ten are shared: {', '.join(f'{n} shared {c:.0f}' for n, c in counts)}"
    words = f"On average {number(mean, 1)} of ten; {found.get(0, 0):,} of {total:,} queries share none."
    return el(
        "figure",
        el("figcaption", el("strong", "Shared of the first ten"), el("br"), words),
        charts.bars(counts, says, "ink"),
    )


def plane(snapshot: Snapshot, pair: Pair) -> Markup:
    """Return the rank under one against the rank under the other."""
    store = snapshot.store
    last = store.named("web", "last_of_first", {"n": PLOTTED}).fetchall()[0][0]
    asked = {"a": pair.a.scoring_id, "b": pair.b.scoring_id, "last": last}
    cells = snapshot.once("planes", lambda s: s.named("web", "planes", asked).fetchall(), (*asked.values(),))
    total = sum(row[3] for row in cells)
    stated = sum(row[3] for row in cells if row[2])
    words = (
        f"{total:,} examples that both rank as proponents, {stated:,} of them labelled (green). A dot's area "
        "is how many; on the dashed line both rank alike."
    )
    first = snapshot.totals()[1] > PLOTTED
    return el(
        "figure",
        el("figcaption", el("strong", "Rank against rank"), el("br"), words,
           f" The first {PLOTTED:,} queries." if first else None),
        charts.plane(cells, pair.a.name, pair.b.name, says=words),
    )  # fmt: skip


def by_value(snapshot: Snapshot, address: Address, pair: Pair) -> Markup | None:
    """Return both means for each value of a key of the queries' metadata; None where no key is fit for it."""
    keys: list[tuple[str, list[str]]] = snapshot.once("keys", lambda s: s.named("web", "keys").fetchall())
    short = [key for key, values in keys if len(values) <= 60]
    if not short:
        return None
    key = address.by if address.by in short else "frequency" if "frequency" in short else short[0]
    asked = {"key": key, "a": pair.a.name, "b": pair.b.name}
    rows = snapshot.once("by", lambda s: s.named("web", "by_value", asked).fetchall(), (*asked.values(),))
    form = el(
        "form",
        hidden(address, "a", "b"),
        select("by", "Metadata", [(k, k) for k in short], key),
        el("button", "Show", type="submit"),
        class_="filters",
        action="/overview#by",
    )
    heads = [
        el("th", says, scope="col", class_=class_)
        for says, class_ in (
            (key, "words"),
            ("Queries", None),
            ("MRR", "words"),
            (pair.a.name, "side-a"),
            (pair.b.name, "side-b"),
        )
    ]
    body = [_value_row(row) for row in rows]
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *body), class_="by")
    return el("section", el("h2", f"MRR by {key}"), form, scrolling(table, f"MRR by {key}"), id="by")


def _value_row(row: tuple[str, int, float | None, float | None]) -> Markup:
    value, queries, a, b = row
    return el(
        "tr",
        el("th", el("bdi", value), scope="row"),
        el("td", queries, class_="figure"),
        el("td", charts.two_dots(a, b)),
        el("td", number(a), class_="figure side-a"),
        el("td", number(b), class_="figure side-b"),
    )
