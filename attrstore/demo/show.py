"""Print what a finished demo has to show: the method table, one query side by side, what to try next."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import attrstore
from attrstore.demo.run import INFLUENCE, METHODS, RETRIEVAL, Demo
from attrstore.errors import AttrstoreError
from attrstore.terminal import print_table, say

if TYPE_CHECKING:
    from attrstore.store import Store

DEPTH = 8  # proponents shown of each side
WIDTH = 40  # of a sentence; two of them fit beside each other in 100 columns
STATES = "✓"


@dataclass(frozen=True)
class Proponent:
    """One ranked sentence."""

    rank: int
    text: str
    states: bool  # whether it states the fact


@dataclass(frozen=True)
class Disagreement:
    """One query and its strongest proponents by influence and by retrieval."""

    query: str
    prompt: str
    target: str
    frequency: int
    influence: list[Proponent]
    retrieval: list[Proponent]


def show(demo: Demo) -> None:
    """Print the demo's result on stdout."""
    with attrstore.open(demo.store) as store:
        print_table(
            *method_table(store), title="How well each method finds the sentences that state the fact"
        )
        case = disagreement(store)
    _print_case(case)
    say(f"\nDone in {demo.seconds:.0f} s. Everything is in {demo.store}. Try next:\n")
    say("\n".join(f"  {command}" for command in next_commands(demo.store, case)))


def method_table(store: Store) -> tuple[list[str], list[tuple[object, ...]]]:
    """Columns and rows of the method table."""
    cursor = store.named("demo", "methods", {"methods": list(METHODS)})
    return [column[0] for column in cursor.description or ()], cursor.fetchall()


def disagreement(store: Store) -> Disagreement:
    """The query on which influence and retrieval agree least."""
    row = store.named("demo", "disagreement", {"influence": INFLUENCE, "retrieval": RETRIEVAL}).fetchone()
    if row is None:
        raise AttrstoreError(f"{store.path}: no query was ranked by both {INFLUENCE} and {RETRIEVAL}.")
    sides = [
        [
            Proponent(*found)
            for found in store.named(
                "demo", "proponents", {"scoring": scoring, "query": row[0], "depth": DEPTH}
            ).fetchall()
        ]
        for scoring in (INFLUENCE, RETRIEVAL)
    ]
    return Disagreement(*row, *sides)


def next_commands(store: Path, case: Disagreement) -> list[str]:
    """Commands that go on from here, ready to paste."""
    path = shlex.quote(str(store))
    program = (
        "attrstore" if shutil.which("attrstore") else sys.argv[0]
    )  # an environment that is not activated
    query = f"FROM comparison WHERE query = '{case.query}' ORDER BY influence_rank LIMIT 20"
    return [
        f"{program} report {path} --by frequency",
        f'{program} sql {path} "{query}"',
        f'{program} ask {path} "{case.prompt}" "{case.target}" --method {INFLUENCE}',
        f"{program} trace {path}",
    ]


def _print_case(case: Disagreement) -> None:
    say("One prompt on which the two disagree:\n")
    rows: list[list[object]] = []
    for index in range(max(len(case.influence), len(case.retrieval))):
        rows.append([index + 1])
        for side in (case.influence, case.retrieval):
            rows[-1] += _cells(side[index]) if index < len(side) else ["", ""]
    print_table(
        ["#", "", f"influence ({INFLUENCE})", " ", f"retrieval ({RETRIEVAL})"],
        rows,
        title=f"{case.query}: {case.prompt} →{case.target}    ({STATES} = states the fact)",
    )
    say(textwrap.fill(_reading(case), 98))


def _cells(proponent: Proponent) -> list[str]:
    return [STATES if proponent.states else "", textwrap.fill(proponent.text, WIDTH)]


def _reading(case: Disagreement) -> str:
    """What the two lists say, in words."""
    moved = sum(p.states for p in case.influence)
    found = sum(p.states for p in case.retrieval)
    return (
        f"What to see: {case.frequency} sentences state this fact; BM25 has {found} of them in its first "
        f"{DEPTH}, influence {moved}. BM25 ranks by shared words, whatever the sentence says with them. "
        "Influence ranks what moved the model towards this answer, whether or not it states it."
    )
