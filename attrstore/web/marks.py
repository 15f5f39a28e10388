"""Mark in a text what it shares with a query: the target, and the words of the prompt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from attrstore.web.markup import Child, Markup, el, join

if TYPE_CHECKING:
    from collections.abc import Iterator

WORD = re.compile(r"\w+")
_GAP = re.compile(r"[ \t]*")
SHOWN = 600  # characters of a card; the whole text is a page of its own
FETCHED = 20_000  # characters that are looked through for a mark


class Words(NamedTuple):
    """What to mark, in lower case."""

    phrase: re.Pattern[str] | None  # the whole target, wherever it stands: not every script has words
    target: frozenset[str]
    prompt: frozenset[str]


class Span(NamedTuple):
    """A stretch of a text and the class of its mark."""

    start: int
    end: int
    kind: str


def words(prompt: str, target: str, common: frozenset[str]) -> Words:
    """Return what to mark for a query: its target, and those words of both that are not common."""
    phrase = target.strip()
    of_target = frozenset(split(target)) - common
    return Words(
        re.compile(re.escape(phrase), re.IGNORECASE) if len(phrase) > 1 else None,
        of_target,
        frozenset(split(prompt)) - common - of_target,
    )


def split(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [found.lower() for found in WORD.findall(text)]


def marked(text: str, what: Words) -> Markup:
    """Return a text with its marks."""
    return join(_pieces(text, list(_joined(text, _spans(text, what)))))


def excerpt(text: str, length: int, what: Words) -> Markup:
    """Return the part of a long text round its first mark of the target, or its start."""
    if len(text) <= SHOWN:
        return marked(text, what)
    spans = list(_joined(text, _spans(text, what)))
    first = next((s for s in spans if s.kind == "target"), spans[0] if spans else None)
    start = max(0, first.start - SHOWN // 3) if first else 0
    end = min(len(text), start + SHOWN)
    shown = marked(text[start:end], what)
    return join(("… " if start else "", shown, " …" if end < length else ""))


def _spans(text: str, what: Words) -> list[Span]:
    spans = [Span(*found.span(), "target") for found in what.phrase.finditer(text)] if what.phrase else []
    phrase_at = {place for span in spans for place in range(span.start, span.end)}
    for found in WORD.finditer(text):
        word = found[0].lower()
        kind = "target" if word in what.target else "prompt" if word in what.prompt else None
        if kind and found.start() not in phrase_at:
            spans.append(Span(*found.span(), kind))
    return sorted(spans)


def _joined(text: str, spans: list[Span]) -> Iterator[Span]:
    """Marks of one kind with nothing but white space between them become one."""
    last: Span | None = None
    for span in spans:
        if last and span.kind == last.kind and _GAP.fullmatch(text, last.end, span.start):
            last = Span(last.start, span.end, span.kind)
        elif last is None or span.start >= last.end:
            if last:
                yield last
            last = span
    if last:
        yield last


def _pieces(text: str, spans: list[Span]) -> Iterator[Child]:
    place = 0
    for span in spans:
        yield text[place : span.start]
        yield el("mark", text[span.start : span.end], class_=span.kind)
        place = span.end
    yield text[place:]
