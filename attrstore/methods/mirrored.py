"""Mirrored influence: a training step on the query, then only forward passes over the examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attrstore.methods.base import Method, Ranking, Reads
from attrstore.options import Options, option

if TYPE_CHECKING:
    from attrstore.methods.base import Request
    from attrstore.store import Store


@dataclass(frozen=True)
class MirroredOptions(Options):
    """The step on a query, and what is measured after it."""

    model: str | Path | None = option(None, "The model's folder.", unset="the store's only causal LM")
    learning_rate: float | None = option(
        None, "Of the step.", above=0, unset="1e-6 with an optimizer's state, 1e-3 without"
    )
    optimizer_state: str | Path | None = option(
        None,
        "File with the optimizer's state_dict: the step is then AdamW's, without momentum; none for none.",
        unset="optimizer.pt in the model's folder, if it is there and fits",
    )
    step: str = option(
        "ascent", "On the query's loss: ascent is as published.", choices=("ascent", "descent")
    )
    loss: str = option("mean", "Of an example, over its tokens.", choices=("mean", "sum"))
    queries: int | None = option(
        None, "Only the first N, by query_id; each costs a pass over the corpus.", least=1, metavar="N"
    )
    device: str = option("auto", "auto, cpu or cuda.")
    batch_tokens: int = option(4096, "Padded tokens in a batch.", least=1)


def rank(store: Store, request: Request) -> Ranking:
    """Rank by how much the examples' losses change with a step on the query; see `ingest/mirrored.py`."""
    import torch

    from attrstore.ingest.measure.mirrored import score_selected
    from attrstore.vectors.ends import Ends

    found = score_selected(store, request.options_as(MirroredOptions), request.progress)
    row_of = {query_id: row for row, query_id in enumerate(found.query_ids)}
    column_of = {example_id: column for column, example_id in enumerate(found.example_ids.tolist())}
    places = [
        (row_of[query], column_of[example])
        for query, example in store.named("scoring", "labelled_pairs").fetchall()
        if query in row_of and example in column_of
    ]
    rows, columns = torch.tensor(places, dtype=torch.long).view(-1, 2).unbind(dim=1)
    labelled = rows, found.example_ids[columns], found.scores[rows, columns]
    ends = Ends(found.query_ids, request.top_k, labelled)
    ends.add(found.example_ids, found.scores)
    return Ranking(ends.ranked().table(), ends.total, found.spec, query_ids=found.query_ids)


MIRRORED = Method(
    name="mirrored",
    family="influence",
    paper="Ko et al. 2024 (mirrored influence), arXiv 2402.08922",
    reads=Reads("model"),
    cost="a forward pass over the corpus for each query, and one more",
    when="A few queries, and nothing ingested: no gradients of examples, no projection.",
    rank=rank,
    options=MirroredOptions(),
)
