"""Read the inverted index: how it was made, the terms of a text, and BM25 for one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from attrstore.errors import InputError
from attrstore.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars
    import pyarrow

    from attrstore.store import Store

Variant = Literal["okapi", "lucene"]
MOST_K1 = MOST_EPSILON = 100.0  # so that a score fits the integers it is summed in


@dataclass(frozen=True)
class Index:
    """How the index was made (the first three) and how BM25 reads it, unless asked otherwise."""

    pattern: str = r"[\p{L}\p{N}_]+"  # RE2: what a token is; the default is known to sql/face/100_bm25.sql
    fold: bool = True  # lower-case first
    stemmer: str | None = None  # a Snowball algorithm
    variant: Variant = "okapi"
    k1: float = 1.5
    b: float = 0.75
    epsilon: float = 0.25

    @property
    def tokens(self) -> dict[str, Any]:
        """The parameters of SQL's `split_tokens`."""
        return {"pattern": self.pattern, "fold": self.fold}

    def check_weights(self) -> None:
        """Refuse a variant or a constant that BM25 cannot be computed with."""
        if self.variant not in get_args(Variant):
            raise InputError(f"--variant {self.variant}: there are {', '.join(get_args(Variant))}")
        for name, value, most in (
            ("k1", self.k1, MOST_K1),
            ("b", self.b, 1.0),
            ("epsilon", self.epsilon, MOST_EPSILON),
        ):
            if not 0 <= value <= most:
                raise InputError(f"--{name} {value:g}: must be between 0 and {most:g}")


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
