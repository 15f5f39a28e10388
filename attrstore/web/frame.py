"""What stands around every view: the head, the way between views, the choice of two scorings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attrstore.chosen import no_scoring
from attrstore.web.markup import Child, Markup, el, join

if TYPE_CHECKING:
    from attrstore.store import Store
    from attrstore.web.address import Address
    from attrstore.web.kept import Snapshot

VIEWS = (("Queries", "/"), ("Overview", "/overview"), ("Ask", "/ask"), ("SQL", "/sql"))


class Scoring(NamedTuple):
    """One scoring that a column may show."""

    scoring_id: str
    name: str
    family: str
    method: str
    queries: int
    n_examples: int
    top_k: int | None
    model: str | None
    encoder_id: str | None
    partial: bool
    stale: bool
    reasons: str | None
    shown: bool  # where no scoring is named

    @property
    def state(self) -> str | None:
        """What is wrong with it, in a word."""
        return "stale" if self.stale else "partial" if self.partial else None


class Pair(NamedTuple):
    """The scorings of the two columns."""

    a: Scoring
    b: Scoring
    every: tuple[Scoring, ...]


def scorings(store: Store) -> tuple[Scoring, ...]:
    """Return every scoring."""
    return tuple(Scoring(*row) for row in store.named("web", "scorings").fetchall())


def chosen_pair(snapshot: Snapshot, address: Address) -> Pair | None:
    """Return the two scorings of an address; None while the store has no scoring.

    Raises `InputError` for a name that no scoring has.
    """
    every = snapshot.once("scorings", scorings)
    if not every:
        return None
    first = sorted(every, key=lambda s: (s.family != "influence", not s.shown))[0]
    second = sorted(every, key=lambda s: (s.family != "retrieval", not s.shown))[0]
    return Pair(_named(every, address.a) or first, _named(every, address.b) or second, every)


def _named(every: tuple[Scoring, ...], name: str) -> Scoring | None:
    if not name:
        return None
    for scoring in every:
        if scoring.name == name:
            return scoring
    raise no_scoring(name, (s.name for s in every))


def document(*body: Child, title: str, head: Child) -> str:
    """Return a whole HTML page."""
    inside = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} · attrstore"),
        head,
    )
    return f"<!doctype html>\n{el('html', inside, el('body', *body), lang='en')}\n"


def page(
    snapshot: Snapshot | None, address: Address, here: str, title: str, *body: Child, name: str = ""
) -> str:
    """Return one served page: header, view, help."""
    links = [
        el("a", label, href=address.list_only().to(path), aria_current="page" if path == here else None)
        for label, path in VIEWS
    ]
    shown = snapshot.store.path.name if snapshot else name
    header = el(
        "header",
        el("a", "Skip to the content", class_="skip", href="#main"),
        el("a", "attrstore", class_="mark", href="/"),
        el("span", el("bdi", shown), class_="store"),
        el("nav", *links, aria_label="Views"),
        class_="top",
    )
    head = [
        el("link", rel="stylesheet", href="/static/style.css"),
        el("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
        el("script", type="module", src="/static/page.js"),
    ]
    return document(header, el("main", *body, id="main", tabindex=-1), title=title, head=head)


def select(name: str, label: str, options: list[tuple[str, str]], now: str, **attributes: str) -> Markup:
    """Return a labelled choice; each option is (value, what it says)."""
    chosen = [el("option", says, value=value, selected=value == now) for value, says in options]
    return el(
        "label",
        el("span", label),
        el("select", *chosen, name=name, autocomplete="off", data_submit=True, **attributes),
    )


def state(scoring: Scoring) -> Markup | None:
    """Return the mark of a scoring that is stale or partial, with the reason."""
    if scoring.state is None:
        return None
    return el("span", scoring.state, el("span", f": {scoring.reasons}", class_="reason"), class_="state")


def sides(pair: Pair) -> Markup:
    """Return the choice of the two scorings, each in its column's colour."""
    options = [(s.name, f"{s.name} ({s.state})" if s.state else s.name) for s in pair.every]
    return join((
        select("a", "Left", options, pair.a.name, class_="side-a"),
        select("b", "Right", options, pair.b.name, class_="side-b"),
    ))  # fmt: skip


def hidden(address: Address, *names: str) -> list[Markup]:
    """Return fields of a form that keep a part of the state."""
    kept = [(name, getattr(address, name)) for name in names]
    return [el("input", type="hidden", name=name, value=value) for name, value in kept if value]


def number(value: float | None, places: int = 3) -> str:
    """Return a number as a person reads it, with a true minus sign; an en dash where there is none."""
    if value is None:
        return "–"
    if value != 0 and abs(value) < 10**-places:
        shown = f"{value:.1e}"
    elif abs(value) >= 1000:
        shown = f"{value:,.0f}"
    else:
        shown = f"{value:.{places}f}"
    return shown.replace("-", "−")


def signed(value: float, places: int = 4) -> str:
    """Return a change with its sign."""
    return ("+" if value > 0 else "") + number(value, places)


def nothing(says: str, command: str) -> Markup:
    """Say why there is nothing to see, and the command that makes it."""
    return el("p", says, " ", el("code", command), class_="nothing")
