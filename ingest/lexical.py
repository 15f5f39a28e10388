"""Make the inverted index that BM25 reads: `attrstore ingest lexical STORE`.

The index grows by a join: its work list is the examples that have no row in `lexical_stats`, and each batch
commits its terms, postings and lengths in one transaction. A killed job loses its open batch, and the same
command goes on; a killed rebuild leaves the old index. idf and the average length are computed at query time: new
examples change every score.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pyarrow

from attrstore.errors import AttrstoreError, InputError, Interrupted, MismatchError, flag
from attrstore.lexical.index import Index, IndexFields, read_index, stem_table
from attrstore.progress import Progress, silent
from attrstore.runs import recorded, writes

if TYPE_CHECKING:
    import numpy.typing as npt

    from attrstore.store import Store

BATCH_BYTES = 128_000_000  # of text in one transaction; see `plan` in sql/statements/lexical.sql


@dataclass(frozen=True)
class Indexed:
    """What one run did, and what the index holds now."""

    indexed: int  # examples added by this run
    unchanged: int  # examples that were there already
    terms: int
    postings: int


@writes
def ingest_lexical(
    store: Store,
    *,
    rebuild: bool = False,
    batch_bytes: int = BATCH_BYTES,
    progress: Progress = silent,
    **fields: Unpack[IndexFields],
) -> Indexed:
    """Index the examples that are not in the index yet.

    Args:
        rebuild: make the index anew, which a change of pattern, stemmer or fold needs.
        batch_bytes: how much text one transaction takes.
        progress: called with the number of examples done and to do.
        fields: of `attrstore.lexical.index.Index`. What is not given, or None, stays as the index has it, or is as
            there for a new one; the stemmer "none" takes stemming away. variant, k1, b and epsilon act at query
            time and can be changed freely.

    Raises:
        InputError: no examples, or a bad option.
        MismatchError: pattern, stemmer or fold differ from the index, without `rebuild`.
    """
    changes: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if changes.get("stemmer") == "none":
        changes["stemmer"] = None
    had = read_index(store)
    index = replace(had or Index(), **changes)
    _check(store, had, index)
    if had and not rebuild:
        _refuse_mismatch(store, had, index)
    if not store.value("SELECT count(*) FROM examples"):
        raise InputError(
            f"{store.path}: no examples to index. First: attrstore ingest corpus {store.path} FILE"
        )
    before = 0 if rebuild else _totals(store)[0]
    try:
        indexed = _run(store, index, rebuild, index != had, batch_bytes, progress)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"{store.path}: stopped with {_totals(store)[0]:,} examples indexed. The same command goes on."
        ) from error
    finally:
        store.named("lexical", "drop_work")
        store.named("lexical", "drop_batch")
    _, terms, postings = _totals(store)
    return Indexed(indexed, before, terms, postings)


def _run(
    store: Store,
    index: Index,
    rebuild: bool,
    changed: bool,
    batch_bytes: int,
    progress: Progress,
) -> int:
    """Do what there is to do; leave no trace when there is nothing."""
    missing_stems = _query_tokens(store, index) if index.stemmer else []
    store.named("lexical", "plan", {"batch_bytes": batch_bytes, "rebuild": rebuild})
    batches = store.named("lexical", "batches").fetchall()
    if not (rebuild or changed or missing_stems or batches):
        return 0
    # A rebuild is one transaction: until the new index is whole, the old one stays.
    whole, each = (store.transaction, nullcontext) if rebuild else (nullcontext, store.transaction)
    with recorded(store, "ingest lexical", **asdict(index), rebuild=rebuild) as run, whole():
        with each():
            if rebuild:
                store.named("lexical", "clear")
            _write_index(store, index)
        total = sum(count for _, count in batches)
        progress(0, total)
        for batch, count in batches:
            with each():
                _index_batch(store, index, batch)
            run.rows += count
            progress(run.rows, total)
        if index.stemmer:
            with each():
                _keep_stems(store, index, _query_tokens(store, index))
    return run.rows


def _write_index(store: Store, index: Index) -> None:
    store.execute("DELETE FROM lexical_index")
    store.named("lexical", "insert_index", asdict(index))


def _index_batch(store: Store, index: Index, batch: int) -> None:
    store.named("lexical", "batch_tokens", {**index.tokens, "batch": batch})
    store.named("lexical", "batch_words")
    if index.stemmer:
        _keep_stems(store, index, [row[0] for row in store.named("lexical", "unstemmed_corpus").fetchall()])
    store.named("lexical", "batch_terms")
    keys = store.named("lexical", "batch_keys").fetchnumpy()["key"]
    examples = store.named("lexical", "batch_examples", {"batch": batch}).fetchnumpy()["example_id"]
    with store.registered(**_count(keys, examples)):
        for name in ("raise_df", "insert_terms", "insert_postings", "insert_stats"):
            store.named("lexical", name)
    store.named("lexical", "drop_batch")


def _count(keys: npt.NDArray[np.int64], example_ids: npt.NDArray[np.int64]) -> dict[str, pyarrow.Table]:
    """Count the tokens of a batch by sorting them.

    Args:
        keys: for each token its term's number times 2^32, plus its example's place; sorted on return.
        example_ids: of the places.
    """
    places = (keys & 0xFFFFFFFF).astype(np.int32)
    lengths = np.bincount(places, minlength=len(example_ids))
    keys.sort()
    starts = _starts(keys)
    postings = keys[starts]
    terms = (postings >> 32).astype(np.int32)
    firsts = _starts(terms)
    table = pyarrow.table
    return {
        "new_postings": table(
            {
                "term_id": terms,
                "example_id": example_ids[postings & 0xFFFFFFFF],
                "tf": np.diff(starts, append=len(keys)).astype(np.int32),
            }
        ),
        "new_df": table({"term_id": terms[firsts], "df": np.diff(firsts, append=len(terms))}),
        "new_lengths": table({"example_id": example_ids, "length": lengths.astype(np.int32)}),
    }


def _starts(values: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Where each run of equal values begins."""
    changes = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes.nonzero()[0]


def _query_tokens(store: Store, index: Index) -> list[str]:
    return [row[0] for row in store.named("lexical", "unstemmed_queries", index.tokens).fetchall()]


def _keep_stems(store: Store, index: Index, tokens: list[str]) -> None:
    if tokens:
        with store.registered(new_stems=stem_table(index.stemmer, tokens)):
            store.named("lexical", "insert_stems")


def _totals(store: Store) -> tuple[int, int, int]:
    [(examples, terms, postings)] = store.named("lexical", "totals").fetchall()
    return examples, terms, postings


def _check(store: Store, had: Index | None, index: Index) -> None:
    if had and (had.pattern, had.stemmer) == (index.pattern, index.stemmer):
        return
    try:
        [(empty,)] = store.named("lexical", "pattern_problem", {"pattern": index.pattern}).fetchall()
    except AttrstoreError as error:
        raise InputError(
            f"{flag('pattern')} {index.pattern}: not a regular expression (RE2). {error}"
        ) from error
    if empty:
        raise InputError(
            f"{flag('pattern')} {index.pattern}: matches the empty text; a token has at least one letter"
        )
    if index.stemmer:
        import Stemmer

        if index.stemmer not in Stemmer.algorithms():
            raise InputError(
                f"{flag('stemmer')} {index.stemmer}: there are {', '.join(sorted(Stemmer.algorithms()))}, none"
            )


def _refuse_mismatch(store: Store, had: Index, wanted: Index) -> None:
    for name in ("pattern", "stemmer", "fold"):
        has, wants = getattr(had, name), getattr(wanted, name)
        if has != wants:
            raise MismatchError(
                f"{store.path}: the lexical index was made with {name} {_shown(has)}, not {_shown(wants)}. "
                f"Leave the option out, or make the index anew: {flag('rebuild')}"
            )


def _shown(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
