"""The SQL box: one query of the reader's, in a child process, as a table, a plot or a file."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from attrstore import child
from attrstore.errors import InputError
from attrstore.locked import Limits
from attrstore.statements import statements
from attrstore.web import charts
from attrstore.web.frame import page
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.tables import plain_table

if TYPE_CHECKING:
    from pathlib import Path

    from attrstore.web.address import Address
    from attrstore.web.kept import Snapshot

SHOWN = Limits(seconds=10.0, memory=512 << 20, rows=200)
FILE = Limits(seconds=30.0, memory=512 << 20, rows=100_000, answer=64 << 20)
BARS = 40


def sql_page(snapshot: Snapshot, address: Address) -> str:
    """Return the page at `/sql`."""
    body = el(
        "div",
        el("div", _form(address), _answered(snapshot, address), class_="asking"),
        el("aside", _analyses(address), _schema(snapshot), aria_label="Analyses and schema"),
        class_="sql",
    )
    return page(snapshot, address, "/sql", "SQL", el("h1", "SQL"), body)


def sql_file(path: Path, address: Address, file_format: str) -> bytes:
    """Return the answer to the address's query as csv or parquet."""
    answer = child.run(path, address.q, limits=FILE)
    if answer.more:
        raise InputError(
            f"more than {FILE.rows:,} rows or {FILE.answer >> 20} MB. All of it: "
            f"attrstore sql {path.name} QUERY --output FILE"
        )
    if file_format == "parquet":
        return _parquet(answer)
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(answer.rows)
    return written.getvalue().encode()


def _parquet(answer: child.Answer) -> bytes:
    import pyarrow
    import pyarrow.parquet

    columns = [list(column) for column in zip(*answer.rows, strict=True)] or [[] for _ in answer.columns]
    names = [
        name if name not in answer.columns[:i] else f"{name}_{i}" for i, name in enumerate(answer.columns)
    ]
    written = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(names, columns, strict=True))), written)
    return written.getvalue()


def _form(address: Address) -> Markup:
    box = el(
        "textarea", address.q, name="q", rows=max(6, address.q.count("\n") + 2), spellcheck="false",
        autocapitalize="off", autocomplete="off", aria_label="SQL", placeholder="FROM comparison LIMIT 20",
    )  # fmt: skip
    plot = el("input", type="checkbox", name="plot", value="1", checked=bool(address.plot))
    note = f"Read-only, one statement, {SHOWN.seconds:.0f} seconds."
    row = el(
        "div",
        el("button", "Run", type="submit"),
        el("label", plot, el("span", "Plot"), class_="check"),
        el("span", note, class_="quiet"),
        class_="filters",
    )
    return el("form", box, row, action="/sql", class_="box")


def _answered(snapshot: Snapshot, address: Address) -> Markup | None:
    if not address.q.strip():
        return None
    try:
        answer = child.run(snapshot.store.path, address.q, limits=SHOWN)
    except InputError as error:
        return el("p", str(error), class_="error", role="alert")
    many = (
        f"The first {len(answer.rows):,} rows."
        if answer.more
        else f"{len(answer.rows):,} {'row' if len(answer.rows) == 1 else 'rows'}."
    )
    files: list[Child] = [
        el("a", kind, href=address.to(f"/sql.{kind}", plot=0), download=f"answer.{kind}")
        for kind in ("csv", "parquet")
    ]
    head = el(
        "p",
        many,
        el("span", "Download: ", *(join((link, " ")) for link in files)),
        class_="count answer",
        role="status",
    )
    drawn = _plot(answer) if address.plot else None
    return el(
        "section", head, drawn, plain_table(answer.columns, answer.rows, "Answer") if answer.columns else None
    )


def _plot(answer: child.Answer) -> Markup:
    """Return two numbers as points; a name and a number as bars."""
    numeric = [
        i for i in range(len(answer.columns))
        if any(isinstance(row[i], int | float) and not isinstance(row[i], bool) for row in answer.rows)
    ]  # fmt: skip
    if not numeric:
        return el("p", "Nothing to plot: no column has numbers.", class_="nothing")
    first = answer.columns[0]
    if len(numeric) > 1 and numeric[0] == 0:
        other = numeric[1]
        points = [
            (row[0], row[other]) for row in answer.rows if row[0] is not None and row[other] is not None
        ]
        return charts.scatter(points, first, answer.columns[other])
    shown = numeric[0]
    named = [(str(row[0]), row[shown]) for row in answer.rows[:BARS] if row[shown] is not None]
    return charts.sideways(named, f"{answer.columns[shown]} by {first}")


def _analyses(address: Address) -> Markup:
    links = [
        el(
            "li",
            el(
                "a",
                name.replace("_", " ").capitalize(),
                href=address.list_only().to("/sql", q=sql.rstrip(";")),
            ),
        )
        for name, sql in statements("analyses").items()
    ]
    return join((el("h2", "Analyses"), el("ul", *links, class_="plain")))


def _schema(snapshot: Snapshot) -> Markup:
    found = snapshot.once("schema", lambda s: s.named("web", "schema").fetchall())
    parts = [
        el(
            "details",
            el("summary", el("code", name), el("span", f" {kind}", class_="quiet")),
            el("p", ", ".join(columns)),
        )
        for kind, name, columns in found
    ]
    return join((el("h2", "Schema"), el("div", *parts, class_="schema")))
