"""Print a report so that many scorings can be compared at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.terminal import cell, from_here, print_table, say_wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Rows = list[tuple[object, ...]]

HEADINGS = {
    "tail_patch_logprob": "tail-patch",
    "tail_patch_prob": "tail-patch p",
    "tail_patch_queries": "n tail-patch",
    "labelled_queries": "n labelled",
    "class_queries": "n class",
}
# Said once below the table where all rows have the same.
SAID_ONCE = {
    "model": "model",
    "encoder": "encoder",
    "tail_patch_model": "tail-patch of the model",
    "tail_patch_optimizer": "tail-patch by",
    "tail_patch_learning_rate": "tail-patch's learning rate",
    "tail_patch_setting": "tail-patch by",
    "against": "difference from",
    "caution": "caution",
}
# Said in a note, for those scorings that it concerns.
NOTED = ("partial", "stale", "tail_patch_measured")
# A column more does not fit a terminal; --format, SQL and Python have it.
UNPRINTED = ("recall_at_50",)


def print_report(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print the rows without what says nothing: columns without a value, the method where it is the name's.

    What all rows share of model, encoder and setting is said once, below.
    """
    names, table = list(columns), [tuple(row) for row in rows]
    if "against" in names:
        at = names.index("metric")
        table = [(*row[:at], heading(str(row[at])), *row[at + 1 :]) for row in table]
    elif "metric" in names:
        names, table = widened(names, table)
    unprinted = (*NOTED, *UNPRINTED)
    once = dict(said_once(names, table))
    kept = [
        i
        for i, name in enumerate(names)
        if name not in once and name not in unprinted and not _says_nothing(names, table, name, i)
    ]
    print_table([heading(names[i]) for i in kept], [[row[i] for i in kept] for row in table])
    for line in once.values():
        say_wrapped(line, indent=2)


def said_once(columns: Sequence[str], rows: Rows) -> Iterator[tuple[str, str]]:
    """Yield the columns that need only one line, each with it: all rows that have a value have the same."""
    for index, name in enumerate(columns):
        values = {row[index] for row in rows if row[index] is not None}
        if name not in SAID_ONCE or len(values) != 1:
            continue
        lacking: list[str] = []
        if name in ("model", "encoder") and "name" in columns:
            lacking = [str(row[columns.index("name")]) for row in rows if row[index] is None]
        of = f" (not of {', '.join(dict.fromkeys(lacking))})" if lacking else ""
        value = values.pop()
        said = from_here(str(value)) if name.endswith("model") else cell(value)
        yield name, f"{SAID_ONCE[name]}: {said}{of}"


def heading(column: str) -> str:
    """Return a column's name as short as the literature writes it: hit@10."""
    return HEADINGS.get(column, column.replace("_at_", "@").replace("_", " "))


def widened(columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> tuple[list[str], Rows]:
    """Turn a row for each scoring and metric into one for each scoring, its cells `mean [low, high] n queries`."""
    metrics: list[str] = []
    found: dict[tuple[object, ...], dict[object, object]] = {}
    for row in rows:
        *key, model, setting, metric, n, mean, low, high = row
        metric = str(metric)
        if metric not in metrics:
            metrics.append(metric)
        cells = found.setdefault(tuple(key), {})
        cells[metric] = f"{cell(mean)} [{cell(low)}, {cell(high)}] n {n}"
        cells["tail_patch_model" if setting else "model"] = model
        cells["tail_patch_setting"] = setting or cells.get("tail_patch_setting")
    keys = list(columns[: columns.index("model")])
    others = ["model", *metrics, "tail_patch_model", "tail_patch_setting"]
    return [*keys, *others], [(*key, *map(cells.get, others)) for key, cells in found.items()]


def _says_nothing(columns: Sequence[str], rows: Rows, name: str, index: int) -> bool:
    if not rows:
        return False
    if name == "method" and "name" in columns:
        called = columns.index("name")
        return all(row[called] == row[index] for row in rows)
    return all(row[index] is None for row in rows)
