"""One HTML file that holds what the page shows of a store: it opens from a disk, offline, without Python."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from attrstore.errors import InputError
from attrstore.export import replacing
from attrstore.web import overview, query
from attrstore.web.address import Address
from attrstore.web.cards import columns
from attrstore.web.frame import chosen_pair, document
from attrstore.web.kept import Snapshot
from attrstore.web.markup import Child, Markup, el
from attrstore.web.queries import listed, table, table_rows

if TYPE_CHECKING:
    from pathlib import Path

    from attrstore.store import Store
    from attrstore.web.frame import Pair

MOST = 500  # queries of a file: those on which the two scorings agree least


@dataclass(frozen=True)
class Inside(Address):
    """An address within the file: a query is a part of it, and what the file does not hold is no link."""

    def to(self, path: str, **changes: str | int) -> str | None:
        """Return the part of the file that shows it."""
        if path == "/query" and "id" in changes:
            return f"#{part_of(str(changes['id']))}"
        return {"/": "#queries", "/overview": "#overview"}.get(path)

    @property
    def prefix(self) -> str:
        """What makes the ids of one query's cards its own."""
        return f"{part_of(self.id)}-"


def part_of(name: str) -> str:
    """Return the id of a query's part of the file."""
    return f"q-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def write_report(store: Store, what: str, out: Path) -> int:
    """Write a scoring beside the one of the other family to `out`; return how many queries it shows.

    Args:
        store: an open store.
        what: a scoring, or `comparison` for the two that are shown where none is named.
        out: the file.

    Raises `InputError` for another name, and where the store has no scoring.
    """
    snapshot = Snapshot(store)
    first = chosen_pair(snapshot, Address())
    if first is None:
        raise InputError(f"{store.path}: no scorings yet. Make one: attrstore score {store.path} bm25")
    names = {s.name: s for s in first.every}
    if what != "comparison" and what not in names:
        raise InputError(f"{what}: html shows a scoring, or comparison. There are: {', '.join(names)}.")
    on = None if what == "comparison" else names[what].family
    address = Inside(
        a=what if on == "influence" else "", b=what if on == "retrieval" else "", sort="disagree"
    )
    pair = chosen_pair(snapshot, address)
    assert pair is not None
    found = listed(snapshot, address, pair)
    shown = found.rows(0, MOST)
    rows = table_rows(snapshot, address, pair, shown, 0)
    names_in_order = _names(store, [one.query_id for one in shown])
    views: list[Child] = [
        el(
            "section",
            el("h1", "Overview"),
            *overview.sections(snapshot, address),
            id="overview",
            class_="view",
        ),
        el("section", _list_head(len(found), len(shown)), table(rows, pair), id="queries", class_="view"),
        *(_query(snapshot, pair, name, names_in_order, i) for i, name in enumerate(names_in_order)),
    ]
    with replacing(out, beside=store) as temporary:
        temporary.write_text(_document(store.path.name, views), encoding="utf-8")
    return len(shown)


def _names(store: Store, ids: list[int]) -> list[str]:
    names = dict(store.rows("SELECT query_id, external_id FROM queries"))
    return [names[query_id] for query_id in ids]


def _list_head(n: int, shown: int) -> Markup:
    of = f"The {shown:,} of {n:,} queries" if shown < n else f"{n:,} queries"
    box = el(
        "label",
        el("span", "Search"),
        el("input", type="search", data_filter=True, autocomplete="off"),
        class_="search only-js",
    )
    return el(
        "div",
        el("h1", "Queries"),
        el("div", box, class_="search-row"),
        el("p", f"{of}, least agreement first.", class_="count"),
    )


def _query(snapshot: Snapshot, pair: Pair, name: str, names: list[str], i: int) -> Markup:
    address = Inside(a=pair.a.name, b=pair.b.name, id=name, opponents=1, n=10)
    found = query.find(snapshot, name)
    steps: list[Child] = [el("a", "All queries", href="#queries", data_key="u")]
    if i:
        steps.append(el("a", "← Previous", href=f"#{part_of(names[i - 1])}", rel="prev"))
    if i + 1 < len(names):
        steps.append(el("a", "Next →", href=f"#{part_of(names[i + 1])}", rel="next"))
    way = el("nav", *steps, class_="way", aria_label=f"From {name}")
    return el(
        "section",
        way,
        query.heading(found),
        columns(snapshot, address, pair, found),
        id=part_of(name),
        class_="view",
    )


def _document(name: str, views: list[Child]) -> str:
    style, script = (
        files("attrstore.web").joinpath("static", file).read_text(encoding="utf-8")
        for file in ("style.css", "page.js")
    )
    allowed = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    head = [
        el("meta", http_equiv="Content-Security-Policy", content=allowed),
        el("style", Markup(style)),
        el("script", Markup(script), type="module"),
    ]
    links = [el("a", "Queries", href="#queries"), el("a", "Overview", href="#overview")]
    header = el(
        "header",
        el("span", "attrstore", class_="mark"),
        el("span", el("bdi", name), class_="store"),
        el("nav", *links, aria_label="Views"),
        class_="top",
    )
    return document(header, el("main", *views, id="main", tabindex=-1, class_="file"), title=name, head=head)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
