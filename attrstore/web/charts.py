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


def two_dots(a: float | None, b: float | None) -> Markup:
    """Return two values between 0 and 1 on one line, joined: left's dot and right's dot."""
    width = 220.0

    def at(value: float) -> float:
        return 4 + value * (width - 8)

    parts: list[Child] = [line(at(0), 7, at(1), 7, "rail")]
    if a is not None and b is not None:
        parts.append(line(at(a), 7, at(b), 7, "axis"))
    for value, class_ in ((a, "a"), (b, "b")):
        if value is not None:
            parts.append(el("circle", cx=f"{at(value):.2f}", cy="7", r="4", class_=class_))
    return svg(width, 14, *parts, says=None, class_="interval")


def shares(values: Sequence[float | None], names: Sequence[str]) -> Markup:
    """Return shares of a whole as one bar of several colours."""
    width, parts, at = 420.0, [], 0.0
    for i, value in enumerate(values):
        wide = width * (value or 0.0)
        parts.append(rect(at, 0, max(wide - 1, 0), 14, f"kind-{i}"))
        at += wide
    says = ", ".join(f"{name} {value or 0:.0%}" for name, value in zip(names, values, strict=True))
    return svg(width, 14, *parts, says=says, class_="chart shares")


def plane(cells: Sequence[tuple[int, int, bool, int]], a: str, b: str, says: str) -> Markup:
    """Return counts of pairs of places, by powers of two, as dots; labelled ones over the others."""
    step, edge = 34.0, 44.0
    n = max((max(x, y) for x, y, _, _ in cells), default=0) + 1
    most = max((count for *_, count in cells), default=1)
    size = n * step
    parts: list[Child] = [line(edge, size + 6, edge + size, 6, "grid dashed")]
    parts += [line(edge, size + 6, edge + size, size + 6, "axis"), line(edge, 6, edge, size + 6, "axis")]
    for i in range(n):
        parts.append(label(edge + (i + 0.5) * step, size + 20, f"{2**i:,}", "middle"))
        parts.append(label(edge - 6, size + 10 - (i + 0.5) * step, f"{2**i:,}", "end"))
    for x, y, labelled, count in sorted(cells, key=lambda cell: cell[2]):
        radius = max(1.2, step * 0.48 * math.sqrt(count / most))
        place = {"cx": f"{edge + (x + 0.5) * step:.2f}", "cy": f"{size + 6 - (y + 0.5) * step:.2f}"}
        parts.append(el("circle", **place, r=f"{radius:.2f}", class_="good" if labelled else "ink"))
    parts.append(label(edge + size, size + 35, f"rank in {a} →", "end", "strong"))
    parts.append(label(edge + 6, 16, f"↑ rank in {b}", "start", "strong"))
    return svg(edge + size + 6, size + 40, *parts, says=says)


def sideways(named: Sequence[tuple[str, float]], says: str) -> Markup:
    """Return a bar for each name, from zero, with its number."""
    step, edge, width = 20.0, 190.0, 620.0
    least, most = min([0.0, *(v for _, v in named)]), max([0.0, *(v for _, v in named)])
    scale = (width - edge - 70) / ((most - least) or 1.0)
    zero = edge + (0 - least) * scale
    parts: list[Child] = []
    for i, (name, value) in enumerate(named):
        y, wide = i * step, abs(value) * scale
        parts.append(label(edge - 8, y + 14, name if len(name) <= 28 else name[:27] + "…", "end"))
        parts.append(rect(zero if value >= 0 else zero - wide, y + 4, wide, 12, "a"))
        parts.append(label(zero + (wide if value >= 0 else 0) + 6, y + 14, _figure(value), class_="value"))
    parts.append(line(zero, 0, zero, step * len(named), "axis"))
    return svg(width, step * len(named) + 4, *parts, says=says)


def _figure(value: float) -> str:
    return f"{value:,.4g}".replace("-", "−")


def scatter(points: Sequence[tuple[float, float]], x: str, y: str) -> Markup:
    """Return points between their smallest and largest values."""
    width, height, edge = 620.0, 360.0, 60.0
    (x0, x1), (y0, y1) = (
        (min(values, default=0.0), max(values, default=1.0))
        for values in ([p[0] for p in points], [p[1] for p in points])
    )
    parts: list[Child] = [
        line(edge, height - 40, width - 10, height - 40, "axis"),
        line(edge, 10, edge, height - 40, "axis"),
    ]
    for across, up in points:
        cx = edge + 10 + (across - x0) / ((x1 - x0) or 1) * (width - edge - 30)
        cy = height - 50 - (up - y0) / ((y1 - y0) or 1) * (height - 70)
        parts.append(el("circle", cx=f"{cx:.2f}", cy=f"{cy:.2f}", r="3", class_="a"))
    parts += [
        label(edge + 10, height - 24, _figure(x0), "middle"), label(width - 20, height - 24, _figure(x1), "middle"),
        label(edge - 6, height - 46, _figure(y0), "end"), label(edge - 6, 22, _figure(y1), "end"),
        label(width - 20, height - 6, x, "end", "strong"), label(edge + 6, 12, y, "start", "strong"),
    ]  # fmt: skip
    return svg(width, height, *parts, says=f"{y} by {x}, {len(points):,} points")
