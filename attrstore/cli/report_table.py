"""Print a report so that many scorings can be compared at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrstore.terminal import cell, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    Rows = list[tuple[Any, ...]]

HEADINGS = {"tail_patch_logprob": "tail-patch", "tail_patch_prob": "tail-patch p"}


def print_report(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print the rows without what says nothing: columns without a value, the method where it is the name's."""
    names, table = list(columns), [tuple(row) for row in rows]
    if "metric" in names:
        names, table = widened(names, table)
    kept = [i for i, name in enumerate(names) if not _says_nothing(names, table, name, i)]
    print_table([heading(names[i]) for i in kept], [[row[i] for i in kept] for row in table])


def heading(column: str) -> str:
    """Return a column's name as short as the literature writes it: hit@10."""
    return HEADINGS.get(column, column.replace("_at_", "@").replace("_", " "))


def widened(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> tuple[list[str], Rows]:
    """Turn a row for each scoring and metric into one for each scoring, its cells `mean [low, high]`."""
    metrics: list[str] = []
    found: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        *key, metric, mean, low, high = row
        if metric not in metrics:
            metrics.append(metric)
        found.setdefault(tuple(key), {})[metric] = f"{cell(mean)} [{cell(low)}, {cell(high)}]"
    keys = list(columns[: columns.index("metric")])
    return [*keys, *metrics], [(*key, *map(cells.get, metrics)) for key, cells in found.items()]


def _says_nothing(columns: Sequence[str], rows: Rows, name: str, index: int) -> bool:
    if not rows:
        return False
    if name == "method" and "name" in columns:
        called = columns.index("name")
        return all(row[called] == row[index] for row in rows)
    return all(row[index] is None for row in rows)
