"""Small charts as SVG, made on the server: no script, coloured by the stylesheet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrstore.web.markup import Child, Markup, el

if TYPE_CHECKING:
    from collections.abc import Sequence


def svg(width: float, height: float, *parts: Child, says: str | None, class_: str = "chart") -> Markup:
    """Return a picture; `says` is what it says to those who do not see it, None where the text beside it does."""
    return el(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        class_=class_,
        role="img" if says else None,
        aria_label=says,
        aria_hidden=None if says else "true",
    )


def rect(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    """Return a rectangle."""
    return el("rect", x=f"{x:.2f}", y=f"{y:.2f}", width=f"{width:.2f}", height=f"{height:.2f}", class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a line."""
    return el("line", x1=f"{x1:.2f}", y1=f"{y1:.2f}", x2=f"{x2:.2f}", y2=f"{y2:.2f}", class_=class_)


def label(x: float, y: float, says: str, anchor: str = "start", class_: str = "tick") -> Markup:
    """Return a word of a chart."""
    return el("text", says, x=f"{x:.2f}", y=f"{y:.2f}", text_anchor=anchor, class_=class_)


def probability(logprob: float | None) -> Child:
    """Return the probability of a target as a bar and a percentage."""
    if logprob is None:
        return el("span", "–", class_="none")
    share = math.exp(min(logprob, 0.0))
    says = f"{share:.0%}" if share >= 0.005 else "<1%"
    bar = svg(32, 6, rect(0, 0, 32, 6, "rail"), rect(0, 0, 32 * share, 6, "ink"), says=None, class_="bar")
    return [bar, " ", el("span", says, class_="share")]


def tenths(share: float | None) -> Child:
    """Return a share of ten as so many of ten small squares, and the number."""
    if share is None:
        return el("span", "–", class_="none")
    n = round(share * 10)
    squares = [rect(i * 5, 0, 4, 6, "ink" if i < n else "rail") for i in range(10)]
    return [svg(49, 6, *squares, says=None, class_="bar"), " ", el("span", f"{n}", class_="n")]


def interval(
    mean: float, low: float | None, high: float | None, ends: tuple[float, float], class_: str
) -> Markup:
    """Return a mean as a dot on a line of all possible values, with its interval as a bar."""
    width, (least, most) = 120.0, ends
    scale = (width - 6) / ((most - least) or 1.0)

    def at(value: float) -> float:
        return 3 + (value - least) * scale

    parts: list[Child] = [line(3, 6, width - 3, 6, "rail")]
    if least < 0 < most:
        parts.append(line(at(0), 1, at(0), 11, "zero"))
    if low is not None and high is not None:
        parts.append(line(at(low), 6, at(high), 6, f"whisker {class_}"))
    parts.append(el("circle", cx=f"{at(mean):.2f}", cy="6", r="3.2", class_=class_))
    return svg(width, 12, *parts, says=None, class_="interval")


def bars(counts: Sequence[tuple[str, float]], says: str, class_: str) -> Markup:
    """Return upright bars with a word under each and the number above it."""
    step, height = 40.0, 120.0
    most = max((n for _, n in counts), default=0) or 1
    parts: list[Child] = [line(0, height + 16, step * len(counts), height + 16, "axis")]
    for i, (name, n) in enumerate(counts):
        tall = height * n / most
        parts.append(rect(i * step + 5, height + 16 - tall, step - 10, tall, class_))
        parts.append(label((i + 0.5) * step, height + 11 - tall, f"{n:,.0f}", "middle", "value"))
        parts.append(label((i + 0.5) * step, height + 32, name, "middle"))
    return svg(step * len(counts), height + 36, *parts, says=says)
