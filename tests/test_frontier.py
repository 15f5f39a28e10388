"""The frontier benchmark: which point answers a goal, what it reads from a store, and its picture."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from benchmarks import frontier, frontier_picture
from benchmarks.frontier import BERGSON, COSINE, TRACKSTAR, Goal, Interval, Point
from tests.scored import N_QUERIES, add_ranking, add_scoring, add_texts

if TYPE_CHECKING:
    from attrstore import Store

SVG = "{http://www.w3.org/2000/svg}"
PEER = Point(
    BERGSON, "trackstar", 43_008, Interval(0.247, 0.22, 0.27), Interval(0.3, 0.3, 0.3), None, None, None
)


def point(recipe: str, n_bytes: float, mrr: float, patch: float | None, method: str = COSINE) -> Point:
    measured = None if patch is None else Interval(patch, patch - 5e-4, patch + 5e-4)
    return Point(
        recipe, method, n_bytes, Interval(mrr, mrr - 0.03, mrr + 0.03), Interval(0.5, 0.4, 0.6), measured, None, 30.0
    )  # fmt: skip


GOAL = Goal(2_700, 0.39, 0.0025)


@pytest.mark.parametrize(
    ("points", "named", "reached"),
    [
        ([point("a", 2_700, 0.39, 0.0025)], "a", True),  # the bounds themselves are enough
        ([point("a", 2_701, 0.50, 0.0030)], None, False),
        ([point("a", 2_700, 0.389, 0.0030)], "a", False),
        ([point("a", 2_700, 0.45, 0.0024)], "a", False),
        ([point("a", 2_700, 0.45, None)], "a", False),  # not measured is not reached
        # What reaches it goes before what only finds more; of these what moves the model most, then what finds most.
        ([point("a", 2_600, 0.45, 0.0020), point("b", 2_500, 0.40, 0.0026)], "b", True),
        ([point("a", 2_600, 0.45, 0.0026), point("b", 1_000, 0.40, 0.0026)], "a", True),
        ([point("a", 2_600, 0.45, 0.0026), point("b", 2_600, 0.40, 0.0030)], "b", True),
        ([point("a", 2_600, 0.35, 0.0026), point("b", 1_000, 0.38, 0.0010)], "b", False),
    ],
)
def test_a_goal_is_held_against_the_best_point_that_is_small_enough(
    points: list[Point], named: str | None, reached: bool
) -> None:
    row = frontier.judge([*points, PEER], GOAL)
    assert row.reached is reached
    if named is None:
        assert row.ratio is None
        assert row.measured == "no recipe is as small"
    else:
        chosen = next(p for p in points if p.recipe == named)
        assert f"({named}, {COSINE})" in row.measured
        assert row.ratio == pytest.approx((chosen.n_bytes or 0) / 43_008)
    assert row.peer == "bergson, 43,008 B, MRR .247"


def test_a_goal_without_the_peer_or_without_tail_patch() -> None:
    row = frontier.judge([point("a", 1_224, 0.4, None)], Goal(1_350, 0.29))
    assert (row.reached, row.ratio, row.measured) == (True, None, f"1,224 B, MRR .400 (a, {COSINE})")
    assert row.peer.startswith("not installed")
    # The peer itself is no answer, however large the goal.
    assert frontier.judge([PEER], Goal(100_000, 0.2)).measured == "no recipe is as small"


def test_overlap_is_the_mean_share_of_the_first_ten(store: Store) -> None:
    add_texts(store)
    for number, name in enumerate(("one", "other")):
        add_scoring(store, name, "influence", 20, number)
        for q in range(N_QUERIES):
            # The second ranking starts q places later: 10 - q of the first ten are the same.
            order = [(i + q * number) % 20 for i in range(20)]
            add_ranking(store, name, q, order, set(order), opponents=False)
    expected = sum(10 - min(q, 10) + max(0, q - 10) for q in range(N_QUERIES)) / (10 * N_QUERIES)
    assert frontier.overlap(store, "one", "other") == pytest.approx(expected)
    assert frontier.overlap(store, "one", "missing") is None


POINTS = [
    point(f"recipe {i} <k16>", 1_000 * 1.13**i, 0.3 + 0.012 * i + 0.04 * (i % 3), 0.002 + 0.0002 * (i % 5), method)
    for i, method in itertools.product(range(14), (COSINE, TRACKSTAR))
]  # fmt: skip


def test_the_picture_names_every_recipe_in_both_panels_and_no_name_lies_over_another() -> None:
    root = ElementTree.fromstring(frontier_picture.draw([*POINTS, PEER], frontier.GOALS))
    texts = [t for t in root.iter(f"{SVG}text") if "textLength" in t.attrib]
    names = [str(t.text) for t in texts]
    assert sorted(set(names)) == sorted({p.recipe for p in POINTS} | {BERGSON})
    assert {name: names.count(name) for name in names} == {
        **{p.recipe: 2 for p in POINTS}, BERGSON: 1,  # whose tail-patch was not measured
    }  # fmt: skip
    boxes = []
    for t in texts:
        left, base = float(t.attrib["x"]), float(t.attrib["y"])
        boxes.append((left, base - 8, left + float(t.attrib["textLength"]), base + 3))
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


def test_the_picture_places_points_by_the_logarithm_of_their_bytes() -> None:
    middle = math.sqrt(frontier_picture.WIDE.least * frontier_picture.WIDE.most)
    only = [point("a", middle, 0.3, 0.003), point("too large", 1e6, 0.3, 0.003)]
    root = ElementTree.fromstring(frontier_picture.draw(only, ()))
    discs = [c for c in root.iter(f"{SVG}circle") if c.attrib["cy"] != "17.0"]  # without the legend's
    expected_x = (frontier_picture.LEFT + frontier_picture.WIDTH - frontier_picture.RIGHT) / 2
    first_top, second_top = (
        frontier_picture.TOP,
        frontier_picture.TOP + frontier_picture.PANEL + frontier_picture.GAP,
    )
    half = frontier_picture.PANEL / 2  # .3 of .6, and .003 of .006
    for disc, top in zip(discs, (first_top, second_top), strict=True):
        assert float(disc.attrib["cx"]) == pytest.approx(expected_x, abs=0.06)
        assert float(disc.attrib["cy"]) == pytest.approx(top + half, abs=0.06)


def test_a_picture_of_fidelity_has_what_a_code_keeps_and_no_goal() -> None:
    unknown = Interval(math.nan, math.nan, math.nan)
    only = [
        Point("1 x 116", "damped-block", 1_344, unknown, unknown, None, 0.5, None, 0.25),
        Point("1 x 8", "damped-block", 399, unknown, unknown, None, 0.5, None, 0.25),  # outside of the axis
    ]
    root = ElementTree.fromstring(frontier_picture.draw(only, (), frontier_picture.FIDELITY))
    marks = [float(c.attrib["y"]) + 4 for c in root.iter(f"{SVG}rect") if c.attrib["width"] == "8"]
    top, second = (panel.top for panel in frontier_picture.FIDELITY)
    expected = [top + 0.5 * frontier_picture.PANEL, second + 0.75 * frontier_picture.PANEL]
    assert sorted(y for y in marks if y > 20) == pytest.approx(expected, abs=0.06)
    assert "a goal" not in ElementTree.tostring(root, encoding="unicode")
