"""Read the inverted index: how it was made, the terms of a text, and BM25 for one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from attrstore.errors import InputError
from attrstore.options import Options, option
from attrstore.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars
    import pyarrow

    from attrstore.store import Store

MOST_K1 = MOST_EPSILON = 100.0  # so that a score fits the integers it is summed in


@dataclass(frozen=True)
class Index(Options):
    """How the index was made (the first three) and how BM25 reads it, unless asked otherwise."""

    # The pattern's default is known to sql/face/100_bm25.sql.
    pattern: str = option(r"[\p{L}\p{M}\p{N}_]+", "What a token is (RE2).", metavar="REGEX")
    fold: bool = option(True, "Lower-case texts first.")
    stemmer: str | None = option(
        None, "Snowball stemmer, such as english, or none.", metavar="NAME", unset="none"
    )
    variant: str = option("okapi", "BM25's formula; can be changed at any time.", choices=("okapi", "lucene"))
    k1: float = option(1.5, "How fast repeated words stop counting.", least=0, most=MOST_K1)
    b: float = option(0.75, "How much long examples are discounted.", least=0, most=1)
    epsilon: float = option(
        0.25, "Okapi's floor of a negative idf, as a share of the mean idf.", least=0, most=MOST_EPSILON
    )

    @property
    def tokens(self) -> dict[str, object]:
        """The parameters of SQL's `split_tokens`."""
        return {"pattern": self.pattern, "fold": self.fold}


class IndexFields(TypedDict, total=False):
    """Fields of `Index`."""

    pattern: str | None
    fold: bool | None
    stemmer: str | None
    variant: str | None
    k1: float | None
    b: float | None
    epsilon: float | None


def read_index(store: Store) -> Index | None:
    """Return how the index of `store` was made, or None when there is none."""
    rows = store.named("lexical", "index").fetchall()
    return Index(*rows[0]) if rows else None


def current_index(store: Store) -> Index:
    """Return the index of `store`.

    Raises `InputError` when there is none, or when it lacks examples of the corpus.
    """
    index = read_index(store)
    if index is None:
        raise InputError(f"{store.path}: no lexical index. Make it: attrstore ingest lexical {store.path}")
    behind = examples_behind(store)
    if behind:
        raise InputError(
            f"{store.path}: {behind:,} examples are not in the lexical index. "
            f"Bring it up to date: attrstore ingest lexical {store.path}"
        )
    return index


def examples_behind(store: Store) -> int:
    """Count the examples that the index does not know."""
    [(count,)] = store.named("lexical", "behind").fetchall()
    return int(count)


def search(store: Store, text: str, top_k: int = 10) -> polars.DataFrame:
    """Return the `top_k` best examples for any text, as `bm25('text')` does.

    Columns: rank, example_id, id, score, text, source, metadata. With a stemmed index, tokens that it has not
    met are stemmed here, and kept where the store is writable, so that plain SQL then finds the same.
    """
    index = current_index(store)
    tokens = [row[0] for row in store.named("lexical", "text_tokens", {"text": text}).fetchall()]
    with store.registered(new_stems=query_stems(store, index, tokens)):
        [(terms,)] = store.named("lexical", "text_terms", {"text": text}).fetchall()
    return store.frame(statement("lexical", "search"), {"terms": terms, "top_k": top_k})


def query_stems(store: Store, index: Index, tokens: Iterable[str]) -> pyarrow.Table:
    """Return the stem of each distinct token of some queries, and keep new ones where the store is writable.

    The table has the columns token, term; it is empty for an index without stemming.
    """
    stems = stem_table(index.stemmer, tokens)
    if store.writable and len(stems):
        with store.transaction(), store.registered(new_stems=stems):
            store.named("lexical", "insert_stems")
    return stems


def stem_table(stemmer: str | None, tokens: Iterable[str]) -> pyarrow.Table:
    """Stem distinct tokens with a Snowball algorithm: columns token, term. No stemmer, no rows."""
    import pyarrow

    words = list(tokens) if stemmer else []
    if words:
        import Stemmer

        terms = Stemmer.Stemmer(stemmer).stemWords(words)
    else:
        terms = []
    return pyarrow.table(
        {"token": pyarrow.array(words, pyarrow.string()), "term": pyarrow.array(terms, pyarrow.string())}
    )
