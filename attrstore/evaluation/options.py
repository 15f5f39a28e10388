"""What one chooses about an evaluation: fields, what each is for, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from attrstore.errors import InputError, flag
from attrstore.methods.parts import Parts
from attrstore.options import Options, Placed, option


@dataclass(frozen=True)
class Halves:
    """What holds of subsets for LDS, where it is not given."""

    name: str = "lds"
    count: int = 32
    fraction: float = 0.5


@dataclass(frozen=True)
class LeftOut:
    """What holds of leave-k-out, where it is not given."""

    name: str = "leave-out"
    top: int = 10
    queries: int = 10
    count: int = 5


HALVES, LEFT_OUT = Halves(), LeftOut()


@dataclass(frozen=True, kw_only=True)
class SubsetOptions(Options):
    """Which parts of the corpus are to be trained on: random shares, or all but the strongest proponents."""

    name: str | None = option(None, "Of the set.", unset=f"{HALVES.name}, or {LEFT_OUT.name}")
    count: int | None = option(
        None, "How many; of leave-k-out, how many at random.", least=1,
        unset=f"{HALVES.count}, or {LEFT_OUT.count}",
    )  # fmt: skip
    fraction: float | None = option(
        None, "Of the examples that each keeps.", above=0, most=1, unset=f"{HALVES.fraction:g}"
    )
    top: int | None = option(
        None, "Leave out the K strongest proponents of each query instead.", flag="leave-out", least=1, metavar="K"
    )  # fmt: skip
    scorings: Sequence[str] = option(
        (), "Of --leave-out: whose proponents; may be repeated.", flag="scoring", metavar="NAME"
    )
    queries: int | None = option(
        None, "Of --leave-out: only the first N queries.", least=1, metavar="N", unset=f"{LEFT_OUT.queries}"
    )
    seed: int = option(0, "Of what is chosen at random.")
    replace: bool = option(False, "Drop a set of that name first, with its losses.")

    def __post_init__(self) -> None:
        """Refuse options that do not go together."""
        super().__post_init__()
        leave_out, scoring = flag("leave_out", "top"), flag("scoring", "scorings")
        if self.scorings and self.fraction is not None:
            raise InputError(f"{scoring} goes with {leave_out}, and not with {flag('fraction')}.")
        if not self.scorings and (self.top is not None or self.queries is not None):
            raise InputError(f"{leave_out} and {flag('queries')} go with {scoring} NAME.")


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions(Placed):
    """Which inverse-Hessian products are measured."""

    encoder: str | None = option(None, "Name or start of the id of the encoder; the first made if not given.")
    damping: float = option(Parts.damping, "In units of the curvature's mean eigenvalue.")
    iterations: str | Sequence[int] = option(
        "1,2,5,10,20,50", "Of cg and lissa: after which they are looked at.", metavar="N,N"
    )

    def __post_init__(self) -> None:
        """Refuse iterations that are none."""
        super().__post_init__()
        steps = self.steps
        if not steps or steps[0] < 1:
            raise InputError(f"{flag('iterations')} {self.iterations}: each must be at least 1")

    @property
    def steps(self) -> list[int]:
        """The iterations as numbers, ascending, each once."""
        given = self.iterations.split(",") if isinstance(self.iterations, str) else self.iterations
        try:
            return sorted({int(step) for step in given})
        except ValueError as error:
            raise InputError(
                f"{flag('iterations')} {self.iterations}: whole numbers with commas between them"
            ) from error


# The fields by themselves, for the type checker.


class SubsetFields(TypedDict, total=False):
    """Fields of `SubsetOptions`."""

    name: str | None
    count: int | None
    fraction: float | None
    top: int | None
    scorings: Sequence[str]
    queries: int | None
    seed: int
    replace: bool


class DiagnoseFields(TypedDict, total=False):
    """Fields of `DiagnoseOptions`."""

    encoder: str | None
    damping: float
    iterations: str | Sequence[int]
    device: str
