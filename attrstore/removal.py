"""Delete and rename what is in a store. What depends on a thing goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrstore.errors import InputError
from attrstore.runs import recorded
from attrstore.schema import tables_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.store import Store

KINDS = ("example", "query", "scoring", "encoder")
PLURALS = {"example": "examples", "query": "queries", "scoring": "scorings", "encoder": "encoders"}


@dataclass(frozen=True)
class Removal:
    """What a deletion takes away: rows of each table, those with none left out."""

    kind: str
    names: tuple[str, ...]
    rows: dict[str, int]

    def __str__(self) -> str:
        rows = ", ".join(f"{n:,} of {table}" for table, n in self.rows.items())
        what = self.kind if len(self.names) == 1 else PLURALS[self.kind]
        return f"{len(self.names):,} {what}, with rows: {rows}."


def plan(store: Store, kind: str, names: Sequence[str]) -> Removal:
    """Count what deleting these would take away; nothing is deleted.

    Of an example: its encodings, postings, labels, tail-patches, and every scoring that ranked it, whose ranks would
    have a gap. Of a query: its encodings, labels, tail-patches and scores. Of an encoder: its encodings, projections
    and curvature, and its scorings. Of a scoring: its scores.

    Raises `InputError` for a kind or a name that is not there.
    """
    tables = _tables(store, kind, names)
    counts = {table: int(store.rows(f"SELECT count(*) {source}")[0][0]) for table, source in tables.items()}
    return Removal(kind, tuple(names), {table: n for table, n in counts.items() if n})


def delete(store: Store, kind: str, names: Sequence[str]) -> Removal:
    """Delete what `plan` counts, in one transaction, and return it."""
    planned = plan(store, kind, names)
    with recorded(store, "delete", kind=kind, names=list(names)[:20]) as run, store.transaction():
        if kind == "example":
            store.named("removal", "lower_frequencies")
        for source in _tables(store, kind, names).values():
            store.execute(f"DELETE {source}")
        store.named("removal", "drop_unused_terms")
        run.rows = sum(planned.rows.values())
    return planned


def rename(store: Store, kind: str, old: str, new: str) -> None:
    """Call an example, a query, a scoring or an encoder otherwise; ids that join stay, and so does what is derived.

    Raises `InputError` where nothing has the old name, or something has the new one.
    """
    _doomed(store, kind, [old])
    if not new:
        raise InputError("the new name is empty.")
    if store.named("removal", f"find_{kind}", {"names": [new]}).fetchall():
        raise InputError(f"{store.path}: there is {_a(kind)} called {new}. Choose another name.")
    with recorded(store, "rename", kind=kind, old=old, new=new) as run, store.transaction():
        parts = ("", "_subsets", "_use") if kind == "scoring" else ("",)
        for part in parts:
            store.named("removal", f"rename_{kind}{part}", {"old": old, "new": new})
        run.rows = 1


def _tables(store: Store, kind: str, names: Sequence[str]) -> dict[str, str]:
    """Return, for each table that has something to lose, the rest of a SELECT or DELETE over those rows."""
    _doomed(store, kind, names)
    own = f"{kind}_id"
    found = {
        table: f"FROM {table} WHERE {own} IN (SELECT id FROM doomed)" for table in tables_with(store, own)
    }
    if kind == "example":
        encoders = "SELECT encoder_id FROM encodings WHERE example_id IN (SELECT id FROM doomed)"
        found = {"curvatures": f"FROM curvatures WHERE encoder_id IN ({encoders})", **found}
    if kind in ("example", "encoder"):
        # A ranking without one of its examples has a gap; one without its encoder cannot be made again.
        scorings = "SELECT scoring_id FROM doomed_scorings"
        found |= {
            table: f"FROM {table} WHERE scoring_id IN ({scorings})"
            for table in tables_with(store, "scoring_id")
        }
    return found


def _doomed(store: Store, kind: str, names: Sequence[str]) -> None:
    """Put the ids into the temporary table `doomed`, and the scorings that go with them into `doomed_scorings`."""
    if kind not in KINDS:
        raise InputError(f"{kind}: only {', '.join(KINDS)} can be named here.")
    rows = store.named("removal", f"find_{kind}", {"names": list(names)}).fetchall()
    found = {name for _, name in rows}
    for name in names:
        if name not in found:
            raise InputError(f"{store.path}: no {kind} is called {name}.")
    import pyarrow

    ids = pyarrow.table({"id": [own for own, _ in rows]})
    with store.registered(ids=ids):
        store.named("removal", "doomed")
    store.named("removal", f"doomed_scorings_of_{kind}")


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "ae" else f"a {kind}"
