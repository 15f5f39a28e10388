"""Report how well each scoring finds the labelled examples: the metrics themselves are SQL, in `sql/`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from attrstore import html
from attrstore.chosen import no_scoring, scoring_names
from attrstore.errors import InputError, flag
from attrstore.evaluation.options import Asked

if TYPE_CHECKING:
    import polars

    from attrstore.evaluation.options import ReportFields
    from attrstore.store import Store

_TEXT = (
    "subset_set", "name", "method", "family", "encoder", "model", "value", "metric", "tail_patch_model",
    "tail_patch_optimizer", "setting", "against", "caution",
)  # fmt: skip
_COUNTS = (
    "queries", "labelled_queries", "tail_patch_queries", "tail_patch_measured", "class_queries", "proponents",
    "subsets", "left_out",
)  # fmt: skip
_FLAGS = ("partial", "stale", "apart")

_NO_LOSSES = (
    "No models were trained on subsets yet. First: attrstore subsets {path}, train on each, then attrstore import "
    "losses {path} FILE --subsets NAME"
)


@dataclass(frozen=True)
class Report:
    """A report as rows, so that printing one needs no data-frame library."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    notes: tuple[str, ...] = ()  # what the reader should know about values that are missing

    def records(self) -> list[dict[str, Any]]:
        """Return one dictionary a row, keys in the order of the columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def _repr_html_(self) -> str:
        return html.table(self.columns, self.rows) + html.lines(self.notes)


def report(store: Store, **fields: Unpack[ReportFields]) -> polars.DataFrame:
    """Return `tabulate` as a polars frame.

    Example: `report(store).sort("mrr", descending=True)`
    """
    import polars as pl

    table = tabulate(store, **fields)
    schema: dict[str, type[polars.DataType]] = {
        column: (
            pl.String if column in _TEXT
            else pl.Int64 if column in _COUNTS
            else pl.Boolean if column in _FLAGS
            else pl.Float64
        )
        for column in table.columns
    }  # fmt: skip
    return pl.DataFrame(table.rows, schema=schema, orient="row")


def tabulate(store: Store, **fields: Unpack[ReportFields]) -> Report:
    """Return one row per scoring: the columns of the view `method_report`.

    Args:
        store: an open store.
        by: a key of the queries' metadata; then one row per scoring and value, in the column `value`.
        class_column: a key of the metadata of queries and examples; adds `accuracy` (the strongest proponent
            has the query's class) and `cover` (that class's share of the first n_train / n_classes).
        intervals: one row per scoring and metric instead, with `mean`, `low` and `high`: the central 95% of
            1,000 bootstrap resamples of the queries. With `class_column`, of accuracy and cover too.
        against: the name of a scoring. One row per other scoring and metric instead: how much it lies above that one,
            query by query over those that both have, with the 95% interval of that difference; `apart` where 0 lies
            outside.
        kinds: what the first ten proponents are instead, as shares: the view `proponent_kinds`, made wide.
        lds: how well the scorings foretell models trained on subsets instead: the macro `lds_report`.
        leave_out: what leaving out the strongest proponents did instead: the macro `leave_out_report`.
        qld: how much more the loss rose without them than without random ones instead: the macro `qld_report`.

    Raises:
        InputError: more than one was asked for, or nothing has such a key.
    """
    asked = Asked(**fields)
    instead = (
        asked.by is not None,
        asked.class_column is not None or asked.intervals,
        asked.against is not None,
        asked.kinds,
        asked.lds,
        asked.leave_out,
        asked.qld,
    )
    if sum(instead) > 1:
        raise InputError(
            f"{flag('by')}, {flag('class_column')} (also with {flag('intervals')}), {flag('against')}, "
            f"{flag('kinds')}, {flag('lds')}, {flag('leave_out', 'top')} and {flag('qld')} cannot be combined. Ask "
            "for one at a time."
        )
    if asked.class_column is not None:
        require_key(store, asked.class_column, examples=True)
        found = _classes(store, asked.class_column, intervals=asked.intervals)
    elif asked.intervals:
        found = _fetch(store, "intervals")
    elif asked.against is not None:
        found = _differences(store, asked.against)
    elif asked.by is not None:
        require_key(store, asked.by, examples=False)
        found = _fetch(store, "by", {"key": asked.by})
    elif asked.kinds:
        for key in ("subject", "object"):
            require_key(store, key, examples=False)
        found = _fetch(store, "kinds")
    elif asked.lds:
        found = _lds(store)
    elif asked.leave_out:
        found = _fetch(store, "leave_out")
        notes = _remade(store) if found.rows else (_NO_LOSSES.format(path=store.path),)
        found = replace(found, notes=notes)
    elif asked.qld:
        found = _qld(store)
    else:
        found = _methods(store)
    tail_patch = "tail_patch_logprob" in found.columns or asked.intervals
    return replace(
        found, notes=(*found.notes, *standing(store), *(_tail_patched(store) if tail_patch else ()))
    )


def standing(store: Store) -> tuple[str, ...]:
    """Return a line for each reason why scorings are partial or stale."""
    lines = []
    for what, reasons, names in store.named("report", "standing").fetchall():
        again = "" if what == "partial" else " Score again: attrstore score, or attrstore trace."
        lines.append(f"{what.capitalize()}: {', '.join(names)}: {reasons}.{again}")
    return tuple(lines)


def _tail_patched(store: Store) -> tuple[str, ...]:
    """Say over which queries the means of tail-patch are, where the counts alone do not."""
    lines = []
    for minimum, shared, scorings in store.named("report", "tail_patched").fetchall():
        more = [s["name"] for s in scorings if s["measured"] > s["queries"]]
        few = [f"{s['name']} has {s['queries']}" for s in scorings if s["queries"] < minimum]
        if more and shared is not None:
            lines.append(
                f"Tail-patch is over the {shared} queries that all complete scorings share; measured for others too: "
                f"{', '.join(more)}."
            )
        if few:
            lines.append(f"No mean of tail-patch below {minimum} queries: {', '.join(few)}.")
    return tuple(lines)


def _methods(store: Store) -> Report:
    plain = _fetch(store, "methods")
    if plain.rows:
        return plain
    return Report(plain.columns, [], (f"No scorings yet. Make one: attrstore score {store.path} bm25",))


def _fetch(store: Store, name: str, parameters: dict[str, object] | None = None) -> Report:
    cursor = store.named("report", name, parameters)
    columns = tuple(column[0] for column in cursor.description or ())
    return Report(columns, cursor.fetchall())


def _differences(store: Store, name: str) -> Report:
    known = scoring_names(store)
    if name not in known:
        raise no_scoring(name, known)
    found = _fetch(store, "differences", {"name": name})
    if found.rows:
        return found
    return replace(found, notes=(f"No query has a label or a tail-patch in {name} and in another scoring.",))


def _lds(store: Store) -> Report:
    """Return the macro's rows without its last column, which says what is missing: that is a note."""
    found = _fetch(store, "lds")
    if not found.rows:
        return Report(found.columns[:-1], [], (_NO_LOSSES.format(path=store.path),))
    n_examples = store.value("SELECT count(*) FROM examples")
    lacking = sorted({row[1] for row in found.rows if not row[-1]})
    notes = tuple(
        f"{name}: no LDS. It needs the score of every example; score again with {flag('top_k')} "
        f"{n_examples} and without "
        f"{flag('where')}."
        for name in lacking
    )
    return Report(found.columns[:-1], [row[:-1] for row in found.rows], notes)


def _qld(store: Store) -> Report:
    """Return the macro's rows without its last column, how many queries were asked about: what is missing is a note."""
    found = _fetch(store, "qld")
    columns, rows = found.columns[:-1], [row[:-1] for row in found.rows]
    measured, n = columns.index("name"), columns.index("queries")
    if not any(row[n] for row in rows):
        return Report(columns, rows, (_NO_LOSSES.format(path=store.path),))
    notes = tuple(
        f"{row[0]}: QLD of {row[measured]} is over {row[n]} of {row[-1]} queries. The others lack a loss: of their own "
        "subset, of a random one or of the whole corpus."
        for row in found.rows
        if row[n] < row[-1]
    )
    return Report(columns, rows, (*notes, *_remade(store)))


def _remade(store: Store) -> tuple[str, ...]:
    """Say whose proponents are no longer those that were left out."""
    return tuple(
        f"{subset_set}: {scoring} was scored again since; what was left out is of the scoring before. Make a new set: "
        f"attrstore subsets {store.path} --name NAME"
        for subset_set, scoring in store.named("subsets", "remade").fetchall()
    )


def _classes(store: Store, key: str, *, intervals: bool) -> Report:
    """Return `method_report` with accuracy and cover, or the intervals of both."""
    measured = {row[0]: row[1:] for row in _fetch(store, "classes", {"key": key}).rows}
    notes = tuple(
        f"{name}: no cover. It needs the first {depth} proponents of every query (examples / classes), and "
        f"one has only {shallowest} stored. Score again with {flag('top_k')} {depth}."
        for name, (_, _, cover, depth, shallowest) in sorted(measured.items())
        if cover is None
    )
    if intervals:
        return replace(_fetch(store, "class_intervals", {"key": key}), notes=notes)
    plain = _methods(store)
    rows = [(*row, *measured.get(row[0], (0, None, None))[:3]) for row in plain.rows]
    return Report((*plain.columns, "class_queries", "accuracy", "cover"), rows, plain.notes + notes)


def require_key(store: Store, key: str, *, examples: bool) -> None:
    """Refuse a key that no query's metadata has, or, with `examples`, no example's."""
    n_queries, n_examples = store.named("report", "keyed", {"key": key}).fetchall()[0]
    missing = "query" if n_queries == 0 else "example" if examples and n_examples == 0 else None
    if missing is None:
        return
    of_queries, of_examples = store.named("report", "keys").fetchall()[0]
    known = (of_queries if missing == "query" else of_examples) or ["none"]
    raise InputError(f"no {missing} has {key!r} in its metadata. Keys there: {', '.join(known)}.")
