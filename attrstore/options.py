"""Options as fields of frozen dataclasses: each says what it is for and which values it takes, once."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypedDict, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

from attrstore.errors import InputError, flag

T = TypeVar("T")
NAMES: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Option:
    """What a field says of itself."""

    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    metavar: str | None = None
    unset: str | None = None  # what holds where it is not given
    flag: str | None = None  # its name in the shell, where it is not that of the field


class About(TypedDict, total=False):
    """Fields of `Option` but the help."""

    choices: tuple[str, ...]
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
    if not any(_is(value, kind) for kind in kinds):
        wanted = " or ".join(NAMES[kind] for kind in kinds if kind in NAMES)
        raise InputError(f"{name} {value}: must be {wanted}")
    if isinstance(value, Real) and not isinstance(value, bool):
        _check_range(name, float(value), about)


def _is(value: object, kind: type) -> bool:
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def _check_range(name: str, value: float, about: Option) -> None:
    low, high = about.least, about.most
    if about.above is not None and value <= about.above:
        raise InputError(f"{name} {value:g}: must be above {about.above:g}")
    if low is not None and high is not None and not low <= value <= high:
        raise InputError(f"{name} {value:g}: must be between {low:g} and {high:g}")
    if low is not None and value < low:
        raise InputError(f"{name} {value:g}: must be at least {low:g}")
