"""Compute a sample of stored scores again, from the encodings and the index that they were made of."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from attrstore.errors import AttrstoreError
from attrstore.lexical.index import examples_behind, read_index
from attrstore.methods.parts import IN_SPEC, Parts
from attrstore.vectors import encoders, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

QUERIES = 8  # of each scoring
NEAR = 0.01  # share of the query's largest score by which one may differ: another device rounds otherwise


def wrong_scores(store: Store) -> Iterator[str]:
    """Yield the sampled pairs whose score is not what is computed now, of scorings that are not stale.

    By vectors: of what `linear_map` ranked one scoring an encoder, without curvature if there is one, which would be
    taken over the whole corpus. By words: bm25 over all examples, with the index as it is.
    """
    with _as_reader(store):
        for name, *scoring in store.named("check", "fresh_scorings").fetchall():
            try:
                yield from (f"scoring {name}, {pair}" for pair in _wrong(store, *scoring))
            except (AttrstoreError, KeyError, TypeError, ValueError) as error:
                yield f"scoring {name}: its recipe cannot be followed ({error})"


def _wrong(store: Store, scoring_id: str, encoder_id: str | None, spec: str) -> Iterator[str]:
    if encoder_id is None:
        return _wrong_bm25(store, scoring_id, json.loads(spec))
    return _wrong_vectors(store, scoring_id, encoder_id, json.loads(spec))


@contextmanager
def _as_reader(store: Store) -> Iterator[None]:
    """Nothing that is computed here is to be kept."""
    before = store.writable
    store.writable = False
    try:
        yield
    finally:
        store.writable = before


def _sample(store: Store, scoring_id: str) -> list[int]:
    rows = store.named("check", "sampled_queries", {"scoring": scoring_id, "n": QUERIES}).fetchall()
    return [query_id for (query_id,) in rows]


def _wrong_bm25(store: Store, scoring_id: str, spec: dict[str, Any]) -> Iterator[str]:
    index = read_index(store)
    if index is None or spec.get("where") is not None or examples_behind(store):
        return
    if any(spec.get(key) != value for key, value in asdict(index).items()):
        return  # other constants, which act at query time
    for query_id in _sample(store, scoring_id):
        [(terms,)] = store.named("check", "sampled_terms", {"query": query_id}).fetchall()
        key = {"scoring": scoring_id, "query": query_id, "terms": terms, "top_k": spec["top_k"]}
        for (example_id,) in store.named("check", "recomputed_bm25", key).fetchall():
            yield f"query {query_id}, example {example_id}"


def _wrong_vectors(store: Store, scoring_id: str, encoder_id: str, spec: dict[str, Any]) -> Iterator[str]:
    from attrstore.methods import linear_map
    from attrstore.vectors import scan
    from attrstore.vectors.devices import choose_device

    by_id = {encoder.encoder_id: encoder for encoder in encoders.load_all(store)}
    encoder = by_id.get(encoder_id)
    asked = by_id.get(spec.get("query_encoder") or encoder_id)
    sample = _sample(store, scoring_id)
    if encoder is None or asked is None or not sample:
        return
    parts = Parts(**{key: spec[key] for key in IN_SPEC if spec.get(key) is not None})
    device = choose_device(parts.device)
    query_ids, vectors = _vectors(store, asked, sample)
    expected = store.named(
        "check", "sampled_scores", {"scoring": scoring_id, "queries": query_ids}
    ).fetchall()
    import pyarrow

    wanted = pyarrow.table({"example_id": pyarrow.array({e for _, e, _ in expected}, pyarrow.int64())})
    found: dict[tuple[int, int], float] = {}
    with store.registered(selected_examples=wanted):
        score, _ = linear_map.scorer(store, encoder, parts, vectors.to(device))
        for chunk in scan.chunks(store, encoder, "encoded", device):
            of_chunk, ids = score(chunk).cpu().tolist(), chunk.example_ids.tolist()
            for query_id, row in zip(query_ids, of_chunk, strict=True):
                found |= {(query_id, example): value for example, value in zip(ids, row, strict=True)}
    largest = {q: max(abs(s) for asked, _, s in expected if asked == q) for q in {q for q, _, _ in expected}}
    for query_id, example_id, kept in expected:
        now = found.get((query_id, example_id))
        if now is None or not abs(now - kept) <= NEAR * largest[query_id]:
            yield f"query {query_id}, example {example_id}"


def _vectors(store: Store, encoder: Encoder, sample: list[int]) -> tuple[list[int], Any]:
    ids, vectors = stored.query_vectors(store, encoder)
    rows = [row for row, query_id in enumerate(ids) if query_id in set(sample)]
    return [ids[row] for row in rows], vectors[rows]
