"""The parts of a method over stored vectors, each of which an option of `attrstore score` can replace."""

from __future__ import annotations

from dataclasses import dataclass

from attrstore.errors import InputError, flag
from attrstore.options import Options, option

CURVATURES = ("none", "corpus", "mixed")
NORMS = ("none", "vector", "block")
IN_SPEC = ("curvature", "norm", "mixing", "damping", "solver", "iterations")


@dataclass(frozen=True)
class Parts(Options):
    """A linear map, a norm, and over which encoder."""

    curvature: str = option("none", "R in R^{-1/2}.", choices=CURVATURES)
    norm: str = option("none", "What is taken to unit length.", choices=NORMS)
    mixing: float | str = option(
        "auto",
        "lambda of the mixed curvature, 0 to 1; auto chooses it from the spectra.",
        least=0,
        most=1,
        words=("auto",),
    )
    damping: float = option(
        0.1, "Added to R's eigenvalues, in units of their mean; of low rank to those of each of its two factors.",
        least=0,
    )  # fmt: skip
    # of attrstore.vectors.solvers: H^{-1} on the queries instead of R^{-1/2} on both sides
    solver: str | None = None
    iterations: int | None = option(None, "Of the solver.", least=1)
    encoder: str | None = option(
        None, "Name or start of the id of the encoder.", unset="of one model's, the first made"
    )
    device: str = option("auto", "auto, cpu or cuda.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver is not None and self.curvature == "none":
            raise InputError(
                f"{flag('curvature')} none: there is nothing to invert. Use the method dot or cosine."
            )
        if self.solver is not None and self.damping == 0:
            raise InputError(f"{flag('damping')} 0: the inverse needs a damping above 0")

    @property
    def spec(self) -> dict[str, object]:
        """What a scoring keeps of it."""
        return {name: getattr(self, name) for name in IN_SPEC}


PUBLISHED = (
    "encoder",
    "curvature",
    "norm",
    "mixing",
    "damping",
    "device",
)  # what most methods let one change
