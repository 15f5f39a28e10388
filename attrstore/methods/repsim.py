"""RepSim: similarity of hidden states."""

from functools import partial

from attrstore.methods.base import Method, Reads
from attrstore.methods.linear_map import rank
from attrstore.methods.parts import PUBLISHED, Parts

REPSIM = Method(
    name="repsim",
    family="influence",
    paper="Li et al. 2024, arXiv 2409.19998",
    reads=Reads("representation"),
    cost="one scan; ingest is a forward pass",
    when="Which examples look alike to the model: cheap, a forward pass.",
    rank=partial(rank, "representation"),
    options=Parts(curvature="none", norm="vector"),
    takes=PUBLISHED,
)
