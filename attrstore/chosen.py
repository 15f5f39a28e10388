"""Scorings by name: which there are, and which two are shown where none is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrstore.errors import InputError
from attrstore.runs import writes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attrstore.store import Store

FAMILIES = ("influence", "retrieval")


def scoring_names(store: Store, family: str | None = None) -> list[str]:
    """Return the names of all scorings, or of those of a family."""
    return [row[0] for row in store.named("chosen", "names", {"family": family}).fetchall()]


def no_scoring(name: str, known: Iterable[str], what: str = "scoring") -> InputError:
    """Return the error that says that no scoring is called so, and which there are."""
    return InputError(f"no {what} is called {name}; there are {', '.join(known) or 'none yet'}.")


@writes
def use(store: Store, *, influence: str | None = None, retrieval: str | None = None) -> None:
    """Keep in the store which scoring `comparison` shows of each family; what is None stays as it is.

    Raises `InputError` for a name that no scoring of that family has.
    """
    wanted = {family: name for family, name in zip(FAMILIES, (influence, retrieval), strict=True) if name}
    for family, name in wanted.items():
        known = scoring_names(store, family)
        if name not in known:
            raise no_scoring(name, known, f"{family} scoring")
    with store.transaction():
        store.set_meta({f"use {family}": name for family, name in wanted.items()})


@writes
def reset(store: Store) -> None:
    """Forget what `use` set: the first complete scoring in the recommended order is shown again."""
    with store.transaction():
        store.named("chosen", "reset")


def chosen(store: Store) -> list[dict[str, Any]]:
    """Return the rows of the view `chosen_scorings`: one a family, with the reason."""
    cursor = store.named("chosen", "chosen")
    columns = [column[0] for column in cursor.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
