"""The table of methods: each mean with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.web import charts
from attrstore.web.frame import nothing, number, state
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.tables import scrolling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.store import Store
    from attrstore.web.frame import Pair, Scoring
    from attrstore.web.kept import Snapshot

METRICS = {"mrr": "MRR", "hit_at_10": "Hit@10", "tail_patch_logprob": "Tail-patch"}
DRAWN = 20_000_000  # resampled values; a page does not wait for more

Interval = tuple[float, float | None, float | None]


def _intervals(snapshot: Snapshot, pair: Pair) -> tuple[dict[tuple[str, str], Interval], bool]:
    """Return mean, low and high by scoring and metric; without intervals where they would take too long."""
    quick = snapshot.totals()[1] * len(pair.every) * 1000 <= DRAWN

    def make(store: Store) -> dict[tuple[str, str], Interval]:
        cursor = store.named("report", "intervals" if quick else "methods")
        columns = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        if quick:
            return {(r["name"], r["metric"]): (r["mean"], r["low"], r["high"]) for r in rows}
        return {(r["name"], m): (r[m], None, None) for r in rows for m in METRICS if r[m] is not None}

    return snapshot.once("intervals", make), quick


def method_table(snapshot: Snapshot, pair: Pair) -> Markup:
    """Return every scoring's means over the labelled queries, those of a family together, the best first."""
    found, quick = _intervals(snapshot, pair)
    shown = {m: says for m, says in METRICS.items() if any(metric == m for _, metric in found)}
    if not shown:
        return nothing(
            "No labels yet, so no metrics.",
            f"attrstore ingest labels {snapshot.store.path.name} labels.jsonl",
        )
    alike = len({(s.queries, s.n_examples) for s in pair.every}) == 1
    ends = {m: _ends([v for (_, metric), v in found.items() if metric == m], m) for m in shown}
    heads = [
        el("th", says, scope="col", class_="words")
        for says in ("Scoring", *(() if alike else ("Queries × examples",)))
    ]
    heads += [el("th", says, scope="col", class_="words") for says in shown.values()]
    order = sorted(pair.every, key=lambda s: (s.family, -found.get((s.name, "mrr"), (0.0,))[0], s.name))
    rows = [
        el(
            "tr",
            el("th", el("span", s.name, class_=f"of-{s.family}"), " ", state(s), scope="row"),
            None if alike else el("td", _over(s), class_="quiet whole-line"),
            *(el("td", _dot(found.get((s.name, m)), ends[m], s, m), class_="dot") for m in shown),
        )
        for s in order
    ]
    over = f" Each ranks {pair.a.n_examples:,} examples for {pair.a.queries:,} queries." if alike else ""
    caption = "Means over the labelled queries" + (", with 95% bootstrap intervals." if quick else (
        f". For intervals: attrstore report {snapshot.store.path.name} --intervals"
    )) + over  # fmt: skip
    table = el("table", el("caption", caption), el("thead", el("tr", *heads)), el("tbody", *rows))
    return join((el("h2", "Methods", id="methods"), scrolling(table, "Methods")))


def _over(scoring: Scoring) -> str:
    return f"{scoring.queries:,} × {scoring.n_examples:,}"


def _ends(values: Sequence[Interval], metric: str) -> tuple[float, float]:
    if metric != "tail_patch_logprob":
        return 0.0, 1.0
    every = [v for value in values for v in value if v is not None]
    return min(0.0, *every), max(0.0, *every)


def _dot(found: Interval | None, ends: tuple[float, float], scoring: Scoring, metric: str) -> Child:
    if found is None:
        return el("span", "–", class_="none")
    mean, low, high = found
    if metric == "tail_patch_logprob":
        shown, *bounds = (f"{value:+.4f}".replace("-", "−") for value in (mean, low or 0.0, high or 0.0))
    else:
        shown, *bounds = (number(value) for value in found)
    range_ = None if low is None else f" {bounds[0]} to {bounds[1]}"
    return [
        charts.interval(mean, low, high, ends, scoring.family),
        " ",
        shown,
        el("small", range_, class_="quiet"),
    ]
