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
    "trak": Parts(curvature="corpus", norm="none"),
    "trackstar": Parts(curvature="mixed", norm="vector"),
    "trackstar-block": Parts(curvature="mixed", norm="block"),
}


def _method(name: str, paper: str, cost: str, when: str) -> Method:
    reads = Reads("gradient", "corrected" if paper.startswith(TRACKSTAR) and name != "cosine" else "plain")
    return Method(
        name, "influence", paper, reads, cost, when, partial(rank, "gradient"), PARTS[name], PUBLISHED
    )


GRADIENT_METHODS = (
    _method(
        "dot",
        "Pruthi et al. 2020 (TracIn), arXiv 2002.08484",
        "one scan",
        "A baseline: long and unusual examples win for every query.",
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
    ),
    _method(
        "trak",
        "Park et al. 2023 (TRAK), arXiv 2303.14186",
        "two scans",
        "To compare with TRAK's form for one model: curvature, no norm.",
    ),
    _method(
        "trackstar",
        TRACKSTAR,
        "two scans",
        "As published: curvature mixed from corpus and queries, unit length.",
    ),
    _method(
        "trackstar-block",
        f"{TRACKSTAR}, varied",
        "two scans",
        "The same with curvature. At half-bit codes: the same MRR within the intervals, a lower tail-patch.",
    ),
)
