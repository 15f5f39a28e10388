"""The list of queries: search it, filter it, sort it by what two scorings make of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np  # before the first list is asked for

from attrstore.errors import InputError
from attrstore.web import charts
from attrstore.web.frame import chosen_pair, hidden, nothing, page, select, sides
from attrstore.web.markup import Child, Markup, el, join

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

    from attrstore.store import Store
    from attrstore.web.address import Address
    from attrstore.web.frame import Pair
    from attrstore.web.kept import Snapshot

PER_PAGE = 50
SHOWN = 300  # characters of a prompt or target
METRICS = {"overlap": "Shared of ten, as a share", "a": "Best place, left", "b": "Best place, right"}
EVERY = (-(2**62), 2**62)  # query ids


class Listed(NamedTuple):
    """One query of the list: its id, and what the two scorings make of it (not known in the stored order)."""

    query_id: int
    overlap: float | None = None
    a_place: int | None = None
    b_place: int | None = None


@dataclass(frozen=True)
class Found:
    """All queries of a list, in its order, by columns: so many rows of Python would take their time and memory."""

    columns: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]

    def __len__(self) -> int:
        return len(self.columns["query_id"])

    def rows(self, start: int, end: int) -> list[Listed]:
        """Return a part of the list."""
        part = [column[start:end].tolist() for column in self.columns.values()]
        return [Listed(*row) for row in zip(*part, strict=True)]


def sorts(pair: Pair) -> dict[str, str]:
    """Name the orders of the list."""
    a, b = pair.a.name, pair.b.name
    return {
        "": "as stored",
        "disagree": "least agreement first",
        "agree": "most agreement first",
        "only-a": f"found by {a}, not by {b}",
        "only-b": f"found by {b}, not by {a}",
        "a": f"best place in {a}",
        "b": f"best place in {b}",
    }


def listed(snapshot: Snapshot, address: Address, pair: Pair | None) -> Found:
    """Return every query that the address leaves, in its order."""
    if address.metric not in ("", *METRICS):
        raise InputError(f"metric={address.metric}: there are {', '.join(METRICS)}.")
    if pair and address.sort not in sorts(pair):
        raise InputError(f"sort={address.sort}: there are {', '.join(filter(None, sorts(pair)))}.")
    chosen = {"search": address.search or None, "key": address.key or None, "value": address.value}
    asked = {
        "metric": address.metric or None,
        "low": address.bound("low"),
        "high": address.bound("high"),
        "sort": address.sort,
    }

    def make(store: Store) -> Found:
        if pair is None or not (address.sort or address.metric):
            return Found(store.named("web", "queries_in_order", chosen).fetchnumpy())
        return Found(_measured(store, EVERY, pair, {**chosen, **asked}).fetchnumpy())

    return snapshot.once("listed", make, (pair and pair[:2], *chosen.values(), *asked.values()))


def queries_page(snapshot: Snapshot, address: Address) -> str:
    """Return the page at `/`."""
    pair = chosen_pair(snapshot, address)
    found = listed(snapshot, address, pair)
    last_page = max(1, -(-len(found) // PER_PAGE))
    start = (min(address.page, last_page) - 1) * PER_PAGE
    rows = table_rows(snapshot, address, pair, found.rows(start, start + PER_PAGE), start)
    body: list[Child] = [
        el("h1", "Queries"),
        _form(snapshot, address, pair),
        _count(len(found), start, len(rows)),
        table(rows, pair) if rows else _empty(snapshot, address),
        _pages(address, last_page),
    ]
    return page(snapshot, address, "/", "Queries", *body)


def table(rows: list[Markup], pair: Pair | None) -> Markup:
    """Return the list as a table."""
    heads: list[Child] = [el("th", "Query", scope="col"), el("th", "Prompt → target", scope="col")]
    heads.append(el("th", el("abbr", "p", title="probability of the target"), scope="col"))
    if pair:
        heads += [
            el("th", el("abbr", "Shared", title="of the first ten of both"), scope="col"),
            el("th", pair.a.name, scope="col", class_="side-a"),
            el("th", pair.b.name, scope="col", class_="side-b"),
        ]
    caption = "Shared: how many of the first ten both have. Under each scoring: the best place of a labelled example."
    return el(
        "table",
        el("caption", caption if pair else "No scorings yet."),
        el("thead", el("tr", *heads)),
        el("tbody", *rows),
        class_="queries",
    )


def table_rows(
    snapshot: Snapshot, address: Address, pair: Pair | None, shown: list[Listed], start: int
) -> list[Markup]:
    """Return one row a query; `start` queries of the list come before."""
    if not shown:
        return []
    store = snapshot.store
    ids = [one.query_id for one in shown]
    ends = (min(ids), max(ids))
    texts = store.named(
        "web", "query_texts", {"first": ends[0], "last": ends[1], "ids": ids, "length": SHOWN}
    )
    by_id = {row[0]: row[1:] for row in texts.fetchall()}
    measured = {one.query_id: one for one in shown}
    if pair and not (address.sort or address.metric):
        every = dict.fromkeys(("search", "key", "value", "metric", "low", "high", "sort"))
        rows = _measured(store, ends, pair, every).fetchall()
        measured = {row[0]: Listed(*row) for row in rows}
    return [
        _row(address, pair, by_id[one.query_id], measured[one.query_id], start + place)
        for place, one in enumerate(shown, 1)
    ]


def _measured(
    store: Store, ends: tuple[int, int], pair: Pair, asked: Mapping[str, object]
) -> duckdb.DuckDBPyConnection:
    parameters = {"a": pair.a.scoring_id, "b": pair.b.scoring_id, "first": ends[0], "last": ends[1], **asked}
    return store.named("web", "queries_measured", parameters)


def _row(
    address: Address, pair: Pair | None, query: tuple[str, str, str, float | None], found: Listed, at: int
) -> Markup:
    name, prompt, target, logprob = query
    cells: list[Child] = [
        el("td", el("bdi", name), class_="id"),
        el("th", el("a", saying(prompt, target), href=address.to("/query", id=name, at=at)), scope="row"),
        el("td", charts.probability(logprob), class_="figure"),
    ]
    if pair:
        cells += [
            el("td", charts.tenths(found.overlap), class_="figure", data_label="shared"),
            el("td", _place(found.a_place), class_="figure side-a", data_label=pair.a.name),
            el("td", _place(found.b_place), class_="figure side-b", data_label=pair.b.name),
        ]
    return el("tr", *cells)


def saying(prompt: str, target: str) -> Markup:
    """Return prompt and target as one line."""
    return join(
        (el("bdi", prompt), el("span", " → ", class_="arrow"), el("bdi", target.strip(), class_="target"))
    )


def _place(place: int | None) -> Child:
    return place if place is not None else el("span", "–", class_="none")


def _form(snapshot: Snapshot, address: Address, pair: Pair | None) -> Markup:
    keys: list[tuple[str, list[str]]] = snapshot.once("keys", lambda s: s.named("web", "keys").fetchall())
    search = el(
        "label",
        el("span", "Search"),
        el("input", type="search", name="search", value=address.search, placeholder="id, prompt or target"),
        class_="search",
    )
    parts: list[Child] = [search]
    if keys:
        parts.append(select("key", "Metadata", [("", "any"), *((k, k) for k, _ in keys)], address.key))
    values = next((found for key, found in keys if key == address.key), None)
    if values:
        parts.append(select("value", address.key, [(v, v) for v in sorted(values)], address.value))
    if pair:
        parts += [
            sides(pair),
            select("sort", "Order", list(sorts(pair).items()), address.sort),
            _metric_filter(address),
        ]
    return el(
        "form", *parts, el("button", "Show", type="submit"), class_="filters", role="search", action="/"
    )


def _metric_filter(address: Address) -> Markup:
    bounds = [
        el(
            "label",
            el("span", says),
            el("input", name=name, value=getattr(address, name), inputmode="decimal", size=4),
        )
        for name, says in (("low", "from"), ("high", "to"))
    ]
    chosen = select("metric", "Only where", [("", "all"), *METRICS.items()], address.metric)
    return join((chosen, bounds if address.metric else hidden(address, "low", "high")))


def _count(n: int, start: int, shown: int) -> Markup:
    where = f"{start + 1:,} to {start + shown:,} of " if shown < n else ""
    return el("p", f"{where}{n:,} {'query' if n == 1 else 'queries'}", class_="count", role="status")


def _empty(snapshot: Snapshot, address: Address) -> Markup:
    path = snapshot.store.path.name
    if snapshot.store.value("SELECT count(*) FROM queries") == 0:
        return nothing("No queries yet.", f"attrstore ingest queries {path} queries.jsonl")
    cleared = address.list_only().to("/", search="", key="", value="", metric="", low="", high="", page=1)
    return el("p", "No query is left. ", el("a", "Show all", href=cleared), class_="nothing")


def _pages(address: Address, last: int) -> Markup | None:
    if last == 1:
        return None
    now = min(address.page, last)
    links: list[Child] = []
    steps = (
        ("First", 1, None),
        ("Previous", now - 1, "prev"),
        ("Next", now + 1, "next"),
        ("Last", last, None),
    )
    for says, number, rel in steps:
        if 1 <= number <= last and number != now:
            links.append(el("a", says, href=address.to("/", page=number), rel=rel))
        else:
            links.append(el("span", says, class_="off"))
    links.insert(2, el("span", f"page {now:,} of {last:,}"))
    return el("nav", *links, class_="pages", aria_label="Pages")
