"""The contract of a scoring method: what it asks for, what it returns, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from attrstore.errors import InputError, flag
from attrstore.options import Options, options_of
from attrstore.progress import Progress, silent
from attrstore.vectors.encoders import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow
    from torch import Tensor

    from attrstore.methods.linear_map import Side
    from attrstore.store import Store
    from attrstore.vectors.ends import Ends

O = TypeVar("O", bound=Options)  # noqa: E741


@dataclass(frozen=True)
class Request:
    """What to rank. The examples are those of the table `selected_examples(example_id)`."""

    top_k: int = 100  # proponents, and as many opponents, kept for each query
    options: Options = field(default_factory=Options)
    progress: Progress = silent
    opponents: bool = True  # rank the weak end too
    # Sees every example once: ids [n] and scores [queries, n]. Methods that scan encodings call it.
    observe: Callable[[Tensor, Tensor], None] | None = None
    # Scans the encodings elsewhere, part by part, for what has both ends of nothing yet. A method that scans those of
    # one encoder calls it.
    elsewhere: Callable[[Store, Side, Ends], Iterator[Ends]] | None = None

    def options_as(self, kind: type[O]) -> O:
        """Return the options as the class that the method declares; its defaults, where there are none."""
        if isinstance(self.options, kind):
            return self.options
        if fields(self.options):
            raise TypeError(f"the method takes {kind.__name__}, not {type(self.options).__name__}")
        return kind()


@dataclass(frozen=True)
class Ranking:
    """Ranked pairs of every query that the method could rank.

    `pairs` has the columns query_id BIGINT, example_id BIGINT, rank INTEGER, score DOUBLE: for each query the
    `top_k` strongest proponents (1, 2, ...), the `top_k` strongest opponents (-1, -2, ...; retrieval methods
    have none) and every labelled example with its exact rank among all. Ties are broken by example_id.
    """

    pairs: pyarrow.Table
    n_examples: int  # how many were ranked
    spec: Mapping[str, object]  # every parameter that changes a score, defaults filled in
    encoder_id: str | None = None
    query_ids: Sequence[int] = field(kw_only=True)  # that were ranked, also those for which nothing was found


@dataclass(frozen=True)
class Reads:
    """What a method ranks by.

    Attributes:
        kind: of the encodings; or the lexical index; or the model itself, nothing being ingested.
        correction: of gradients by the optimizer's state: those that it is published with, which a trace chooses
            where the store has others too. `both`: each query's are plain, each example's corrected.
        several: one encoder for each of several checkpoints, which the option `encoders` names.
    """

    kind: Literal["gradient", "representation", "embedding", "lexical", "model"]
    correction: Literal["plain", "corrected", "both"] = "plain"
    several: bool = False

    @property
    def command(self) -> str:
        """What makes it, as a command; for the model, only its name."""
        made = {**COMMANDS, "lexical": "attrstore ingest lexical", "model": "the model"}[self.kind]
        if self.several:
            return f"{made}, once for each checkpoint"
        return f"{made} with and without --optimizer-state" if self.correction == "both" else made


@dataclass(frozen=True)
class Method:
    """One way to score examples for queries. A method is one small file and one name in `METHODS`.

    Another package brings a method along as an entry point of the group `attrstore.methods`.
    """

    name: str
    family: Literal["influence", "retrieval"]
    paper: str
    reads: Reads
    cost: str
    when: str  # one line on when to use it
    rank: Callable[[Store, Request], Ranking]
    options: Options = field(default_factory=Options)  # its defaults; a frozen dataclass of `option` fields
    takes: Sequence[str] | None = None  # those of their fields that may be given; all, if None
    differs: str = ""  # what is otherwise than in the paper, beside the codes themselves

    @property
    def option_names(self) -> list[str]:
        """The names of the options that may be given."""
        every = options_of(type(self.options))
        return [name for name in every if self.takes is None or name in self.takes]

    def with_options(self, given: Mapping[str, object]) -> Options:
        """Return the options with some given, checked.

        Raises `InputError` for one that the method does not take, or a value that the option does not.
        """
        for name in given:
            if name not in self.option_names:
                known = ", ".join(flag(known) for known in sorted(self.option_names)) or "none"
                raise InputError(f"{self.name} takes no {flag(name)}; it takes {known}")
        return replace(self.options, **given) if given else self.options
