"""Dense retrieval: similarity of an embedding model's vectors of query and example."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attrstore.methods import linear_map
from attrstore.methods.base import Method
from attrstore.methods.linear_map import Recipe
from attrstore.vectors import encoders

if TYPE_CHECKING:
    from attrstore.methods.base import Ranking, Request
    from attrstore.store import Store

NORMS = {"cosine": "vector", "dot": "none"}  # similarity that the model was trained for: what is divided by


def rank(store: Store, request: Request) -> Ranking:
    """Rank by the similarity that the model was made for, or by `--norm none|vector`; there are no opponents."""
    encoder = encoders.choose(store, "embedding", request.options.get("encoder"))
    recipe = Recipe(curvature="none", norm=NORMS[encoder.spec["similarity"]])
    return linear_map.rank(recipe, "embedding", store, replace(request, opponents=False))


DENSE = Method(
    name="dense",
    family="retrieval",
    paper="Karpukhin et al. 2020 (dense passage retrieval), arXiv 2004.04906",
    needs="attrstore ingest embeddings",
    cost="one scan; ingest is a forward pass of the embedding model",
    when="Examples that mean the same in other words; needs an embedding model, not the model explained.",
    rank=rank,
    options=frozenset({"encoder", "norm", "device"}),
)
