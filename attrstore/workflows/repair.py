"""Set right what can be derived again: views and macros, rows of nothing, rows kept twice, the lexical index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrstore.check import check
from attrstore.ingest.lexical import ingest_lexical
from attrstore.runs import recorded
from attrstore.schema import bring_up_to_date, tables_with

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attrstore.store import Store

PARENTS = {  # the column that names a thing, and where the thing is
    "example_id": ("examples", "example_id"),
    "query_id": ("queries", "query_id"),
    "encoder_id": ("encoders", "encoder_id"),
    "scoring_id": ("scorings", "scoring_id"),
    "model_fingerprint": ("models", "fingerprint"),
    "from_fingerprint": ("models", "fingerprint"),
    "to_fingerprint": ("models", "fingerprint"),
}
KEPT = {
    "models",
    "examples",
    "queries",
    "encoders",
    "scorings",
}  # what others name, and nothing can bring back


@dataclass(frozen=True)
class Repair:
    """What is wrong by rule, and the rows to delete: (table, how many, condition, what is wrong with them)."""

    wrong: frozenset[str]
    rows: tuple[tuple[str, int, str, str], ...]

    @property
    def steps(self) -> list[str]:
        """What is done, a sentence for each."""
        done = [f"delete {n:,} rows of {table} {what}" for table, n, _, what in self.rows]
        if "face" in self.wrong:
            done.append("make views and macros attrstore's own again")
        if self._of_lexical:
            done.append("build the lexical index again from the texts")
        return done

    @property
    def _of_lexical(self) -> bool:
        return any(rule.startswith("lexical") for rule in self.wrong)

    def apply(self, store: Store) -> None:
        """Do it."""
        with recorded(store, "repair", rules=sorted(self.wrong)) as run:
            if "face" in self.wrong:
                bring_up_to_date(store, restore=True)
            with store.transaction():
                for table, n, condition, _ in self.rows:
                    store.execute(f"DELETE FROM {table} WHERE {condition}")
                    run.rows += n
        if self._of_lexical:
            ingest_lexical(store, rebuild=True)


def plan(store: Store) -> Repair:
    """Find what can be derived again from what is there; nothing is changed.

    Rows that name an example, a query, an encoder, a scoring or a model that is not there go, and all but one of rows
    that are equal in every column. The lexical index is built again where it does not agree with the texts. Views and
    macros become attrstore's own. What was edited to another valid value stays: `check` names it and its fix.
    """
    wrong = frozenset(finding.check.name for finding in check(store) if not finding.ok)
    rows = []
    if wrong - {"runs", "encoded", "face"}:
        naming = {column: set(tables_with(store, column)) - KEPT for column in PARENTS}
        for table in sorted(set().union(*naming.values())):
            columns = [column for column in PARENTS if table in naming[column]]
            for condition, what in (
                (_orphans(columns), "that name nothing"),
                (_doubles(store, table), "kept twice"),
            ):
                if n := int(store.value(f"SELECT count(*) FROM {table} WHERE {condition}")):
                    rows.append((table, n, condition, what))
    return Repair(wrong, tuple(rows))


def _orphans(columns: Iterable[str]) -> str:
    named = ((column, *PARENTS[column]) for column in columns)
    return " OR ".join(
        f"({column} IS NOT NULL AND {column} NOT IN (SELECT {key} FROM {parent}))"
        for column, parent, key in named
    )


def _doubles(store: Store, table: str) -> str:
    columns = ", ".join(store.sql(f"FROM {table}").columns)
    return f"rowid NOT IN (SELECT min(rowid) FROM {table} GROUP BY {columns})"
