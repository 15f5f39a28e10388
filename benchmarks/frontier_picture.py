"""Draw a frontier as an SVG: bytes an example on a log axis, against one measure above and another below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.frontier import Goal, Interval, Point

WIDTH, PANEL, TOP, LEFT, RIGHT, GAP = 900, 330, 56, 64, 24, 66  # pixels
FONT, LETTER = 11, 6.0  # size of a label, and the width of one of its letters, on average
INK, PALE, PAPER = "#24292f", "#d5d9de", "#ffffff"  # own paper, so that a dark page changes nothing
COLOURS = {"cosine-block": "#0067b0", "trackstar-block": "#c84e00", "damped-block": "#1a7f37"}
OTHER = "#57606a"  # bergson


class Spread(NamedTuple):
    """A value and the ends of its interval."""

    mean: float
    low: float
    high: float


def bare(value: float | None) -> Spread | None:
    """Return a value without an interval as one."""
    return None if value is None else Spread(value, value, value)


class Axis(NamedTuple):
    """Bytes an example, from left to right."""

    least: int
    most: int
    ticks: tuple[int, ...]


WIDE = Axis(1_000, 60_000, (1_000, 2_000, 5_000, 10_000, 20_000, 50_000))
SMALL = Axis(400, 4_000, (500, 1_000, 2_000, 3_000))


class Box(NamedTuple):
    """A rectangle that nothing may be written over."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass(frozen=True)
class Panel:
    """One diagram: what stands on its vertical axis, and where it is."""

    title: str
    of: Callable[[Point], Interval | Spread | None]
    goal_of: Callable[[Goal], float | None]
    top: float  # pixels
    most: float  # value at the upper end; the lower end is 0
    step: float
    places: int
    axis: Axis = WIDE

    def x(self, n_bytes: float) -> float:
        """Pixels from the left."""
        share = math.log(n_bytes / self.axis.least) / math.log(self.axis.most / self.axis.least)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    @property
    def bottom(self) -> float:
        """Pixels."""
        return self.top + PANEL

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return self.bottom - max(value, 0) / self.most * PANEL


def text(left: float, base: float, words: str, *, anchor: str = "start", more: str = "") -> str:
    """One line of text."""
    return f'<text x="{left:.1f}" y="{base:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    """One straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def colour(method: str) -> str:
    """Colour of a method, and of its variants: what follows a comma is an option."""
    return COLOURS.get(method.partition(",")[0], OTHER)


def marker(left: float, top: float, method: str) -> str:
    """A disc for one method, a diamond for the other, hollow with an option, a square for what is neither."""
    ink = colour(method)
    if method == "cosine-block":
        return f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4.5" fill="{ink}"/>'
    turn = "" if ink == OTHER else f' transform="rotate(45 {left:.1f} {top:.1f})"'
    fill = f'fill="{PAPER}" stroke="{ink}" stroke-width="2"' if "," in method else f'fill="{ink}"'
    return f'<rect x="{left - 4:.1f}" y="{top - 4:.1f}" width="8" height="8" {fill}{turn}/>'


def axes(panel: Panel) -> list[str]:
    """Grid, ticks and titles."""
    parts = [text(LEFT, panel.top - 12, panel.title, more=' font-size="13" font-weight="bold"')]
    for i in range(round(panel.most / panel.step) + 1):
        value = i * panel.step
        parts.append(line(LEFT, panel.y(value), WIDTH - RIGHT, panel.y(value), PALE))
        parts.append(text(LEFT - 8, panel.y(value) + 4, f"{value:.{panel.places}f}", anchor="end"))
    for tick in panel.axis.ticks:
        parts.append(line(panel.x(tick), panel.top, panel.x(tick), panel.bottom, PALE))
        parts.append(text(panel.x(tick), panel.bottom + 17, f"{tick / 1000:g} kB", anchor="middle"))
    return parts


def corner(panel: Panel, goal: Goal) -> list[str]:
    """Mark the corner below which, and to the right of which, the goal is missed."""
    value = panel.goal_of(goal)
    if value is None:
        return []
    left, top = panel.x(goal.most_bytes), panel.y(value)
    dashed = ' stroke-dasharray="4 3" stroke-width="1.5"'
    return [line(left - 46, top, left, top, INK, dashed), line(left, top, left, top - 34, INK, dashed)]


def frontier(panel: Panel, points: Iterable[Point], method: str) -> str:
    """Join the points of the method and its variants that no smaller one surpasses."""
    steps: list[str] = []
    best = -math.inf
    own = [p for p in points if p.method.partition(",")[0] == method]
    placed = [(p.n_bytes, v.mean) for p in own if p.n_bytes and (v := panel.of(p))]
    for n_bytes, value in sorted(placed, key=lambda at: (at[0], -at[1])):
        if value > best:
            best = value
            steps.append(f"{panel.x(n_bytes):.1f},{panel.y(value):.1f}")
    return (
        f'<polyline points="{" ".join(steps)}" fill="none" stroke="{COLOURS[method]}" stroke-opacity=".45" '
        'stroke-width="1.5"/>'
    )


def place(name: str, left: float, top: float, bottom: float, panel: Panel, taken: list[Box]) -> Box:
    """Find room for a label near a recipe's points, which stand above each other from `top` to `bottom`."""
    width = LETTER * len(name)
    for away in range(0, 200, 7):
        bases = [(left - width / 2, top - 10 - away), (left - width / 2, bottom + 10 + FONT + away)]
        for shift in (away, -away):
            middle = (top + bottom) / 2 + FONT / 2 + shift
            bases += [(left + 9, middle), (left - 9 - width, middle)]
        for start, base in bases:
            box = Box(start, base - FONT, start + width, base + 2)
            inside = (
                box.left > LEFT
                and box.right < WIDTH - 2
                and panel.top <= box.top
                and box.bottom < panel.bottom
            )
            if inside and not any(box.meets(other) for other in taken):
                return box
    return Box(left + 9, top - FONT, left + 9 + width, top + 2)  # nowhere: beside its point, over others


def labels(panel: Panel, points: Sequence[Point], goals: Sequence[Goal]) -> list[str]:
    """Name each recipe once, joined to its points by a thin line where it stands away from them."""
    at: dict[str, list[tuple[float, float]]] = {}
    for p in points:
        if p.n_bytes and (value := panel.of(p)):
            at.setdefault(p.recipe, []).append((panel.x(p.n_bytes), panel.y(value.mean)))
    taken = [Box(left - 6, top - 6, left + 6, top + 6) for many in at.values() for left, top in many]
    for goal in goals:
        least = panel.goal_of(goal)
        if least is not None:
            left, top = panel.x(goal.most_bytes), panel.y(least)
            taken += [Box(left - 46, top - 2, left, top + 2), Box(left - 2, top - 34, left + 2, top)]
    parts = []
    for name, many in sorted(at.items(), key=lambda item: item[1]):
        left, tops = many[0][0], [top for _, top in many]
        box = place(name, left, min(tops), max(tops), panel, taken)
        taken.append(box)
        near_x = min(max(left, box.left), box.right)
        near_y = min(tops, key=lambda top: abs(top - (box.top + box.bottom) / 2))
        edge = box.bottom if box.bottom < near_y else box.top if box.top > near_y else near_y
        if math.hypot(near_x - left, edge - near_y) > 14:
            parts.append(line(left, near_y, near_x, edge, OTHER, ' stroke-width=".6"'))
        parts.append(text(box.left, box.bottom - 3, name, more=f' textLength="{box.right - box.left:.0f}"'))
    return parts


def legend(methods: Sequence[str], goals: Sequence[Goal]) -> list[str]:
    """What the marks mean."""
    parts, left = [], float(LEFT)
    for method in methods:
        words = method if colour(method) != OTHER else "bergson 2.5.1, its TrackStar"
        parts += [marker(left + 5, 17, method), text(left + 15, 21, words)]
        left += 40 + LETTER * len(words)
    if not goals:
        return parts
    words = "a goal: reached by what is above and to the left"
    left = WIDTH - RIGHT - 0.9 * LETTER * len(words)
    dashed = ' stroke-dasharray="4 3" stroke-width="1.5"'
    return [
        *parts,
        line(left - 27, TOP - 12, left - 7, TOP - 12, INK, dashed),
        line(left - 7, TOP - 12, left - 7, TOP - 24, INK, dashed),
        text(left, TOP - 12, words),
    ]


PANELS = (
    Panel("MRR", lambda p: p.mrr, lambda g: g.mrr, TOP, 0.6, 0.1, 1),
    Panel(
        "tail-patch: change of the target's log-probability by one step on a proponent, nats",
        lambda p: p.tail_patch, lambda g: g.tail_patch, TOP + PANEL + GAP, 0.006, 0.001, 3,
    ),
)  # fmt: skip
FIDELITY = (
    Panel("overlap@10 with whole gradients", lambda p: bare(p.overlap), lambda g: None, TOP, 1, 0.2, 1, SMALL),
    Panel(
        "Spearman's correlation with whole gradients, over all examples",
        lambda p: bare(p.correlation), lambda g: None, TOP + PANEL + GAP, 1, 0.2, 1, SMALL,
    ),
)  # fmt: skip


def draw(points: Sequence[Point], goals: Sequence[Goal], panels: Sequence[Panel] = PANELS) -> str:
    """Return the picture of every point that has bytes in its range; labels are those of the recipes."""
    axis = panels[0].axis
    shown = [p for p in points if p.n_bytes and axis.least <= p.n_bytes <= axis.most]
    height = panels[-1].bottom + 48
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" font-family="sans-serif" font-size="{FONT}" fill="{INK}">'
    )
    parts = [
        head,
        "<title>Bytes an example against quality</title>",
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="{PAPER}"/>',
        *legend(sorted({p.method for p in shown}, key=lambda m: (colour(m) == OTHER, m)), goals),
    ]
    for panel in panels:
        parts += axes(panel)
        parts += [part for goal in goals for part in corner(panel, goal)]
        parts += [frontier(panel, shown, method) for method in COLOURS]
        for p in shown:
            value = panel.of(p)
            if p.n_bytes and value:
                left = panel.x(p.n_bytes)
                whisker = ' stroke-opacity=".3" stroke-width="1.5"'
                parts.append(
                    line(
                        left,
                        panel.y(value.low),
                        left,
                        panel.y(value.high),
                        colour(p.method),
                        whisker,
                    )
                )
                parts.append(marker(left, panel.y(value.mean), p.method))
        parts += labels(panel, shown, goals)
    parts.append(
        text((LEFT + WIDTH - RIGHT) / 2, height - 12, "bytes an example: codes and norms", anchor="middle")
    )
    return "\n".join([*parts, "</svg>"]) + "\n"
