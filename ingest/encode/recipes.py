"""Recipes: everything that one chooses about an encoding, what each is for, and the spec that it becomes.

A spec is the JSON that `encoders` keeps and whose hash is the encoder's id: a key or value that changes here makes
another encoder of what stores have already. Nothing here loads torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypedDict

from attrstore.errors import InputError, flag
from attrstore.ingest.model.rendering import LOSSES
from attrstore.options import Placed, option
from attrstore.vectors.quantisations import CODES

DTYPES = ("float32", "bfloat16")
LONG = ("truncate", "split", "skip")  # what to do with a text longer than the model's context
BLOCKS = ("module", "part", "layer")
CORRECTIONS = ("factored", "full")
WHITENING = {
    "sample": 512,
    "damping": 0.1,
}  # of the Kronecker factors: examples, share of the mean eigenvalue
OF_PAIRS: dict[str, Any] = {"iterations": 8, "pairs": "whole"}  # how singular pairs are found, and of what

PRINCIPAL: dict[str, Any] = {"sample": 1024}  # of principal directions: examples

Spec = dict[str, Any]


class Subject(Protocol):
    """The model that encodes."""

    @property
    def fingerprint(self) -> str:
        """Hash the weights and the configuration."""
        ...

    @property
    def tokenizer_fingerprint(self) -> str:
        """Hash what the tokenizer does to text."""
        ...

    @property
    def context(self) -> int:
        """The longest input in tokens."""
        ...

    @property
    def encoding_version(self) -> int:
        """Raised when the same spec would give other vectors."""
        ...


@dataclass(frozen=True, kw_only=True)
class Running(Placed):
    """How a model is run. It changes no vector but by rounding, and is in no spec."""

    batch_tokens: int = option(4096, "Padded tokens in a batch.", least=1)


@dataclass(frozen=True, kw_only=True)
class EncodingRecipe(Running):
    """What every encoder's recipe has."""

    code: str = option(
        "fp16", "Quantisation of the corpus: how many bits a number gets.", choices=tuple(CODES)
    )
    dtype: str = option("float32", "Of the model's weights and activations.", choices=DTYPES)
    long: str = option(
        "truncate", "What to do with an example longer than the context; its status says what was done.",
        choices=LONG,
    )  # fmt: skip
    max_length: int | None = option(
        None, "Tokens of a text, the rest of which is treated as --long says: as many as the model was trained with.",
        least=2, metavar="N", unset="the model's context",
    )  # fmt: skip

    def common(self, subject: Subject) -> Spec:
        """Return what every spec begins with."""
        return {
            "version": subject.encoding_version,
            "model": subject.fingerprint,
            "tokenizer": subject.tokenizer_fingerprint,
            "code": self.code,
            "dtype": self.dtype,
            "context": subject.context,
            "long": self.long,
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the recipe of an encoder in a store; how it was run is not known, and the default."""
        names = cls.__dataclass_fields__.keys() - Running.__dataclass_fields__.keys()
        return cls(**{name: spec[name] for name in names & spec.keys()}, max_length=spec["context"])


@dataclass(frozen=True, kw_only=True)
class RenderingRecipe(EncodingRecipe):
    """What the encoders of a causal language model choose about examples that are no plain texts."""

    device: str = option(
        "auto", "auto, cpu or cuda; offload for a model that is larger: weights come from memory or disk when a layer "
        "is run.",
    )  # fmt: skip
    loss: str = option(
        "auto", "Which tokens of an example carry loss. auto: all of a text, the completion after a prompt, what the "
        "assistant says in a chat, and of tokens those whose labels say so.", choices=LOSSES,
    )  # fmt: skip

    def common(self, subject: Subject) -> Spec:
        """Return what every spec begins with; a choice that changes nothing for texts is left out."""
        return super().common(subject) | ({} if self.loss == "auto" else {"loss": self.loss})


@dataclass(frozen=True, kw_only=True)
class GradientRecipe(RenderingRecipe):
    """How gradients are encoded."""

    correction: str = option(
        "factored", "How the optimizer's state corrects: in Adafactor's form, which costs nothing, or elementwise.",
        choices=CORRECTIONS,
    )  # fmt: skip
    kronecker_factors: bool = option(
        False, "Whiten inputs and output gradients, as measured on a sample, before projecting. Finds stated facts "
        "better without an optimizer's state, but what it ranks first moves the model less.", flag="kronecker",
    )  # fmt: skip
    projection_dim: int = option(32, "Each linear map is encoded in K x K numbers.", least=1, metavar="K")
    modules: str | None = option(
        None, "Encode the linear maps whose names have this in them: '[qk]_proj$', or '.' for all with the token "
        "embedding and the output head. By default the linear maps of the layers.", metavar="REGEX",
    )  # fmt: skip
    blocks: str = option("module", "What has its own norm and curvature.", choices=BLOCKS)
    code: str = option(
        "halfbit", "Quantisation of the corpus: how many bits a number gets.", choices=tuple(CODES)
    )
    seed: int = option(0, "Of the projection.")
    rank: int | None = option(
        None, "Instead of all K x K numbers keep the R strongest pairs of singular vectors of each gradient, K numbers "
        "for a vector: far closer to the exact score at equal bytes, for methods that invert no whole curvature.",
        least=1, metavar="R",
    )  # fmt: skip
    principal: bool = option(
        False, "With a rank: the directions that the pairs of a sample share instead of random ones, each with as many "
        "bits as its variance asks for; --code says how many a number has on average.",
    )  # fmt: skip
    query_rank: int = option(
        2, "With a rank, the pairs of singular vectors that a query keeps.", least=1, metavar="S"
    )

    def __post_init__(self) -> None:
        """Refuse options that do not go together."""
        super().__post_init__()
        if self.rank is not None and self.blocks != "module":
            raise InputError(
                f"{flag('blocks')} {self.blocks} cannot be combined with {flag('rank')}: singular vectors of several "
                "modules do not add up. Leave one of them out."
            )
        if self.principal and self.rank is None:
            raise InputError(
                f"{flag('principal')}: principal directions are those of singular pairs. Give {flag('rank')} too."
            )
        if self.principal and self.kronecker_factors:
            raise InputError(
                f"{flag('kronecker')} cannot be combined with {flag('principal')}: both take the place of the random "
                "projection. Leave one of them out."
            )

    def refuse_state(self) -> None:
        """Refuse what an optimizer's state cannot be combined with."""
        if self.kronecker_factors and self.correction == "full":
            raise InputError(
                f"{flag('correction')} full cannot be combined with {flag('kronecker')}: use factored, or leave "
                f"{flag('kronecker')} out."
            )
        if self.rank is not None and self.correction == "full":
            raise InputError(
                f"{flag('correction')} full cannot be combined with {flag('rank')}: it forms each whole gradient. Use "
                f"factored, or leave {flag('rank')} out."
            )

    def spec(self, subject: Subject, state: str | None) -> Spec:
        """Return the spec; `state` is the fingerprint of the second moments, if there are any."""
        of_pairs = {"rank": self.rank, "query_rank": self.query_rank, **OF_PAIRS}
        return self.common(subject) | {
            "correction": "none" if state is None else self.correction,
            "optimizer_state": state,
            "kronecker": dict(WHITENING) if self.kronecker_factors else None,
            "projection_dim": self.projection_dim,
            "modules": self.modules,
            "seed": self.seed,
            "blocks": self.blocks,
            **(of_pairs if self.rank is not None else {}),
            **({"principal": dict(PRINCIPAL)} if self.principal else {}),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the recipe of an encoder in a store, which was given a state if `correction` is not none."""
        known = {key: value for key, value in spec.items() if (key, value) != ("correction", "none")}
        principal = known.pop("principal", None) is not None
        kronecker = spec["kronecker"] is not None
        return replace(super().from_spec(known), kronecker_factors=kronecker, principal=principal)

    def name(self, *, corrected: bool) -> str:
        """Return a short name for people."""
        parts = [] if self.rank is None else [f"rank{self.rank}"]
        parts += [f"k{self.projection_dim}", self.code]
        if self.principal:
            parts.append("principal")
        if corrected:
            parts.append(self.correction)
        if self.kronecker_factors:
            parts.append("kronecker")
        if self.modules is not None:
            parts.append(re.sub(r"\W+", "-", self.modules).strip("-") or "all")
        return "-".join(parts)


@dataclass(frozen=True, kw_only=True)
class RepresentationRecipe(RenderingRecipe):
    """How hidden states are encoded. They are no random projections: a code of 16 bits is safe."""

    layer: int = option(-1, "Which hidden state; -1 is the last, 0 the embeddings.")
    pooling: str = option(
        "last", "The last token's state (of a query: the prompt's), the mean, or the state in which the prompt ends, "
        "before the first token that carries loss, of examples too.", choices=("last", "mean", "prompt"),
    )  # fmt: skip

    def of_depth(self, depth: int) -> Self:
        """Return the recipe for a model of `depth` layers, its layer counted from the embeddings."""
        if not -depth - 1 <= self.layer <= depth:
            raise InputError(
                f"{flag('layer')} {self.layer}: the model has hidden states 0 to {depth}, or -1 to {-depth - 1}"
            )
        return replace(self, layer=self.layer % (depth + 1))

    def spec(self, subject: Subject) -> Spec:
        """Return the spec, of a recipe `of_depth`."""
        return self.common(subject) | {"layer": self.layer, "pooling": self.pooling}


@dataclass(frozen=True, kw_only=True)
class EmbeddingRecipe(EncodingRecipe):
    """How texts are embedded. What is None is as the model's folder says."""

    pooling: str | None = option(
        None, "Of the last hidden states: their mean, the first token's (cls) or the last one's.",
        choices=("mean", "cls", "last"), unset="the folder's own, or mean",
    )  # fmt: skip
    query_prefix: str | None = option(None, "Before each query's text.", unset="the folder's own, or none")
    passage_prefix: str | None = option(
        None, "Before each example's text.", unset="the folder's own, or none"
    )
    long: str = option(
        "truncate", "What to do with an example longer than the model takes; its status says what was done.",
        choices=("truncate", "skip"),
    )  # fmt: skip

    def spec(self, subject: Subject, *, lower_case: bool, similarity: str) -> Spec:
        """Return the spec, of a recipe in which nothing is None."""
        return self.common(subject) | {
            "pooling": self.pooling,
            "query_prefix": self.query_prefix,
            "passage_prefix": self.passage_prefix,
            "lower_case": lower_case,
            "similarity": similarity,
        }


# The fields by themselves, for the type checker: what a function takes beside, or instead of, a recipe.


class EncodingFields(TypedDict, total=False):
    """Fields of `EncodingRecipe`."""

    device: str
    batch_tokens: int
    code: str
    dtype: str
    long: str
    max_length: int | None


class GradientFields(EncodingFields, total=False):
    """Fields of `GradientRecipe`."""

    loss: str
    correction: str
    kronecker_factors: bool
    projection_dim: int
    modules: str | None
    blocks: str
    seed: int
    rank: int | None
    principal: bool
    query_rank: int


class RepresentationFields(EncodingFields, total=False):
    """Fields of `RepresentationRecipe`."""

    loss: str
    layer: int
    pooling: str


class EmbeddingFields(EncodingFields, total=False):
    """Fields of `EmbeddingRecipe`."""

    pooling: str | None
    query_prefix: str | None
    passage_prefix: str | None
