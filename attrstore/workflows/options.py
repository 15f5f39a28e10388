"""What one chooses about the jobs behind one verb: fields, what each is for, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from attrstore.options import Options, Placed, option

AGGREGATES = ("mean", "max")


@dataclass(frozen=True, kw_only=True)
class TraceOptions(Placed):
    """Which methods are run, and what of them is measured."""

    methods: Sequence[str] = option((), "Only this method; may be repeated.", flag="method", metavar="NAME")
    queries: int = option(300, "Tail-patch is over the first N queries.", least=1, metavar="N")
    mirrored: int = option(
        0, "Run mirrored too, for the first N queries: a pass over the corpus each.", least=0, metavar="N"
    )
    optimizer_state: str | Path | None = option(
        None, "For an Adam-scaled step; optimizer.pt in the model's folder if it is there."
    )
    tail_patch: bool = option(True, "Measure the proponents, or only score.")
    replace: bool = option(False, "Score again what is scored.")


@dataclass(frozen=True, kw_only=True)
class AskOptions(Placed):
    """What is ranked for a prompt, and how."""

    top: int = option(5, "How many examples of each kind.", least=1)
    method: str = option("cosine-block", "The influence method.")
    encoder: str | None = option(
        None, "Name or start of the id of the encoder; of one model's, the first made if not given."
    )
    where: str | None = option(None, "Only examples that satisfy this predicate.", metavar="SQL")


@dataclass(frozen=True, kw_only=True)
class SelectOptions(Options):
    """Which examples are the strongest, and how many of them are taken."""

    method: str = option("less", "One that scans encodings.")
    share: float = option(0.05, "Of the corpus, above 0 and at most 1.", above=0, most=1)
    aggregate: str = option("mean", "Of an example's scores over the queries.", choices=AGGREGATES)
    by: str | None = option(
        None, "Take the share of each value of this key of the metadata, or of source.", metavar="COLUMN"
    )
    where: str | None = option(None, "Score only the examples that satisfy this predicate.", metavar="SQL")


# The fields by themselves, for the type checker.


class TraceFields(TypedDict, total=False):
    """Fields of `TraceOptions`."""

    methods: Sequence[str]
    queries: int
    mirrored: int
    optimizer_state: str | Path | None
    tail_patch: bool
    replace: bool
    device: str


class AskFields(TypedDict, total=False):
    """Fields of `AskOptions`."""

    top: int
    method: str
    encoder: str | None
    where: str | None
    device: str


class SelectFields(TypedDict, total=False):
    """Fields of `SelectOptions`."""

    method: str
    share: float
    aggregate: str
    by: str | None
    where: str | None
