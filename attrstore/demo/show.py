"""Print what a finished demo has to show: the method table, one query side by side, what to try next."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import attrstore
from attrstore.demo.run import INFLUENCE, METHODS, RETRIEVAL, Demo
from attrstore.errors import AttrstoreError
from attrstore.terminal import print_table, say, say_wrapped

if TYPE_CHECKING:
    from attrstore.store import Store

DEPTH = 6  # proponents shown of each side
STATES = "✓"
SIDES = (INFLUENCE, RETRIEVAL)  # tail-patch is measured for these


@dataclass(frozen=True)
class Proponent:
    """One ranked sentence."""

    rank: int
    text: str
    states: bool  # whether it states the fact


@dataclass(frozen=True)
class Case:
    """One query, and its strongest proponents by influence and by retrieval."""

    query: str
    prompt: str
    target: str
    probability: float  # of the target
    frequency: int  # sentences that state the fact
    candidates: int  # queries that the rule chose among
    influence: list[Proponent]
    retrieval: list[Proponent]


def show(demo: Demo) -> None:
    """Print the demo's result on stdout."""
    with attrstore.open(demo.store) as store:
        print_table(*method_table(store), title="What each method finds, and what that moves:")
        case = typical(store)
    say_wrapped(
        "MRR: 1 / rank of the first sentence that states the fact, mean over all facts. tail-patch: what one training "
        "step on one of the ten strongest proponents does to the log-probability of the answer, mean over n facts. "
        "In brackets: 95% intervals."
    )
    _print_case(case, said(demo, case.prompt))
    say(f"\nDone in {demo.seconds:.0f} s. Everything is in {demo.store}. Try next:\n")
    say("\n".join(f"  {command}" for command in next_commands(demo.store, case)))


def method_table(store: Store) -> tuple[list[str], list[tuple[object, ...]]]:
    """Columns and rows of the method table."""
    rows = store.named("demo", "methods", {"methods": list(METHODS)}).fetchall()
    return ["method", "MRR", "tail-patch", "n"], [
        (name, _interval(mrr, ".3f"), *((_interval(patch, "+.5f"), n) if name in SIDES else (None, None)))
        for name, mrr, patch, n in rows
    ]


def typical(store: Store) -> Case:
    """Return a query that shows the usual case, not the one that differs most.

    Of the facts that are stated three times or more, that the model answers with a probability above one half and
    whose statements both methods have among their first ten, it is the middle one by how many of their first ten
    the two have in common.
    """
    row = store.named("demo", "typical", {"influence": INFLUENCE, "retrieval": RETRIEVAL}).fetchone()
    if row is None:
        raise AttrstoreError(f"{store.path}: no query was ranked by both {INFLUENCE} and {RETRIEVAL}.")
    sides = [
        [
            Proponent(*found)
            for found in store.named(
                "demo", "proponents", {"scoring": scoring, "query": row[0], "depth": DEPTH}
            ).fetchall()
        ]
        for scoring in SIDES
    ]
    return Case(*row, *sides)


def said(demo: Demo, prompt: str) -> str:
    """Return what the demo's model says after the prompt."""
    from attrstore.ingest.model import causal, continuation

    return continuation.sentence(causal.load(demo.model, device="cpu"), prompt)


def next_commands(store: Path, case: Case) -> list[str]:
    """Commands that go on from here, ready to paste."""
    path = shlex.quote(str(store))
    program = (
        "attrstore" if shutil.which("attrstore") else sys.argv[0]
    )  # an environment that is not activated
    query = f"FROM comparison WHERE query = '{case.query}' LIMIT 20"
    return [
        f"{program} report {path} --by frequency",
        f'{program} sql {path} "{query}"',
        f'{program} ask {path} "{case.prompt}" "{case.target}"',
        f"{program} trace {path}",
    ]


def _interval(values: tuple[float, float, float] | None, form: str) -> str | None:
    if values is None or values[0] is None:
        return None
    mean, low, high = (format(value, form) for value in values)
    return f"{mean} [{low}, {high}]"


def _print_case(case: Case, answer: str) -> None:
    say(f"\n{case.query}: {case.prompt} …")
    say(f"The model says:{answer}  (P of{case.target}: {case.probability:.2f})\n")
    rows: list[list[object]] = []
    for index in range(max(len(case.influence), len(case.retrieval))):
        rows.append([index + 1])
        for side in (case.influence, case.retrieval):
            rows[-1] += _cells(side[index]) if index < len(side) else ["", ""]
    print_table(["", "", f"influence ({INFLUENCE})", "", f"retrieval ({RETRIEVAL})"], rows)
    say()
    say_wrapped(f"{STATES} states the fact. {_reading(case)}")


def _cells(proponent: Proponent) -> list[str]:
    return [STATES if proponent.states else "", proponent.text]


def _reading(case: Case) -> str:
    """What the two lists say, in words."""
    moved = sum(p.states for p in case.influence)
    found = sum(p.states for p in case.retrieval)
    return (
        f"{case.frequency} sentences do; retrieval has {found} of them in its first {DEPTH}, influence {moved}. "
        "Retrieval ranks by shared words, whatever a sentence says with them. Influence ranks what moved the model "
        "towards this answer, whether or not it states it. The query is the middle one, by how much the two lists "
        f"have in common, of the {case.candidates} facts that are stated three times or more, that the model knows, "
        "and that both find."
    )
