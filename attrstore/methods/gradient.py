"""The gradient family: dot, cosine, TRAK and TrackStar, as published or with the norm in each block."""

from functools import partial

from attrstore.methods.base import Method, Reads
from attrstore.methods.linear_map import rank
from attrstore.methods.parts import PUBLISHED, Parts

TRACKSTAR = "Chang et al. 2024, arXiv 2410.17413"


PARTS = {
    "dot": Parts(curvature="none", norm="none"),
    "cosine": Parts(curvature="none", norm="vector"),
    "cosine-block": Parts(curvature="none", norm="block"),
    "damped-block": Parts(curvature="corpus", norm="block", damping=10.0),
    "trak": Parts(curvature="corpus", norm="none"),
    "trackstar": Parts(curvature="mixed", norm="vector"),
    "trackstar-block": Parts(curvature="mixed", norm="block"),
}


def _method(name: str, paper: str, cost: str, when: str, differs: str = "") -> Method:
    reads = Reads("gradient", "corrected" if paper.startswith(TRACKSTAR) and name != "cosine" else "plain")
    return Method(
        name,
        "influence",
        paper,
        reads,
        cost,
        when,
        partial(rank, "gradient"),
        PARTS[name],
        PUBLISHED,
        differs,
    )


GRADIENT_METHODS = (
    _method(
        "dot",
        "Pruthi et al. 2020 (TracIn), arXiv 2002.08484",
        "one scan",
        "A baseline: long and unusual examples win for every query.",
        "An example's loss is the sum over its tokens, where arXiv 2409.19998 takes the mean.",
    ),
    _method(
        "cosine",
        TRACKSTAR,
        "one scan",
        "A quick look without curvature.",
    ),
    _method(
        "cosine-block",
        f"{TRACKSTAR}, varied",
        "one scan",
        "Recommended at the default half-bit codes: no curvature, unit length in each block.",
        "No curvature, and unit length in each block where the paper has it over the whole vector.",
    ),
    _method(
        "damped-block",
        f"{TRACKSTAR}, varied",
        "two scans",
        "What moved the model, from codes of low rank on principal directions: a little of the curvature.",
        "The corpus's curvature alone, damped by ten times its mean eigenvalue, where the paper mixes in the queries'; "
        "unit length in each block.",
    ),
    _method(
        "trak",
        "Park et al. 2023 (TRAK), arXiv 2303.14186",
        "two scans",
        "To compare with TRAK's form for one model: curvature, no norm.",
        "One model, gradients of the loss: no log odds log p/(1 - p), no weights 1 - p, no mean over models.",
    ),
    _method(
        "trackstar",
        TRACKSTAR,
        "two scans",
        "As published: curvature mixed from corpus and queries, unit length.",
        "Curvature and mixing are computed from the quantised codes; at half a bit they are coarse.",
    ),
    _method(
        "trackstar-block",
        f"{TRACKSTAR}, varied",
        "two scans",
        "The same with curvature. At half-bit codes: the same MRR within the intervals, a lower tail-patch.",
        "As trackstar, and unit length in each block where the paper has it over the whole vector.",
    ),
)
