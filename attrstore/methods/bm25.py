"""BM25: which examples share the query's words, rare words counting more."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from attrstore.errors import InputError, flag
from attrstore.lexical.index import Index, current_index, stem_table
from attrstore.methods.base import Method, Ranking, Reads, Request
from attrstore.options import Options, left_open, option

if TYPE_CHECKING:
    import pyarrow

    from attrstore.store import Store

DECIMALS = 9  # of a score, in SQL too: scores that agree this far are tied


@dataclass(frozen=True)
class Bm25Options(Options):
    """How the index is read; what is None is as the index has it."""

    engine: str = option(
        "maxscore", "rank-bm25 computes every score: a reference for small corpora.", choices=("maxscore", "rank-bm25")
    )  # fmt: skip
    variant: str | None = left_open(Index, "variant", "the index's")
    k1: float | None = left_open(Index, "k1", "the index's")
    b: float | None = left_open(Index, "b", "the index's")
    epsilon: float | None = left_open(Index, "epsilon", "the index's")

    def applied(self, index: Index) -> Index:
        """Return the index as it is to be read."""
        given = {name: getattr(self, name) for name in ("variant", "k1", "b", "epsilon")}
        return replace(index, **{name: value for name, value in given.items() if value is not None})


def rank(store: Store, request: Request) -> Ranking:
    """Rank the selected examples that share a word with each query; the query is prompt and target joined.

    idf and average length are those of the whole index, whatever is selected.

    Raises `InputError` when there is no index, when it lacks examples, or for a bad option.
    """
    options = request.options_as(Bm25Options)
    index = options.applied(current_index(store))
    rank_with = _rank_in_memory if options.engine == "rank-bm25" else _rank_by_maxscore
    pairs = rank_with(store, index, request)
    count = store.value("SELECT count(*) FROM selected_examples")
    # A query that shares no word with any example was ranked too, and nothing was found.
    query_ids = [query_id for (query_id,) in store.rows("SELECT query_id FROM queries")]
    return Ranking(pairs, count, {"engine": options.engine, **asdict(index)}, query_ids=query_ids)


def _rank_by_maxscore(store: Store, index: Index, request: Request) -> pyarrow.Table:
    from attrstore.lexical import batch

    return batch.rank(store, index, request)


def _rank_in_memory(store: Store, index: Index, request: Request) -> pyarrow.Table:
    """Let rank_bm25 score every example for every query: the reference, for corpora that fit in memory."""
    from rank_bm25 import BM25Okapi

    if index.variant != "okapi":
        raise InputError(
            f"{flag('engine')} rank-bm25: has no variant {index.variant}; use the variant okapi, or the engine maxscore"
        )
    if not index.k1:
        raise InputError(
            f"{flag('engine')} rank-bm25: divides by zero at {flag('k1')} 0; it needs a k1 above 0"
        )
    ids, texts = _token_lists(store, index, "documents")
    questions = zip(*_token_lists(store, index, "questions"), strict=True)
    if not any(texts):
        return _pairs([])  # rank_bm25 divides by the size of the vocabulary
    model = BM25Okapi(texts, k1=index.k1, b=index.b, epsilon=index.epsilon)
    selected = {row[0] for row in store.rows("SELECT example_id FROM selected_examples")}
    labelled = set(store.named("scoring", "labelled_pairs").fetchall())
    total = store.value("SELECT count(*) FROM queries")
    ranked: list[tuple[int, int, int, float]] = []
    for done, (query, terms) in enumerate(questions, 1):
        scores, wanted = model.get_scores(terms), set(terms)
        found = sorted(
            (-round(float(scores[row]), DECIMALS), example)
            for row, example in enumerate(ids)
            if example in selected and not wanted.isdisjoint(model.doc_freqs[row])
        )
        ranked += [
            (query, example, place, -negative)
            for place, (negative, example) in enumerate(found, 1)
            if place <= request.top_k or (query, example) in labelled
        ]
        request.progress(done, total)
    return _pairs(ranked)


def _token_lists(store: Store, index: Index, name: str) -> tuple[list[int], list[list[str]]]:
    """Ids and tokens, stemmed, of the examples or the queries, tokenised anew."""
    rows: list[tuple[int, list[str]]] = store.named("lexical", name, index.tokens).fetchall()
    words = sorted({token for _, tokens in rows for token in tokens}) if index.stemmer else []
    table = stem_table(index.stemmer, words)
    stems = dict(zip(table["token"].to_pylist(), table["term"].to_pylist(), strict=True))
    return [key for key, _ in rows], [[stems.get(token, token) for token in tokens] for _, tokens in rows]


def _pairs(rows: list[tuple[int, int, int, float]]) -> pyarrow.Table:
    import pyarrow

    types = (pyarrow.int64(), pyarrow.int64(), pyarrow.int32(), pyarrow.float64())
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    arrays = [pyarrow.array(list(column), kind) for column, kind in zip(columns, types, strict=True)]
    return pyarrow.table(dict(zip(("query_id", "example_id", "rank", "score"), arrays, strict=True)))


METHOD = Method(
    name="bm25",
    family="retrieval",
    paper="Robertson et al. 1994, Okapi at TREC-3; Lucene's variant too",
    reads=Reads("lexical"),
    cost="no model; seconds for thousands of queries",
    when="The examples that state the fact, word for word.",
    rank=rank,
    options=Bm25Options(),
    differs="Lengths are exact, where Lucene keeps each in one byte.",
)
