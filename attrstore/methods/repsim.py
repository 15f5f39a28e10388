"""RepSim: similarity of hidden states, the simple method that beats influence functions in its paper."""

from functools import partial

from attrstore.methods.base import Method
from attrstore.methods.linear_map import OPTIONS, Recipe, rank

REPSIM = Method(
    name="repsim",
    family="influence",
    paper="Li et al. 2024, arXiv 2409.19998",
    needs="attrstore ingest representations",
    cost="one scan; ingest is a forward pass",
    when="Which examples look alike to the model; cheap and strong on classes.",
    rank=partial(rank, Recipe(curvature="none", norm="vector"), "representation"),
    options=OPTIONS,
)
