"""What kind of example a proponent is, as the view `classed_proponents` says it, for the few that a page shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.store import Store

_GAP = re.compile("[^a-z0-9_]+")


def words_of(store: Store, texts: Sequence[str]) -> list[str]:
    """Return the words of each text between single spaces, as the macro `words_of` does.

    DuckDB compiles the macro's expression anew for each statement, which takes longer than all else on a page, and
    only letters beyond ASCII need it.
    """
    found = [f" {_GAP.sub(' ', text.lower()).strip()} " if text.isascii() else "" for text in texts]
    others = [i for i, text in enumerate(texts) if not text.isascii()]
    if others:
        ((spelt,),) = store.named("web", "words", {"texts": [texts[i] for i in others]}).fetchall()
        for i, words in zip(others, spelt, strict=True):
            found[i] = f" {words} "
    return found


def kind(label: float | None, text: str, subject: str, object_: str, *, same_relation: bool) -> str:
    """Return what the macro `proponent_kind` says; text, subject and object as `words_of` gives them."""
    if label is not None and label > 0:
        return "states the fact"
    has_subject = subject.strip() != "" and subject in text
    has_object = object_.strip() != "" and object_ in text
    if has_subject:
        return "shares subject and object" if has_object else "shares subject"
    if has_object:
        return "shares object"
    return "same relation" if same_relation else "other"
