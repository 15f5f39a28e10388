"""Count the corpus's words again and compare them with the inverted index, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.lexical.index import read_index, stem_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attrstore.store import Store

BATCH_BYTES = 64_000_000  # of text counted at a time


def wrong_postings(store: Store) -> Iterator[tuple[int, str]]:
    """Yield how many pairs of example and word are counted otherwise than the texts say, and one, batch by batch."""
    index = read_index(store)
    if index is None or store.value("SELECT count(*) FROM lexical_index") != 1:
        return
    batches = store.named("check", "recount_batches", {"bytes": BATCH_BYTES}).fetchall()
    for first, last in batches:
        where = {**index.tokens, "first": first, "last": last}
        [(wrong, sample)] = store.named("check", "recount", where).fetchall()
        if wrong:
            yield wrong, sample


def wrong_stems(store: Store) -> list[str]:
    """Return the words whose stem is not the stemmer's; none where the stemmer is not installed."""
    index = read_index(store)
    if index is None or index.stemmer is None:
        return []
    kept = dict(store.rows("SELECT token, term FROM stems ORDER BY token"))
    try:
        made = stem_table(index.stemmer, list(kept))
    except (ModuleNotFoundError, KeyError):
        return []
    terms = zip(made["token"].to_pylist(), made["term"].to_pylist(), strict=True)
    return [f"stem of {token}" for token, term in terms if kept[token] != term]
