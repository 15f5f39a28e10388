"""The whole store at a glance: methods with intervals, how far two agree, and where they part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrstore.web import charts
from attrstore.web.frame import chosen_pair, hidden, nothing, number, page, select, sides, signed, state
from attrstore.web.markup import Child, Markup, el, join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.store import Store
    from attrstore.web.address import Address
    from attrstore.web.frame import Pair, Scoring
    from attrstore.web.lease import Snapshot

METRICS = {"mrr": "MRR", "hit_at_10": "Hit@10", "tail_patch_logprob": "Tail-patch"}
DRAWN = 20_000_000  # resampled values; a page does not wait for more
PLOTTED = 2_000  # queries in the plot of ranks

Interval = tuple[float, float | None, float | None]


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
        _methods(snapshot, address, pair),
        el("h2", f"Where {pair.a.name} and {pair.b.name} part", id="part"),
        form,
        el("div", _agreement(snapshot, pair), _plane(snapshot, pair), class_="two"),
        _by(snapshot, address, pair),
        _kinds(snapshot),
        _lds(snapshot),
        _checkpoints(snapshot),
    ]


def _totals(snapshot: Snapshot) -> Markup:
    (row,) = snapshot.once("totals", lambda s: s.named("web", "totals").fetchall())
    known = [
        el("div", el("dt", name), el("dd", n))
        for name, n in zip(("examples", "queries", "labels"), row, strict=True)
    ]
    return el("dl", *known, class_="facts")


# Methods


def _intervals(snapshot: Snapshot, pair: Pair) -> tuple[dict[tuple[str, str], Interval], bool]:
    """Return mean, low and high by scoring and metric; without intervals where they would take too long."""
    (totals,) = snapshot.once("totals", lambda s: s.named("web", "totals").fetchall())
    quick = totals[1] * len(pair.every) * 1000 <= DRAWN

    def make(store: Store) -> dict[tuple[str, str], Interval]:
        cursor = store.named("report", "intervals" if quick else "methods")
        columns = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        if quick:
            return {(r["name"], r["metric"]): (r["mean"], r["low"], r["high"]) for r in rows}
        return {(r["name"], m): (r[m], None, None) for r in rows for m in METRICS if r[m] is not None}

    return snapshot.once("intervals", make), quick


def _methods(snapshot: Snapshot, address: Address, pair: Pair) -> Markup:
    found, quick = _intervals(snapshot, pair)
    shown = {m: says for m, says in METRICS.items() if any(metric == m for _, metric in found)}
    if not shown:
        return nothing(
            "No labels yet, so no metrics.",
            f"attrstore ingest labels {snapshot.store.path.name} labels.jsonl",
        )
    ends = {m: _ends([v for (_, metric), v in found.items() if metric == m], m) for m in shown}
    heads = [el("th", says, scope="col", class_="words") for says in ("Scoring", "Over")]
    heads += [el("th", says, scope="col", class_="words") for says in shown.values()]
    order = sorted(pair.every, key=lambda s: (s.family, -found.get((s.name, "mrr"), (0.0,))[0], s.name))
    rows = [
        el(
            "tr",
            el("th", el("span", s.name, class_=f"of-{s.family}"), " ", state(s), scope="row"),
            el("td", _over(s), class_="quiet"),
            *(el("td", _dot(found.get((s.name, m)), ends[m], s, m), class_="dot") for m in shown),
        )
        for s in order
    ]
    caption = "Means over the labelled queries" + (", with 95% bootstrap intervals." if quick else (
        f". For intervals: attrstore report {snapshot.store.path.name} --intervals"
    ))  # fmt: skip
    table = el("table", el("caption", caption), el("thead", el("tr", *heads)), el("tbody", *rows))
    return join((el("h2", "Methods", id="methods"), _scrolling(table, "Methods")))


def _over(scoring: Scoring) -> str:
    return f"{scoring.queries:,} queries, {scoring.n_examples:,} examples"


def _ends(values: Sequence[Interval], metric: str) -> tuple[float, float]:
    if metric != "tail_patch_logprob":
        return 0.0, 1.0
    every = [v for value in values for v in value if v is not None]
    return min(0.0, *every), max(0.0, *every)


def _dot(found: Interval | None, ends: tuple[float, float], scoring: Scoring, metric: str) -> Child:
    if found is None:
        return el("span", "–", class_="none")
    mean, low, high = found
    shown = signed(mean) if metric == "tail_patch_logprob" else number(mean)
    range_ = None if low is None else f" {number(low)} to {number(high)}"
    return [
        charts.interval(mean, low, high, ends, scoring.family),
        " ",
        shown,
        el("small", range_, class_="quiet"),
    ]


# Two scorings


def _agreement(snapshot: Snapshot, pair: Pair) -> Markup:
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


def _plane(snapshot: Snapshot, pair: Pair) -> Markup:
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
    first = snapshot.once("totals", lambda s: s.named("web", "totals").fetchall())[0][1] > PLOTTED
    return el(
        "figure",
        el("figcaption", el("strong", "Rank against rank"), el("br"), words,
           f" The first {PLOTTED:,} queries." if first else None),
        charts.plane(cells, pair.a.name, pair.b.name, says=words),
    )  # fmt: skip


def _by(snapshot: Snapshot, address: Address, pair: Pair) -> Markup | None:
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
    return el("section", el("h2", f"MRR by {key}"), form, _scrolling(table, f"MRR by {key}"), id="by")


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


# The rest


def _kinds(snapshot: Snapshot) -> Markup | None:
    cursor = snapshot.once("kinds", lambda s: _table(s, "report", "kinds"))
    columns, rows = cursor
    if not rows:
        return None
    names = [column.replace("_", " ") for column in columns[4:]]
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
            el("td", charts.shares(row[4:], names)),
            el("td", f"{row[4]:.0%}", class_="figure"),
        )
        for row in rows
    ]
    heads = [
        el("th", says, scope="col", class_=class_)
        for says, class_ in (("Scoring", "words"), ("Kinds", "words"), ("State the fact", None))
    ]
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *body), class_="kinds")
    title = el("h2", "What the first ten proponents are", id="kinds")
    return join((title, el("ul", *legend, class_="legend"), _scrolling(table, "Kinds of proponents")))


def _lds(snapshot: Snapshot) -> Markup | None:
    trained, _ = snapshot.store.named("web", "measured").fetchall()[0]
    if not trained:
        return None
    columns, rows = snapshot.once("lds", lambda s: _table(s, "report", "lds"))
    title = el("h2", "Linear datamodelling score", id="lds")
    return join((title, plain_table(columns[:-1], [row[:-1] for row in rows], "LDS")))


def _checkpoints(snapshot: Snapshot) -> Markup | None:
    store = snapshot.store
    parts: list[Child] = []
    if store.named("web", "several_checkpoints").fetchall()[0][0]:
        columns, rows = snapshot.once("checkpoints", lambda s: _table(s, "web", "checkpoints"))
        if rows:
            parts += [
                el("h2", "Checkpoints: how far their rankings agree", id="checkpoints"),
                plain_table(columns, rows, "Agreement"),
            ]
    if store.named("web", "measured").fetchall()[0][1]:
        columns, rows = snapshot.once("changes", lambda s: _table(s, "web", "changes"))
        parts += [
            el("h2", "Checkpoints: how the targets changed", id="changes"),
            plain_table(columns, rows, "Changes"),
        ]
    return join(parts) if parts else None


def _table(store: Store, file: str, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    cursor = store.named(file, name)
    return [column[0] for column in cursor.description or ()], cursor.fetchall()


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[object]], says: str) -> Markup:
    """Return any rows as a table: numbers to the right, everything else as text."""
    numeric = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    heads = [
        el("th", column, scope="col", class_=None if is_number else "words")
        for column, is_number in zip(columns, numeric, strict=True)
    ]
    body = [el("tr", *(_cell(value) for value in row)) for row in rows]
    return _scrolling(el("table", el("thead", el("tr", *heads)), el("tbody", *body)), says)


def _cell(value: object) -> Markup:
    if value is None:
        return el("td", el("span", "NULL", class_="none"))
    if isinstance(value, float):
        return el("td", number(value, 4), class_="figure")
    if isinstance(value, int) and not isinstance(value, bool):
        return el("td", f"{value:,}", class_="figure")
    shown = f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
    return el("td", el("bdi", shown if len(shown) <= 2_000 else shown[:2_000] + " …"))


def _scrolling(table: Markup, says: str) -> Markup:
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=says)
