"""Rows of any kind as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrstore.web.frame import number
from attrstore.web.markup import Markup, el

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.store import Store


def fetched(store: Store, file: str, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the columns and rows of a named statement."""
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
    return scrolling(el("table", el("thead", el("tr", *heads)), el("tbody", *body)), says)


def _cell(value: object) -> Markup:
    if value is None:
        return el("td", el("span", "NULL", class_="none"))
    if isinstance(value, float):
        return el("td", number(value, 4), class_="figure")
    if isinstance(value, int) and not isinstance(value, bool):
        return el("td", f"{value:,}", class_="figure")
    shown = f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
    return el("td", el("bdi", shown if len(shown) <= 2_000 else shown[:2_000] + " …"))


def scrolling(table: Markup, says: str) -> Markup:
    """Return a table that scrolls in its own frame where it is wider than the page."""
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=says)
