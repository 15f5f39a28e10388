"""Check that the tables of a store agree with each other, and say what to do where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from attrstore.errors import AttrstoreError
from attrstore.schema import strangers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attrstore.store import Store


@dataclass(frozen=True)
class Check:
    """One rule: a statement of `sql/statements/check.sql`, the rule in words, and what to do when it is broken."""

    name: str
    rule: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: Check
    wrong: int  # rows that break the rule
    sample: str | None  # one of them

    @property
    def ok(self) -> bool:
        """Whether nothing breaks the rule."""
        return self.wrong == 0


_AGAIN = "Ingest into a new store, or restore a copy: attrstore never writes this."
_LABELS = "Remove them and ingest the labels again: attrstore ingest labels."
_LEXICAL = "Bring it up to date, or build it again: attrstore ingest lexical [--rebuild]."
_SCORE = "Score again under the same name: attrstore score."

CHECKS = (
    Check("readable", "every table can be read to its end", "Restore a copy: attrstore backup makes one."),
    Check(
        "face",
        "views and macros are attrstore's own",
        "Remove what is not, and set the others right: attrstore init STORE.",
    ),
    Check("duplicate_ids", "every example and query has its own id", _AGAIN),
    Check("changed_texts", "texts are those that were ingested", "Ingest the corpus again with --replace."),
    Check("labels", "labels name queries and examples that exist", _LABELS),
    Check("encoders", "encoders name a model that exists", _AGAIN),
    Check("encodings", "encodings name an encoder and an example that exist", "Delete those rows."),
    Check("query_encodings", "query encodings name an encoder and a query that exist", "Delete those rows."),
    Check("curvatures", "curvatures and projections name an encoder that exists", "Delete those rows."),
    Check(
        "duplicate_encodings",
        "nothing is encoded twice",
        "Delete those rows and run the same attrstore ingest again.",
    ),
    Check(
        "code_lengths",
        "codes of an encoder are all of one length, and missing only where skipped",
        "Delete those rows and run the same attrstore ingest again.",
    ),
    Check("lexical_examples", "the lexical index covers the corpus, each example once", _LEXICAL),
    Check("lexical_counts", "document frequencies and lengths agree with the postings", _LEXICAL),
    Check("scorings", "scorings name an encoder that exists", _SCORE),
    Check("scores", "scores name a scoring, a query and an example that exist", _SCORE),
    Check(
        "scoring_queries", "the queries that a scoring ranked exist, and are those it has scores of", _SCORE
    ),
    Check("ranks", "ranks are unique within a query and follow the scores", _SCORE),
    Check(
        "tail_patches", "tail patches name a model, a query and an example that exist", "Delete those rows."
    ),
    Check(
        "subsets",
        "subsets and their losses name examples and queries that exist",
        "Make them again: attrstore subsets --replace.",
    ),
    Check(
        "checkpoints",
        "losses and parameter changes name a model and a query that exist",
        "Delete those rows and run the same attrstore compare-checkpoints again.",
    ),
    Check("runs", "every job ran to its end", "Run the same command again: it goes on where it stopped."),
)


def check(store: Store) -> Iterator[Finding]:
    """Yield the outcome of each check, in the order of `CHECKS`."""
    unreadable = _unreadable(store)
    for rule in CHECKS:
        if rule.name == "readable":
            found = list(unreadable)
        elif rule.name == "face":
            found = strangers(store)
        else:
            yield _counted(store, rule, unreadable)
            continue
        yield Finding(rule, len(found), found[0] if found else None)


def _counted(store: Store, rule: Check, unreadable: Sequence[str]) -> Finding:
    try:
        wrong, sample = store.named("check", rule.name).fetchall()[0]
    except (AttrstoreError, duckdb.Error):
        if not unreadable:
            raise
        return Finding(rule, 1, f"not known, because {', '.join(unreadable)} cannot be read")
    return Finding(rule, wrong, sample)


def _unreadable(store: Store) -> list[str]:
    """Tables with a block that does not read back as it was written."""
    found = []
    for (name,) in store.named("face", "tables").fetchall():
        try:
            store.rows("SELECT count(hash(COLUMNS(*))) FROM query_table($table)", {"table": name})
        except (AttrstoreError, duckdb.Error):
            found.append(name)
    return found
