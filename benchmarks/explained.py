"""Where in a strong proponent its score lies: on the tokens that spell the target, or elsewhere?

    python -m benchmarks.explained STORE [--queries 100] [--top 10] [--scoring NAME]

Takes apart the strongest proponents of queries drawn at random (seed 0), as `attrstore explain` does; nothing is
written. The model has to be where ingest saw it. A part belongs to the position whose output is trained, so the
positions that foretell the target's tokens are counted beside those tokens themselves. Proponents are those that state
the fact (labelled), those that have the target in their text without stating it, and the rest. Intervals of 95% are
of resampled queries, 2,000 times.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import attrstore
from attrstore.workflows.explain import Explainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attrstore.workflows.explain import Token

RESAMPLES = 2_000
KINDS = ("state the fact", "have the target, do not state it", "do not have the target")
MEASURES = ("spell the target", "foretell it")
STRONGEST = """
SELECT examples.external_id, coalesce(pair_labels.label, 0) > 0
FROM scores JOIN examples USING (example_id) LEFT JOIN pair_labels USING (query_id, example_id)
WHERE scoring_id = $scoring AND query_id = $query AND rank BETWEEN 1 AND $top ORDER BY rank
"""


class Shares(NamedTuple):
    """What falls on some tokens of one pair: of the parts' sizes, of their sum, and of the tokens' number."""

    size: float
    signed: float
    tokens: float


class Pair(NamedTuple):
    """One pair taken apart."""

    query: str
    kind: str
    spell: Shares
    foretell: Shares


def spelling(text: str, target: str, tokens: Sequence[Token]) -> list[bool]:
    """Say of each token whether it has a part of the target, wherever that stands as whole words, in any case."""
    phrase = re.compile(rf"(?<!\w){re.escape(target.strip())}(?!\w)", re.IGNORECASE)
    spans = [found.span() for found in phrase.finditer(text)]

    def has(token: Token) -> bool:
        if token.start is None or not token.token.strip():
            return False
        start = token.start + len(token.token) - len(token.token.lstrip())
        end = token.start + len(token.token)
        return any(start < stop and begin < end for begin, stop in spans)

    return [has(token) for token in tokens]


def shares(tokens: Sequence[Token], chosen: Sequence[bool]) -> Shares:
    """Return what falls on the chosen tokens."""
    parts = np.array([token.part for token in tokens])
    on = np.array(chosen)
    return Shares(
        float(np.abs(parts[on]).sum() / np.abs(parts).sum()),
        float(parts[on].sum() / parts.sum()),
        float(on.mean()),
    )


def pairs(store: attrstore.Store, queries: int, top: int, scoring: str | None) -> Iterator[Pair]:
    """Yield the strongest proponents of queries drawn at random, each taken apart."""
    explainer = Explainer.of(store, scoring, model=None, device="auto")
    if explainer.loaded is None:
        sys.exit("the model is not where ingest saw it, and the stored codes have no tokens")
    print(f"{explainer.name}, {explainer.encoder.name}", file=sys.stderr, flush=True)
    names = [name for (name,) in store.rows("SELECT external_id FROM queries ORDER BY query_id")]
    for name in random.Random(0).sample(names, min(queries, len(names))):
        asked = store.named("explain", "query", {"id": name}).fetchall()[0]
        side = explainer.query_side(asked)
        chosen = {"scoring": explainer.scoring_id, "query": asked[0], "top": top}
        for example, states in store.rows(STRONGEST, chosen):
            row = store.named("explain", "example", {"id": example}).fetchall()[0]
            tokens = explainer.pair(side, asked[0], row).tokens
            spell = spelling(row[1], asked[2], tokens)
            foretell = [*spell[1:], False]
            kind = KINDS[0] if states else KINDS[1] if any(spell) else KINDS[2]
            yield Pair(name, kind, shares(tokens, spell), shares(tokens, foretell))
        print(".", end="", file=sys.stderr, flush=True)


def interval(values: Sequence[float], queries: Sequence[str]) -> tuple[float, float, float]:
    """Return the mean over pairs and its 95% interval over resampled queries."""
    names, of = np.unique(queries, return_inverse=True)
    sums, counts = np.bincount(of, weights=values), np.bincount(of)
    draws = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean(values)), float(low), float(high)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.explained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--scoring", help="By default the influence scoring that `comparison` shows.")
    given = parser.parse_args()
    with attrstore.open(given.store) as store:
        found = list(pairs(store, given.queries, given.top, given.scoring))
    print("\n| proponents that | pairs | tokens that | of the sizes | of the sum | of the tokens |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        of_kind = [pair for pair in found if pair.kind == kind]
        for measure in MEASURES if of_kind else ():
            every = [pair.spell if measure == MEASURES[0] else pair.foretell for pair in of_kind]
            shown = [interval([one[i] for one in every], [pair.query for pair in of_kind]) for i in range(3)]
            cells = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in shown]
            print(f"| {kind} | {len(of_kind)} | {measure} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
