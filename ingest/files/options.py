"""What one chooses about an import: fields, what each is for, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from attrstore.options import Options, option


@dataclass(frozen=True, kw_only=True)
class MatrixOptions(Options):
    """How a matrix of scores is read, and what of it is kept."""

    lower_is_stronger: bool = option(False, "The lowest number is the strongest proponent: turn the sign.")
    top_k: int | None = option(
        None, "Proponents, and opponents, kept for each query.", least=1,
        unset="every pair of a matrix of up to a million cells, 100 of a larger one",
    )  # fmt: skip
    method: str = option("imported", "What to call the method.")
    header: bool | None = option(None, "Whether the first row of a csv names the columns.", unset="found out")
    index_column: bool | None = option(
        None, "Whether the first column names or numbers the rows.", unset="found out"
    )


@dataclass(frozen=True, kw_only=True)
class LossOptions(Options):
    """Of which retraining the losses are, and in which columns they stand."""

    seed: int = option(0, "Of the retraining; several of a subset are averaged.")
    subset: str = option("subset", "Column with its number.", metavar="NAME")
    query: str = option("query_id", "Column with the query's own id.", metavar="NAME")
    loss: str = option(
        "loss", "Column with the loss of the target's tokens: summed, in nats.", metavar="NAME"
    )
    replace: bool = option(False, "Let a loss take the place of another one for the same subset and query.")


# The fields by themselves, for the type checker.


class MatrixFields(TypedDict, total=False):
    """Fields of `MatrixOptions`."""

    lower_is_stronger: bool
    top_k: int | None
    method: str
    header: bool | None
    index_column: bool | None


class LossFields(TypedDict, total=False):
    """Fields of `LossOptions`."""

    seed: int
    subset: str
    query: str
    loss: str
    replace: bool
