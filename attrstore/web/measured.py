"""What was measured on other models: LDS over models trained on subsets, and checkpoints over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrstore.web import charts
from attrstore.web.frame import number
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.tables import fetched, scrolling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attrstore.store import Store
    from attrstore.web.kept import Snapshot

    Row = Mapping[str, Any]
    Column = tuple[str, Callable[[Row], Child], str]  # its head, what a row has there, its class


def lds(snapshot: Snapshot) -> Markup | None:
    """Return how well each scoring foretells what models do without parts of the data; None where none was trained."""
    rows = snapshot.once("lds", lambda s: _rows(s, "report", "lds") if _measured(s)[0] else [])
    columns: list[Column] = [
        ("Scoring", lambda row: el("span", row["name"], class_=f"of-{row['family']}"), "words"),
        ("Subsets", lambda row: f"{row['subset_set']}, {row['subsets']}", "words"),
        ("Queries", lambda row: row["queries"], "figure"),
        ("LDS", lambda row: _interval(row, "lds", "low", "high", (-1.0, 1.0), row["family"]), "dot"),
    ]
    return _section("Linear datamodelling score", "lds", columns, rows)


def checkpoints(snapshot: Snapshot) -> Markup | None:
    """Return how far checkpoints agree, and what training between them did to the targets; None where there is one."""
    agreement = snapshot.once("checkpoints", lambda s: _rows(s, "web", "checkpoints") if _several(s) else [])
    agree: list[Column] = [
        ("Method", lambda row: row["method"], "words"),
        ("One scoring", lambda row: row["scoring"], "words"),
        ("The other", lambda row: row["other_scoring"], "words"),
        ("Queries", lambda row: row["queries"], "figure"),
        (
            "Shared of the first ten",
            lambda row: _interval(
                row, "overlap_at_10", "overlap_low", "overlap_high", (0.0, 1.0), "influence"
            ),
            "dot",
        ),
        ("Rank correlation", lambda row: number(row["rank_correlation"]), "figure"),
    ]
    changes = snapshot.once("changes", lambda s: _rows(s, "web", "changes") if _measured(s)[1] else [])
    most = max(
        (abs(row[key] or 0.0) for row in changes for key in ("mean_change", "low", "high")), default=1.0
    )
    change: list[Column] = [
        ("From", lambda row: _model(row["from_model"]), "whole-line"),
        ("To", lambda row: _model(row["to_model"]), "whole-line"),
        ("Queries", lambda row: row["queries"], "figure"),
        ("Distance of the weights", lambda row: number(row["relative_distance"]), "figure"),
        (
            "Change of the log-probability",
            lambda row: _interval(row, "mean_change", "low", "high", (-most, most), "influence"),
            "dot",
        ),
        ("Improved", lambda row: "–" if row["improved"] is None else f"{row['improved']:.0%}", "figure"),
    ]
    parts = (
        _section("Checkpoints: how far their rankings agree", "checkpoints", agree, agreement),
        _section("Checkpoints: how the targets changed", "changes", change, changes),
    )
    return join(parts) if any(parts) else None


def _rows(store: Store, file: str, name: str) -> list[Row]:
    columns, rows = fetched(store, file, name)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _measured(store: Store) -> tuple[bool, bool]:
    """Whether there are models trained on subsets, and checkpoints whose targets were measured."""
    ((subsets, losses),) = store.named("web", "measured").fetchall()
    return subsets, losses


def _several(store: Store) -> bool:
    ((several,),) = store.named("web", "several_checkpoints").fetchall()
    return bool(several)


def _section(title: str, name: str, columns: Sequence[Column], rows: Sequence[Row]) -> Markup | None:
    if not rows:
        return None
    heads = [
        el("th", says, scope="col", class_=None if kind == "figure" else "words") for says, _, kind in columns
    ]
    body = [
        el(
            "tr",
            *(el("td", cell(row), class_=None if kind == "words" else kind) for _, cell, kind in columns),
        )
        for row in rows
    ]
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *body))
    return join((el("h2", title, id=name), scrolling(table, title)))


def _interval(row: Row, mean: str, low: str, high: str, ends: tuple[float, float], family: str) -> Child:
    if row[mean] is None:
        return el("span", "–", class_="none")
    range_ = None if row[low] is None else f" {number(row[low])} to {number(row[high])}"
    return [
        charts.interval(row[mean], row[low], row[high], ends, family),
        " ",
        number(row[mean]),
        el("small", range_, class_="quiet"),
    ]


def _model(path: str | None) -> Child:
    return "–" if path is None else el("bdi", Path(path).name, title=path)
