"""What kind of example a proponent is, as the view `classed_proponents` says it, for the few that a page shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.web.kept import Snapshot


def words_of(snapshot: Snapshot, texts: Sequence[str]) -> list[str]:
    """Return the words of each text between single spaces, as the macro `words_of` does.

    DuckDB compiles the macro's expression anew for each statement, which takes longer than all else on a page. It
    goes by single characters, so it is asked about each of them once.
    """
    letters: dict[int, str] = snapshot.once("letters", lambda _: {})
    unknown = [letter for letter in set().union(*texts) if ord(letter) not in letters]
    if unknown:
        spelt = snapshot.store.named("web", "letters", {"letters": unknown}).fetchall()
        letters.update((ord(letter), words or " ") for letter, words in spelt)
    return [f" {' '.join(text.translate(letters).split())} " for text in texts]


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
