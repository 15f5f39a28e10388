"""BM25 for all queries at once: read the postings a part of the corpus at a time, and rank every query in it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow

from attrstore.lexical.index import query_stems
from attrstore.lexical.maxscore import Part, Top
from attrstore.statements import statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attrstore.lexical.index import Index
    from attrstore.methods.base import Request
    from attrstore.store import Store

# Of the corpus in one part. A posting takes about 40 bytes while a part is read, and there is at most one for
# each token: 175 MB at the most, whatever the corpus.
TOKENS_AT_ONCE = 2**22


def rank(store: Store, index: Index, request: Request) -> pyarrow.Table:
    """Return the pairs of a BM25 ranking, in the columns of `Ranking.pairs`."""
    weights = {name: value for name, value in asdict(index).items() if name in ("variant", "k1", "b")}
    try:
        n_terms = _ask(store, index)
        tops = _tops(store, weights, request.top_k)
        parts = store.named("lexical", "part_ranges").fetchall()
        for done, (part_number, first, last) in enumerate(parts):
            one = {"part": part_number}
            [example_ids] = store.named("lexical", "part_examples", one).fetchnumpy().values()
            span = {**one, "first": first, "last": last}
            postings = store.named("lexical", "part_postings", {**span, **weights}).fetchnumpy()
            part = Part(example_ids, postings["term"], postings["place"], postings["weight"], n_terms)
            del postings
            for place, top in enumerate(tops.values(), 1):
                top.add(part)
                request.progress((done * len(tops) + place) // len(parts), len(tops))
    finally:
        store.named("lexical", "drop_rank")
    return _table(tops)


def _ask(store: Store, index: Index) -> int:
    """Make temporary tables of the queries' terms and the corpus's parts; return the number of distinct terms."""
    tokens = store.sql(statement("lexical", "query_tokens"), index.tokens).to_arrow_table()
    stems = query_stems(store, index, tokens["token"].unique().to_pylist() if index.stemmer else [])
    with store.registered(query_tokens=tokens, new_stems=stems):
        store.named("lexical", "query_terms")
    store.named("lexical", "asked_terms", {"variant": index.variant, "epsilon": index.epsilon})
    store.named("lexical", "parts", {"tokens": TOKENS_AT_ONCE})
    return int(store.value("SELECT count(*) FROM asked_terms"))


def _tops(store: Store, weights: Mapping[str, object], top_k: int) -> dict[int, Top]:
    """Return the ranking of each query that has a term of the index, still empty, by the query's id."""
    asked = _by_query(store.named("lexical", "asked").fetchnumpy())
    labelled = _by_query(store.named("lexical", "labelled_units", dict(weights)).fetchnumpy())
    none = (np.zeros(0, dtype=np.int64), np.zeros(0))
    tops = {}
    for query, (terms, counts) in asked.items():
        ids, units = labelled.get(query, none)
        tops[query] = Top(terms, counts, top_k, ids, units)
    return tops


def _by_query(columns: Mapping[str, np.ndarray]) -> dict[int, tuple[np.ndarray, ...]]:
    """Split the columns that follow query_id, by whose order the rows come, into those of each query."""
    query_ids, *others = columns.values()
    queries, starts = np.unique(query_ids, return_index=True)
    split = [np.split(column, starts)[1:] for column in others]  # before the first start there is nothing
    return dict(zip(queries.tolist(), zip(*split, strict=True), strict=True))


def _table(tops: Mapping[int, Top]) -> pyarrow.Table:
    ranked = [top.ranked() for top in tops.values()]
    query_ids = [np.full(len(one.ranks), query) for query, one in zip(tops, ranked, strict=True)]
    schema = pyarrow.schema(
        {
            "query_id": pyarrow.int64(),
            "example_id": pyarrow.int64(),
            "rank": pyarrow.int32(),
            "score": pyarrow.float64(),
        }
    )
    if not tops:
        return schema.empty_table()
    columns = (query_ids, *zip(*ranked, strict=True))
    arrays = [
        pyarrow.array(np.concatenate(column)).cast(kind)
        for column, kind in zip(columns, schema.types, strict=True)
    ]
    return pyarrow.table(arrays, schema=schema)
