"""The gradient family: dot, cosine, TRAK and TrackStar, as published or with the norm in each block."""

from functools import partial

from attrstore.methods.base import Method
from attrstore.methods.linear_map import OPTIONS, Recipe, rank

TRACKSTAR = "Chang et al. 2024, arXiv 2410.17413"


RECIPES = {
    "dot": Recipe(curvature="none", norm="none"),
    "cosine": Recipe(curvature="none", norm="vector"),
    "cosine-block": Recipe(curvature="none", norm="block"),
    "trak": Recipe(curvature="corpus", norm="none"),
    "trackstar": Recipe(curvature="mixed", norm="vector"),
    "trackstar-block": Recipe(curvature="mixed", norm="block"),
}


def _method(name: str, paper: str, cost: str, when: str) -> Method:
    needs = "attrstore ingest gradients"
    ranked = partial(rank, RECIPES[name], "gradient")
    return Method(name, "influence", paper, needs, cost, when, ranked, OPTIONS)


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
        "Recommended: unit length in each block; what it ranks first moves the model most.",
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
        "The same with curvature: finds more examples that state the fact, which move the model less.",
    ),
)
