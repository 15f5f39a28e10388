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
QLD = "qld"  # name of a set without the strongest share


@dataclass(frozen=True, kw_only=True)
class SubsetOptions(Options):
    """Which parts of the corpus are to be trained on: random shares, or all but the strongest proponents."""

    name: str | None = option(None, "Of the set.", unset=f"{HALVES.name}, {LEFT_OUT.name} or {QLD}")
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
    share: float | None = option(
        None, "The same with this share of the corpus in place of K, for QLD: 0.01.", above=0, metavar="S"
    )
    scorings: Sequence[str] = option(
        (), "Of --leave-out and --share: whose proponents; may be repeated.", flag="scoring", metavar="NAME"
    )
    by: str | None = option(
        None,
        "Of both: the strongest not of each query but of each group of queries with one value of this key of their "
        "metadata, by the sum of scores.",
        metavar="COLUMN",
    )
    queries: int | None = option(
        None, "Of both: only the first N queries.", least=1, metavar="N", unset=f"{LEFT_OUT.queries}"
    )
    seed: int = option(0, "Of what is chosen at random.")
    replace: bool = option(False, "Drop a set of that name first, with its losses.")

    def __post_init__(self) -> None:
        """Refuse options that do not go together."""
        super().__post_init__()
        leave_out, share, scoring = flag("leave_out", "top"), flag("share"), flag("scoring", "scorings")
        if self.scorings and self.fraction is not None:
            raise InputError(f"{scoring} goes with {leave_out} or {share}, and not with {flag('fraction')}.")
        only = (self.top, self.share, self.by, self.queries)
        if not self.scorings and any(value is not None for value in only):
            raise InputError(
                f"{leave_out}, {share}, {flag('by')} and {flag('queries')} go with {scoring} NAME."
            )
        if self.top is not None and self.share is not None:
            raise InputError(f"{leave_out} and {share} both say how many are left out. Give one.")
        if self.share is not None and self.share >= 1:
            raise InputError(f"{share} {self.share:g}: must be below 1")
        if self.by is not None and self.queries is not None:
            raise InputError(
                f"{flag('by')} is of all queries of a group, and {flag('queries')} of each alone. Give one."
            )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a report is of; at most one of these, and `intervals` with `class_column`."""

    by: str | None = None
    class_column: str | None = None
    intervals: bool = False
    against: str | None = None
    kinds: bool = False
    lds: bool = False
    leave_out: bool = False
    qld: bool = False


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
    share: float | None
    scorings: Sequence[str]
    by: str | None
    queries: int | None
    seed: int
    replace: bool


class ReportFields(TypedDict, total=False):
    """Fields of `Asked`."""

    by: str | None
    class_column: str | None
    intervals: bool
    against: str | None
    kinds: bool
    lds: bool
    leave_out: bool
    qld: bool


class DiagnoseFields(TypedDict, total=False):
    """Fields of `DiagnoseOptions`."""

    encoder: str | None
    damping: float
    iterations: str | Sequence[int]
    device: str
