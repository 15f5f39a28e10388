"""What one chooses about a measurement: fields, what each is for, and what it takes. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

from attrstore.errors import InputError, flag
from attrstore.ingest.encode.recipes import DTYPES, Running
from attrstore.ingest.model import chosen_state
from attrstore.ingest.model.rendering import LOSSES
from attrstore.options import option


class Way(NamedTuple):
    """What a method divides by, and the curvature whose inverse its products are taken with."""

    norm: str
    curvature: str = "none"


EXACT_METHODS = {
    "cosine-block": Way("block"),
    "cosine": Way("vector"),
    "dot": Way("none"),
    "ekfac": Way("none", "ekfac"),
    "trackstar": Way("vector", "ekfac"),
    "trackstar-block": Way("block", "ekfac"),
    "cg": Way("none", "gauss-newton"),
}

LEARNING_RATES = {"adamw": 1e-6, "adam": 1e-6, "sgd": 1e-3}  # form of a step: its size if not given


@dataclass(frozen=True, kw_only=True)
class TailPatchOptions(Running):
    """Which proponents are measured, and by which step."""

    top: int = option(10, "Proponents of each query and scoring; the report wants ten.", least=1)
    learning_rate: float | str | None = option(
        None, "Of the step; small, or it overshoots. training: the one that the optimizer's state was saved with.",
        above=0, words=("training",),
        unset=f"{LEARNING_RATES['adamw']:g} for adamw and adam, {LEARNING_RATES['sgd']:g} for sgd",
    )  # fmt: skip
    scorings: Sequence[str] = option(
        (), "Only this scoring's proponents; may be repeated.", flag="scoring", metavar="NAME"
    )
    queries: int | None = option(None, "Only the first N queries.", least=1, metavar="N")
    optimizer_name: str | None = option(
        None, "The step's form: adamw where there is an optimizer's state, else sgd. adam: by the second moment as it "
        "was saved, which has no bound where that is zero.", choices=tuple(LEARNING_RATES), flag="optimizer",
    )  # fmt: skip
    optimizer_state: str | Path | None = option(
        None, "File with the optimizer's state_dict (AdamW, Adafactor); none: a plain gradient step.",
        unset="optimizer.pt in the model's folder, if it is there and fits",
    )  # fmt: skip
    max_length: int | None = option(
        None, "Tokens of a text.", least=2, metavar="N", unset="the model's context"
    )
    loss: str = option("auto", "Which tokens of an example carry loss, as at ingest.", choices=LOSSES)

    def __post_init__(self) -> None:
        """Refuse options that do not go together."""
        super().__post_init__()
        if self.optimizer_name == "sgd" and self.optimizer_state not in (None, chosen_state.NONE):
            raise InputError(
                f"{flag('optimizer')} sgd: uses no {flag('optimizer_state')}. Leave one of them out."
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Running):
    """How the checkpoints that are compared are run: forward passes of queries alone, so that more fit in a batch."""

    batch_tokens: int = option(16384, "Padded tokens in a batch.", least=1)
    dtype: str = option("float32", "Of the model's weights and activations.", choices=DTYPES)


@dataclass(frozen=True, kw_only=True)
class Source(Running):
    """Whose gradients are taken, where candidates are scored again, and the curvature of the methods that have one."""

    encoder: str | None = option(
        None, "Gradient encoder whose model, correction and maps are taken; SCORING's, or the first made, if not "
        "given.",
        metavar="NAME",
    )  # fmt: skip
    model: str | Path | None = option(None, "The model's folder; where ingest saw it, if not given.")
    optimizer_state: str | Path | None = option(
        None, "File with the optimizer's state_dict, for an encoder made with --correction full."
    )
    damping: float = option(
        0.1, "Of ekfac, cg, trackstar and trackstar-block: added to the curvature's eigenvalues, in units of their "
        "mean in each map.", above=0,
    )  # fmt: skip
    curvature_sample: int = option(2048, "Examples on which EK-FAC is fitted.", least=1, metavar="N")
    cg_sample: int = option(
        256, "Of cg: how many of these make the Gauss-Newton matrix.", least=1, metavar="N"
    )
    iterations: int = option(10, "Of cg.", least=1)
    batch_tokens: int = option(2048, "Padded tokens in a batch.", least=1)


# The fields by themselves, for the type checker.


class TailPatchFields(TypedDict, total=False):
    """Fields of `TailPatchOptions`."""

    top: int
    learning_rate: float | str | None
    scorings: Sequence[str]
    queries: int | None
    optimizer_name: str | None
    optimizer_state: str | Path | None
    max_length: int | None
    loss: str
    device: str
    batch_tokens: int


class SourceFields(TypedDict, total=False):
    """Fields of `Source`."""

    encoder: str | None
    model: str | Path | None
    optimizer_state: str | Path | None
    damping: float
    curvature_sample: int
    cg_sample: int
    iterations: int
    batch_tokens: int
    device: str


class CheckpointFields(TypedDict, total=False):
    """Fields of `CheckpointOptions`."""

    batch_tokens: int
    dtype: str
    device: str
