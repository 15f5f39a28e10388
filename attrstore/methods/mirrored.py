"""Mirrored influence: a training step on the query, then only forward passes over the examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.methods.base import Method, Ranking

if TYPE_CHECKING:
    from attrstore.methods.base import Request
    from attrstore.store import Store

OPTIONS = frozenset({"model", "learning_rate", "optimizer_state", "step", "loss", "queries", "device"})


def rank(store: Store, request: Request) -> Ranking:
    """Rank by how much the examples' losses change with a step on the query; see `ingest/mirrored.py`."""
    import torch

    from attrstore.ingest.measure.mirrored import score_selected
    from attrstore.vectors import scan

    found = score_selected(store, progress=request.progress, **request.options)
    row_of = {query_id: row for row, query_id in enumerate(found.query_ids)}
    column_of = {example_id: column for column, example_id in enumerate(found.example_ids.tolist())}
    places = [
        (row_of[query], column_of[example])
        for query, example in store.named("scoring", "labelled_pairs").fetchall()
        if query in row_of and example in column_of
    ]
    rows, columns = torch.tensor(places, dtype=torch.long).view(-1, 2).unbind(dim=1)
    labelled = rows, found.example_ids[columns], found.scores[rows, columns]
    ranked, total = scan.rank(
        lambda: iter([(found.example_ids, found.scores)]), found.query_ids, request.top_k, labelled
    )
    return Ranking(ranked.table(), total, found.spec, query_ids=found.query_ids)


MIRRORED = Method(
    name="mirrored",
    family="influence",
    paper="Ko et al. 2024 (mirrored influence), arXiv 2402.08922",
    needs="the model",
    cost="a forward pass over the corpus for each query, and one more",
    when="A few queries, and nothing ingested: no gradients of examples, no projection.",
    rank=rank,
    options=OPTIONS,
)
