"""Every state of the page is an address: read one, and make the address of the next state."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

from attrstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEEPEST = 200  # cards of a column


@dataclass(frozen=True)
class Address:
    """What a page shows. A field at its default is left out of the address."""

    a: str = ""  # the scoring on the left; empty: the newest influence
    b: str = ""  # on the right; empty: the newest retrieval
    # the list
    search: str = ""
    key: str = ""
    value: str = ""
    metric: str = ""
    low: str = ""
    high: str = ""
    sort: str = ""
    page: int = 1
    # one query
    id: str = ""
    example: str = ""
    at: int = 0  # its place in the list, from 1; 0: it was not opened from one
    n: int = 10
    source: str = ""
    opponents: int = 0
    tint: int = 0
    # the overview
    by: str = ""
    # SQL
    q: str = ""
    plot: int = 0
    # a question to the model
    prompt: str = ""
    target: str = ""
    stop: int = 0

    @classmethod
    def read(cls, parameters: Mapping[str, str]) -> Self:
        """Take the fields out of a query string; what it does not know it leaves alone.

        Raises `InputError` where a number is none.
        """
        found: dict[str, str | int] = {}
        for field in fields(cls):
            given = parameters.get(field.name, "").replace("\r\n", "\n")
            if given:
                found[field.name] = _whole(field.name, given) if isinstance(field.default, int) else given
        made = cls(**found)  # type: ignore[arg-type]
        return replace(made, n=min(max(made.n, 1), DEEPEST), page=max(made.page, 1))

    @property
    def prefix(self) -> str:
        """What the ids of a query's cards begin with."""
        return ""

    def to(self, path: str, **changes: str | int) -> str | None:
        """Return the address of `path` in this state, with changes."""
        now = vars(self) | changes
        rest = {name: now[name] for name, default in _defaults().items() if now[name] != default}
        return path + (f"?{urlencode(rest)}" if rest else "")

    def list_only(self) -> Address:
        """Return the state of the list alone."""
        return replace(
            self,
            id="",
            example="",
            at=0,
            n=10,
            source="",
            opponents=0,
            tint=0,
            by="",
            q="",
            plot=0,
            prompt="",
            target="",
            stop=0,
        )

    def bound(self, name: str) -> float | None:
        """Return `low` or `high` as a number."""
        given = self.low if name == "low" else self.high
        try:
            return float(given) if given else None
        except ValueError as error:
            raise InputError(f"{name}={given}: give a number.") from error


@cache
def _defaults() -> dict[str, object]:
    return {field.name: field.default for field in fields(Address)}


def _whole(name: str, given: str) -> int:
    if not given.isascii() or not given.isdigit() or len(given) > 9:
        raise InputError(f"{name}={given}: give a whole number from 0 up.")
    return int(given)
