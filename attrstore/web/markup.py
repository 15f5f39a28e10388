"""Make HTML from Python: whatever is not `Markup` is text, and becomes harmless and visible on the way in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from html import escape

# Control characters do nothing on a page but hide: each becomes its picture. Tab and line feed stay.
_CONTROLS = {c: 0x2400 + c for c in range(32) if c not in (9, 10)} | {0x7F: 0x2421}
_CONTROLS |= dict.fromkeys((*range(128, 160), 65534, 65535), 65533)
# Marks that reorder what follows them are named, so that nothing on the page can be turned round by a text.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
_SPECIAL = re.compile("[&<>\"']")
_VOID = {"meta", "link", "input", "br", "hr", "col"}


class Markup(str):
    """HTML that is finished: `el` puts it in as it is."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]
Value = str | int | float | bool | None


def visible(text: str) -> str:
    """Return a text in which control characters and marks of direction can be seen."""
    if text.isprintable():  # has none of them
        return text
    return _BIDI.sub(lambda found: f"[U+{ord(found[0]):04X}]", text.translate(_CONTROLS))


def text(value: str) -> Markup:
    """Return a text as HTML that shows exactly this text."""
    return Markup(_escaped(value))


def el(tag: str, *children: Child, **attributes: Value) -> Markup:
    """Return one element. `class_` is class, `data_x` is data-x; None and False leave an attribute out."""
    shown = "".join([_attribute(name, value) for name, value in attributes.items()])
    if tag in _VOID:
        return Markup(f"<{tag}{shown}>")
    return Markup(f"<{tag}{shown}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Return children side by side."""
    return Markup("".join([child if type(child) is Markup else _child(child) for child in children]))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return text(child)
    if isinstance(child, int):
        return f"{child:,}"
    return join(child)


def _attribute(name: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = _spelt(name)
    return f" {name}" if value is True else f' {name}="{_escaped(str(value))}"'


@cache
def _spelt(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _escaped(value: str) -> str:
    return escape(visible(value)) if _SPECIAL.search(value) or not value.isprintable() else value
