"""Choose subsets of the corpus to train on again: seeded halves for LDS, and the corpus without a query's proponents.

LDS, the linear datamodelling score (Park et al. 2023, TRAK, arXiv 2303.14186, section 2; datamodels: Ilyas et al.
2022, arXiv 2202.00622), asks how well a scoring predicts what models trained on random subsets do. QLD, the query loss
difference (bergson's leaderboard), asks how much the loss rises without the strongest share of the corpus.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from attrstore.chosen import no_scoring, scoring_names
from attrstore.errors import InputError, MismatchError, flag
from attrstore.evaluation.options import HALVES, LEFT_OUT, QLD, SubsetOptions
from attrstore.evaluation.report import require_key
from attrstore.runs import recorded, writes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attrstore.evaluation.options import SubsetFields
    from attrstore.store import Store


RANDOM = "random"  # what reports call the examples left out at random


@dataclass(frozen=True)
class Made:
    """A set of subsets that was written."""

    name: str
    subsets: int
    left_out: int  # examples that each leaves out (of leave-k-out: all but the one of the whole corpus)
    n_examples: int


@writes
def make(store: Store, options: SubsetOptions | None = None, **fields: Unpack[SubsetFields]) -> Made:
    """Write the subsets that are asked for: `make_leave_out` where scorings are named, and else `make_subsets`.

    Args:
        options: which; the default ones, if not given.
        fields: of the options, `SubsetOptions`, that are to be otherwise: `count=8`.
    """
    asked = dataclasses.replace(options or SubsetOptions(), **fields)
    if not asked.scorings:
        return make_subsets(
            store, name=asked.name or HALVES.name, count=asked.count or HALVES.count,
            fraction=asked.fraction or HALVES.fraction, seed=asked.seed, replace=asked.replace,
        )  # fmt: skip
    return make_leave_out(store, asked)


@writes
def make_subsets(
    store: Store,
    *,
    name: str = HALVES.name,
    count: int = HALVES.count,
    fraction: float = HALVES.fraction,
    seed: int = 0,
    replace: bool = False,
) -> Made:
    """Write `count` subsets that each keep a random `fraction` of the examples.

    The choice is a hash of the seed, the subset's number and the example's own id: the same corpus and seed give
    the same subsets on every machine.

    Args:
        name: of the set.
        fraction: of the examples that a subset keeps, above 0 and below 1.
        replace: drop a set of that name first, with its losses.

    Raises:
        InputError: no examples, an impossible count or fraction, or a set of that name.
    """
    if count < 3:
        raise InputError(f"{flag('count')} {count}: a rank correlation needs at least 3 subsets")
    if not 0 < fraction < 1:
        raise InputError(f"{flag('fraction')} {fraction}: must be between 0 and 1")
    n = _n_examples(store)
    left_out = round(n * (1 - fraction))
    if not 0 < left_out < n:
        raise InputError(
            f"{flag('fraction')} {fraction}: keeps {'none' if left_out else 'all'} of {n:,} examples"
        )
    with _written(store, name, replace, count=count, fraction=fraction, seed=seed):
        chosen = {"set": name, "kind": "lds"}
        store.named("subsets", "insert", {**chosen, "first": 1, "count": count, "seed": seed})
        store.named("subsets", "leave_out_at_random", {**chosen, "n": left_out})
    return Made(name, count, left_out, n)


@writes
def make_leave_out(
    store: Store, options: SubsetOptions | None = None, **fields: Unpack[SubsetFields]
) -> Made:
    """Write the subsets of leave-k-out and QLD: the corpus whole, `count` times without k examples chosen at random,
    and without the k strongest proponents of each query under each scoring.

    The order is that of the ranks, in which equal scores stand in the order of the corpus: exactly k are left out.

    Args:
        options: `scorings`, names, and which of their proponents: k is `top`, or the whole number nearest to `share`
            of the corpus, and at least 1. Of the first `queries`, by query_id; or, where `by` is given, of each group
            of queries with one value of that key of their metadata, by the sum of the scores over all of them.
        fields: of the options that are to be otherwise: `scorings=["bm25"], share=0.01`.

    Raises:
        InputError: no such scoring, one that ranks fewer than k for a query or lacks a score that a sum needs, or a
            set of that name.
        MismatchError: a scoring is not of the corpus, queries and labels that there are now.
    """
    asked = dataclasses.replace(options or SubsetOptions(), **fields)
    name = asked.name or (LEFT_OUT.name if asked.share is None else QLD)
    queries, count = asked.queries or LEFT_OUT.queries, asked.count or LEFT_OUT.count
    n = _n_examples(store)
    if asked.share is None:
        top = asked.top or LEFT_OUT.top
        given = f"{flag('leave_out', 'top')} {top}"
    else:
        top = max(1, round(asked.share * n))
        given = f"{flag('share')} {asked.share:g}"
    if top >= n:
        raise InputError(f"{given}: leaves none of {n:,} examples. Leave out fewer.")
    _refuse_scorings(store, asked.scorings)
    if asked.by is not None:
        require_key(store, asked.by, examples=False)
    scorings = list(asked.scorings)
    parameters = {"scorings": scorings, "top": top, "count": count, "seed": asked.seed}
    of = {"queries": queries} if asked.by is None else {"by": asked.by}
    with _written(store, name, asked.replace, **parameters, share=asked.share, **of):
        key = {"set": name, "seed": asked.seed}
        store.named("subsets", "insert", {**key, "kind": "full", "first": 1, "count": 1})
        store.named("subsets", "insert", {**key, "kind": "random", "first": 2, "count": count})
        store.named("subsets", "leave_out_at_random", {"set": name, "kind": "random", "n": top})
        whose = {**key, **of, "scorings": scorings, "first": 2 + count}
        if asked.by is None:
            store.named("subsets", "insert_proponents", whose)
            store.named("subsets", "leave_out_proponents", {"set": name, "n": top})
        else:
            store.named("subsets", "insert_groups", whose)
            _refuse_cut(store, name, asked.by, n)
            store.named("subsets", "leave_out_of_groups", {"set": name, "n": top})
        _refuse_short(store, name, given, top, asked.by)
    made = store.value("SELECT count(*) FROM subsets WHERE subset_set = $set", {"set": name})
    return Made(name, int(made), top, n)


def require(store: Store, name: str) -> None:
    """Refuse a set that is not there, or whose corpus has changed since it was made."""
    if not store.named("subsets", "existing", {"set": name}).fetchall()[0][0]:
        known = ", ".join(row[0] for row in store.named("subsets", "sets").fetchall()) or "none yet"
        raise InputError(
            f"{flag('subsets')} {name}: {store.path} has no set of subsets called so; there are {known}. "
            f"Make one: attrstore subsets {store.path} --name {name}"
        )
    ((then, now),) = store.named("subsets", "corpus_changed", {"set": name}).fetchall()
    if then != now:
        raise MismatchError(
            f"{flag('subsets')} {name}: made of {then:,} examples, and there are {now:,} now. Make a new set: "
            f"attrstore subsets {store.path} --name NAME"
        )


@contextmanager
def _written(store: Store, name: str, replace: bool, **parameters: object) -> Iterator[None]:
    """Commit the block as one transaction and record it, unless there is a set of that name already."""
    there = store.named("subsets", "existing", {"set": name}).fetchall()[0][0]
    if there and not replace:
        raise InputError(
            f"{flag('name')} {name}: there are subsets called so. {flag('replace')} drops them and "
            f"their losses; or choose "
            "another name."
        )
    with recorded(store, "subsets", name=name, replace=replace, **parameters) as run, store.transaction():
        for table in ("losses", "examples", "subsets"):
            store.named("subsets", f"forget_{table}", {"set": name})
        yield
        run.rows = store.named("subsets", "existing", {"set": name}).fetchall()[0][0]


def _n_examples(store: Store) -> int:
    n = int(store.value("SELECT count(*) FROM examples"))
    if not n:
        raise InputError(f"{store.path}: no examples yet. First: attrstore ingest corpus {store.path} FILE")
    return n


def _refuse_scorings(store: Store, scorings: Sequence[str]) -> None:
    """Refuse names that no scoring has, and scorings of another corpus: training costs too much for either."""
    known = scoring_names(store)
    if not scorings:
        raise InputError(
            f"{flag('scoring', 'scorings')}: none given. Name at least one of {', '.join(known) or 'none yet'}."
        )
    for scoring in scorings:
        if scoring not in known:
            raise no_scoring(scoring, known)
        if scoring == RANDOM:
            raise InputError(
                f"{flag('scoring', 'scorings')} {RANDOM}: reports call the examples so that are left out at random. "
                f"Give it another name: attrstore rename {store.path} scoring {RANDOM} NAME"
            )
    for scoring, reasons in store.named("subsets", "stale", {"scorings": list(scorings)}).fetchall():
        raise MismatchError(
            f"{flag('scoring', 'scorings')} {scoring}: stale: {reasons}. Score again first: attrstore score "
            f"{store.path}, or attrstore trace {store.path}"
        )


def _refuse_cut(store: Store, name: str, by: str, n_examples: int) -> None:
    for scoring, query in store.named("subsets", "cut", {"set": name}).fetchall():
        raise InputError(
            f"{flag('by')} {by}: sums need the score of every example, and {scoring} lacks some for query {query!r}. "
            f"Score again with {flag('top_k')} {n_examples} and without {flag('where')} and {flag('queries')}."
        )


def _refuse_short(store: Store, name: str, option: str, top: int, by: str | None) -> None:
    found = store.named("subsets", "shortest", {"set": name}).fetchall()
    if not found:
        raise InputError(f"{store.path}: no queries yet. First: attrstore ingest queries {store.path} FILE")
    scoring, of, n = found[0]
    if n < top:
        raise InputError(
            f"{option}: {top:,} examples, and {scoring} ranks only {n} examples for {by or 'query'} {of!r}. Leave out "
            f"fewer, or score again with a larger {flag('top_k')}."
        )
