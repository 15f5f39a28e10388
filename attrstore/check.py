"""Check that the tables of a store agree with each other, and say what to do where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import duckdb

from attrstore import shards
from attrstore.errors import AttrstoreError
from attrstore.folders import folder_at
from attrstore.lexical.recount import wrong_postings, wrong_stems
from attrstore.methods.recomputed import wrong_scores
from attrstore.schema import missing_tables, strangers
from attrstore.vectors.checked import missing_projections, wrong_bytes, wrong_recipes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Set
    from pathlib import Path

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
_REBUILD = "Build it again: attrstore ingest lexical --rebuild."
_SCORE = "Score again under the same name: attrstore score."

_INGEST = "Delete those rows and run the same attrstore ingest again."
_EDITED = "It was edited: restore a copy, or ingest again into a new store."

CHECKS = (
    Check("readable", "every table can be read to its end", "Restore a copy: attrstore backup makes one."),
    Check("tables", "every table and column is there", "Restore a copy: attrstore backup makes one."),
    Check(
        "face",
        "views and macros are attrstore's own",
        "Remove what is not, and set the others right: attrstore init STORE.",
    ),
    Check("duplicate_ids", "every example and query has its own id", _AGAIN),
    Check(
        "changed_texts",
        "texts, prompts and targets are those that were ingested",
        "Ingest the corpus or the queries again with --replace.",
    ),
    Check("originals", "originals name an example or a query that exists, each once", "Delete those rows."),
    Check("labels", "labels are numbers of queries and examples that exist, once from each origin", _LABELS),
    Check("encoders", "encoders name a model that exists", _AGAIN),
    Check("recipes", "encoders have the spec that their id is made of, and its blocks", _EDITED),
    Check("projections", "what an encoder measured before its first encoding is all there", _EDITED),
    Check("encodings", "encodings name an encoder and an example that exist", "Delete those rows."),
    Check("query_encodings", "query encodings name an encoder and a query that exist", "Delete those rows."),
    Check("curvatures", "curvatures and projections name an encoder that exists", "Delete those rows."),
    Check("duplicate_encodings", "nothing is encoded twice", _INGEST),
    Check(
        "encoded",
        "each encoder has looked at every example and query",
        "Run the same attrstore ingest again: it encodes what is missing.",
    ),
    Check(
        "code_lengths",
        "codes, scales, vectors and matrices are finite, as long as their encoder says, missing only where skipped",
        _INGEST,
    ),
    Check("lexical_index", "there is at most one lexical index", _REBUILD),
    Check("lexical_examples", "the lexical index covers the corpus, each example once", _LEXICAL),
    Check("lexical_counts", "document frequencies and lengths agree with the postings", _LEXICAL),
    Check("lexical_texts", "the postings are what the texts say, counted again", _REBUILD),
    Check("scorings", "scorings name an encoder that exists", _SCORE),
    Check("scores", "scores name a scoring, a query and an example that exist", _SCORE),
    Check(
        "scoring_queries", "the queries that a scoring ranked exist, and are those it has scores of", _SCORE
    ),
    Check("ranks", "ranks are unique within a query and follow the scores", _SCORE),
    Check("rank_gaps", "ranks leave no gap, and none is beyond what was ranked", _SCORE),
    Check("written_scores", "scores and recipes of scorings are those that were written", _SCORE),
    Check("recomputed", "a sample of the scores, computed again, comes out the same", _SCORE),
    Check(
        "tail_patches",
        "tail patches are numbers of a model, a query and an example that exist, each once",
        "Delete those rows.",
    ),
    Check("explanations", "parts and exact scores name what exists", "Delete those rows."),
    Check(
        "subsets",
        "subsets and their losses name examples and queries that exist, each once",
        "Make them again: attrstore subsets --replace.",
    ),
    Check(
        "checkpoints",
        "losses and parameter changes name a model and a query that exist",
        "Delete those rows and run the same attrstore compare-checkpoints again.",
    ),
    Check("runs", "every job ran to its end", "Run the same command again: it goes on where it stopped."),
)
# Computing scores again needs these to be right.
_BEFORE_SCORES = {
    "readable", "tables", "recipes", "projections", "encodings", "duplicate_encodings", "code_lengths", "lexical_index",
}  # fmt: skip

SHARDS = Check(
    "shards",
    "shards are whole, of an encoder of the store, and none is missing",
    "Delete what is wrong and run the same attrstore ingest with --shards again.",
)


def check(store: Store, only: Collection[str] = ()) -> Iterator[Finding]:
    """Yield the outcome of each check, in the order of `CHECKS`; of `only` those that are named, if any is."""
    failed: set[str] = set()
    for rule in CHECKS:
        if (only and rule.name not in only) or (rule.name == "recomputed" and not find_spec("torch")):
            continue  # without torch no score can be computed: then nothing is said about them
        finding = _finding(store, rule, failed)
        if not finding.ok:
            failed.add(rule.name)
        yield finding


def check_shards(store: Store, folder: str | Path) -> Iterator[Finding]:
    """Yield what is wrong with a folder of shards, one by one, or that nothing is."""
    wrong = [Finding(SHARDS, 1, fault) for fault in shards.faults(store, folder_at(folder))]
    yield from wrong or [Finding(SHARDS, 0, None)]


def _finding(store: Store, rule: Check, failed: Set[str]) -> Finding:
    if rule.name == "recomputed" and (bad := failed & _BEFORE_SCORES):
        first = next(other.rule for other in CHECKS if other.name in bad)
        return Finding(rule, 1, f"not known where it does not hold that {first}")
    try:
        if rule.name in COMPUTED:
            found = list(COMPUTED[rule.name](store))
            return Finding(rule, len(found), found[0] if found else None)
        if rule.name == "lexical_texts":
            return _recounted(store, rule)
        wrong, sample = store.named("check", rule.name).fetchall()[0]
    except (AttrstoreError, duckdb.Error):
        damaged = [*(f"{name} cannot be read" for name in _unreadable(store)), *_missing(store)]
        if not damaged:
            raise
        return Finding(rule, 1, f"not known, because {', '.join(damaged)}")
    return Finding(rule, wrong, sample)


def _missing(store: Store) -> list[str]:
    return [f"{table} lacks {', '.join(columns)}" for table, columns in missing_tables(store).items()]


def _recounted(store: Store, rule: Check) -> Finding:
    stems = wrong_stems(store)
    batches = [*wrong_postings(store), *((1, stem) for stem in stems)]
    return Finding(rule, sum(wrong for wrong, _ in batches), batches[0][1] if batches else None)


def _unreadable(store: Store) -> list[str]:
    """Tables with a block that does not read back as it was written."""
    found = []
    for (name,) in store.named("face", "tables").fetchall():
        try:
            store.rows("SELECT count(hash(COLUMNS(*))) FROM query_table($table)", {"table": name})
        except (AttrstoreError, duckdb.Error):
            found.append(name)
    return found


# Checks that no one statement can make; each gives what is wrong.
COMPUTED: dict[str, Callable[[Store], Iterable[str]]] = {
    "readable": _unreadable,
    "tables": _missing,
    "face": strangers,
    "recipes": wrong_recipes,
    "projections": missing_projections,
    "code_lengths": wrong_bytes,
    "recomputed": wrong_scores,
}
