"""Dense retrieval: similarity of an embedding model's vectors of query and example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attrstore.methods import linear_map
from attrstore.methods.base import Method, Reads
from attrstore.methods.parts import Parts
from attrstore.options import Options, left_open, option
from attrstore.vectors import encoders

if TYPE_CHECKING:
    from attrstore.methods.base import Ranking, Request
    from attrstore.store import Store

NORMS = {"cosine": "vector", "dot": "none"}  # similarity that the model was trained for: what is divided by


@dataclass(frozen=True)
class DenseOptions(Options):
    """Over which encoder, and how long its vectors are taken to be."""

    encoder: str | None = left_open(Parts, "encoder", "of one model's, the first made")
    norm: str | None = left_open(Parts, "norm", "as the model was trained")
    device: str = option("auto", "auto, cpu or cuda.")


def rank(store: Store, request: Request) -> Ranking:
    """Rank by the similarity that the model was made for, or by another norm; there are no opponents."""
    options = request.options_as(DenseOptions)
    encoder = encoders.choose(store, "embedding", options.encoder)
    norm = options.norm or NORMS[encoder.spec["similarity"]]
    parts = Parts(curvature="none", norm=norm, encoder=encoder.encoder_id, device=options.device)
    return linear_map.rank("embedding", store, replace(request, options=parts, opponents=False))


DENSE = Method(
    name="dense",
    family="retrieval",
    paper="Karpukhin et al. 2020 (dense passage retrieval), arXiv 2004.04906",
    reads=Reads("embedding"),
    cost="one scan; ingest is a forward pass of the embedding model",
    when="Examples that mean the same in other words; needs an embedding model, not the model explained.",
    rank=rank,
    options=DenseOptions(),
)
