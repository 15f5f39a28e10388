"""A small scored store, seeded, and the rankings that went into it."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow

if TYPE_CHECKING:
    from attrstore import Store

N_EXAMPLES, N_QUERIES, TOP_K = 60, 14, 12
PATCHED = (0, 1, *range(3, 10), 11, 13)  # queries whose ten strongest proponents by trackstar are measured


class World(NamedTuple):
    """What was put into the store, to compute from a second time."""

    rankings: dict[str, dict[int, list[int]]]  # scoring -> query -> all examples, strongest first
    labelled: dict[int, set[int]]
    patches: dict[tuple[int, int], float]


def fill(store: Store, seed: int = 7) -> World:
    """Three scorings over all examples; the retrieval one finds only the first half of its ranking."""
    with store.transaction():
        return _fill(store, random.Random(seed))


def _fill(store: Store, rng: random.Random) -> World:
    add_texts(store)
    labelled = {q: set(rng.sample(range(N_EXAMPLES), rng.randint(1, 5))) for q in range(N_QUERIES - 2)}
    for q, examples in labelled.items():
        for e in sorted(examples):
            add(store, "labels", q, e, 1.0, "gold")
    add(store, "labels", 0, next(e for e in range(N_EXAMPLES) if e not in labelled[0]), 0.0, "gold")
    add(store, "labels", 1, min(labelled[1]), 1.0, "second origin")
    rankings: dict[str, dict[int, list[int]]] = {}
    for number, (name, family) in enumerate(
        [("cosine", "influence"), ("trackstar", "influence"), ("bm25", "retrieval")]
    ):
        add_scoring(store, name, family, N_EXAMPLES, number)
        rankings[name] = {}
        for q in range(N_QUERIES):
            order = rng.sample(range(N_EXAMPLES), N_EXAMPLES)
            if name == "bm25":
                order = order[: N_EXAMPLES // 2]
            rankings[name][q] = order
            add_ranking(store, name, q, order, labelled.get(q, set()), opponents=family == "influence")
    patches = {}
    for q in PATCHED:
        for e in rankings["trackstar"][q][:10]:
            patches[q, e] = rng.gauss(0, 1)
            add(
                store,
                "tail_patches",
                q,
                e,
                "model",
                "adamw",
                1e-6,
                -3.0,
                patches[q, e],
                0.05,
                patches[q, e] / 9,
            )
    one = rankings["trackstar"][2][0]  # only one of query 2's ten was measured: it does not count
    add(store, "tail_patches", 2, one, "model", "adamw", 1e-6, -3.0, 99.0, 0.05, 99.0)
    add(store, "tail_patches", 0, rankings["trackstar"][0][0], "model", "adamw", 1e-4, -3.0, 99.0, 0.05, 99.0)
    return World(rankings, labelled, patches)


def add(store: Store, table: str, *values: Any) -> None:
    store.connection.table(table).insert(values)


def add_texts(store: Store) -> None:
    store.execute(
        "INSERT INTO examples (example_id, external_id, text, source, metadata, content_hash) "
        "SELECT i, 'e' || i, 'text ' || i, 'wiki', json_object('kind', 'c' || i % 3), "
        "md5_number('text ' || i) FROM range($n) t(i)",
        {"n": N_EXAMPLES},
    )
    store.execute(
        "INSERT INTO queries (query_id, external_id, prompt, target, metadata, content_hash) "
        "SELECT i, 'q' || i, 'prompt ' || i, 'target ' || i, "
        "json_object('relation', 'r' || i % 2, 'kind', 'c' || i % 3), "
        "md5_number('prompt ' || i || chr(31) || 'target ' || i) FROM range($n) t(i)",
        {"n": N_QUERIES},
    )


def add_scoring(store: Store, name: str, family: str, n: int, minute: int) -> None:
    store.execute(
        "INSERT INTO scorings VALUES ($name, $name, $family, $name, $spec, NULL, $n, "
        "TIMESTAMPTZ '2026-01-01' + to_minutes($minute), '0')",
        {"name": name, "family": family, "n": n, "minute": minute, "spec": json.dumps({"top_k": TOP_K})},
    )


def add_ranking(
    store: Store, name: str, q: int, order: list[int], keep: set[int], *, opponents: bool
) -> None:
    """Store both ends and the labelled examples, as scoring does; an empty order is a query that found nothing."""
    add(store, "scoring_queries", name, q)
    n = len(order)
    stored = {e: (place, place) for place, e in enumerate(order, 1) if place <= TOP_K or e in keep}
    if opponents:
        # A labelled example among the opponents has its negative rank, no other.
        stored |= {e: (place, place - n - 1) for place, e in enumerate(order, 1) if place > n - TOP_K}
    pairs = [
        {"name": name, "q": q, "e": e, "rank": rank, "score": 1.0 - place / 100}
        for e, (place, rank) in stored.items()
    ]
    if pairs:  # row by row takes ten times as long
        with store.registered(pairs=pyarrow.Table.from_pylist(pairs)):
            store.connection.execute("INSERT INTO scores FROM pairs")
