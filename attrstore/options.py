"""Options as fields of frozen dataclasses: each says what it is for and which values it takes, once."""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

from attrstore.errors import InputError, flag

T = TypeVar("T")
NAMES: dict[type, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", Sequence: "a list", Path: "a path",
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """What a field says of itself."""

    help: str
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # that stand for a number
    least: float | None = None
    most: float | None = None
    above: float | None = None
    metavar: str | None = None
    unset: str | None = None  # what holds where it is not given
    flag: str | None = None  # its name in the shell, where it is not that of the field


class About(TypedDict, total=False):
    """Fields of `Option` but the help."""

    choices: tuple[str, ...]
    words: tuple[str, ...]
    least: float | None
    most: float | None
    above: float | None
    metavar: str | None
    unset: str | None
    flag: str | None


def option(default: T, help: str, **about: Unpack[About]) -> T:  # noqa: A002
    """Return a dataclass field with this default and `Option(help, **about)`."""
    made: T = field(default=default, metadata={"option": Option(help, **about)})
    return made


def left_open(like: type[Options], name: str, unset: str) -> Any:
    """Return a field that takes what `like.name` takes, or None: what holds then is `unset`."""
    of = options_of(like)[name]
    return option(
        None, of.help, choices=of.choices, least=of.least, most=of.most, metavar=of.metavar, unset=unset
    )


@dataclass(frozen=True)
class Options:
    """Base of frozen dataclasses made of options; a wrong value is refused when one is made.

    Raises `InputError` that names the option, its value and what it takes.
    """

    def __post_init__(self) -> None:
        for name, about in options_of(type(self)).items():
            _check(flag(about.flag or name, name), getattr(self, name), kinds_of(type(self))[name], about)


@dataclass(frozen=True, kw_only=True)
class Placed(Options):
    """Where it is computed."""

    device: str = option("auto", "auto, cpu or cuda.")


def options_of(kind: type[Options]) -> dict[str, Option]:
    """Return the options of a class, by field; other fields are left out."""
    return {f.name: f.metadata["option"] for f in fields(kind) if "option" in f.metadata}


def kinds_of(kind: type[Options]) -> dict[str, tuple[type, ...]]:
    """Return the types that each field takes; `NoneType` among them where it may be left out."""
    return {name: _members(hint) for name, hint in get_type_hints(kind).items()}


def _members(hint: object) -> tuple[type, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for part in get_args(hint) for member in _members(part))
    kind = get_origin(hint) or hint
    return (kind if isinstance(kind, type) else object,)


def _check(name: str, value: object, kinds: tuple[type, ...], about: Option) -> None:
    if value is None and types.NoneType in kinds:
        return
    if about.choices:
        if value not in about.choices:
            raise InputError(f"{name} {value}: there is no such choice; there are {', '.join(about.choices)}")
        return
    if about.words:
        if value in about.words:
            return
        kinds = tuple(kind for kind in kinds if kind is not str)
    if not any(_is(value, kind) for kind in kinds):
        wanted = " or ".join(NAMES[kind] for kind in kinds if kind in NAMES)
        raise InputError(
            f"{name} {value}: must be {(about.words and _range(about)) or wanted}{_words(about)}"
        )
    if isinstance(value, Real) and not isinstance(value, bool) and not _within(float(value), about):
        raise InputError(f"{name} {value:g}: must be {_range(about)}{_words(about)}")


def _is(value: object, kind: type) -> bool:
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if kind is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, kind)


def _within(value: float, about: Option) -> bool:
    low, high, above = about.least, about.most, about.above
    return (
        (above is None or value > above) and (low is None or value >= low) and (high is None or value <= high)
    )


def _range(about: Option) -> str:
    """Say between what a number must lie; nothing where it may be any."""
    if about.above is not None:
        return f"above {about.above:g}" + ("" if about.most is None else f" and at most {about.most:g}")
    if about.least is not None and about.most is not None:
        return f"between {about.least:g} and {about.most:g}"
    return "" if about.least is None else f"at least {about.least:g}"


def _words(about: Option) -> str:
    return "".join(f", or {word}" for word in about.words)
