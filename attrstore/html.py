"""Rows as an HTML table, for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SHOWN = 100  # rows; the rest is counted


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str | None = None) -> str:
    """Return a table; every text is escaped, whatever a corpus holds."""
    listed = list(rows)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in listed[:SHOWN])
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    more = f"<p>and {len(listed) - SHOWN:,} more rows</p>" if len(listed) > SHOWN else ""
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def lines(texts: Iterable[str]) -> str:
    """Return a paragraph for each text."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _cell(value: object) -> str:
    if value is None:
        return "<td>–</td>"
    if isinstance(value, bool | str):
        return f"<td>{escape(str(value))}</td>"
    return f'<td style="text-align: right">{escape(f"{value:.4g}" if isinstance(value, float) else str(value))}</td>'
