"""Choose subsets of the corpus to train on again: seeded halves for LDS, and the corpus without a query's proponents.

LDS, the linear datamodelling score (Park et al. 2023, TRAK, arXiv 2303.14186, section 2; datamodels: Ilyas et al.
2022, arXiv 2202.00622), asks how well a scoring predicts what models trained on random subsets do.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from attrstore.chosen import no_scoring, scoring_names
from attrstore.errors import InputError, MismatchError, flag
from attrstore.evaluation.options import HALVES, LEFT_OUT, SubsetOptions
from attrstore.runs import recorded, writes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attrstore.evaluation.options import SubsetFields
    from attrstore.store import Store


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
    return make_leave_out(
        store, scorings=asked.scorings, name=asked.name or LEFT_OUT.name, top=asked.top or LEFT_OUT.top,
        queries=asked.queries or LEFT_OUT.queries, count=asked.count or LEFT_OUT.count, seed=asked.seed,
        replace=asked.replace,
    )  # fmt: skip


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
    store: Store,
    *,
    scorings: Sequence[str],
    name: str = LEFT_OUT.name,
    top: int = LEFT_OUT.top,
    queries: int = LEFT_OUT.queries,
    count: int = LEFT_OUT.count,
    seed: int = 0,
    replace: bool = False,
) -> Made:
    """Write the subsets of leave-k-out: the corpus whole, `count` times without `top` examples chosen at random, and
    without the `top` strongest proponents of each query under each scoring.

    Args:
        scorings: names.
        queries: the first so many, by query_id.
        replace: drop a set of that name first, with its losses.

    Raises:
        InputError: no such scoring, one that ranks fewer than `top` for a query, or a set of that name.
    """
    for option, number in (
        (flag("leave_out", "top"), top),
        (flag("queries"), queries),
        (flag("count"), count),
    ):
        if number < 1:
            raise InputError(f"{option} {number}: must be at least 1")
    known = scoring_names(store)
    for scoring in scorings:
        if scoring not in known:
            raise no_scoring(scoring, known)
    n = _n_examples(store)
    if top >= n:
        raise InputError(f"{flag('leave_out', 'top')} {top}: there are {n:,} examples")
    parameters = {"scorings": list(scorings), "top": top, "queries": queries, "count": count, "seed": seed}
    with _written(store, name, replace, **parameters):
        key = {"set": name, "seed": seed}
        store.named("subsets", "insert", {**key, "kind": "full", "first": 1, "count": 1})
        store.named("subsets", "insert", {**key, "kind": "random", "first": 2, "count": count})
        store.named("subsets", "leave_out_at_random", {"set": name, "kind": "random", "n": top})
        asked = {"scorings": list(scorings), "queries": queries}
        store.named("subsets", "insert_proponents", {**key, **asked, "first": 2 + count})
        store.named("subsets", "leave_out_proponents", {"set": name, "n": top})
        _refuse_short(store, name, top)
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


def _refuse_short(store: Store, name: str, top: int) -> None:
    found = store.named("subsets", "shortest", {"set": name}).fetchall()
    if not found:
        raise InputError(f"{store.path}: no queries yet. First: attrstore ingest queries {store.path} FILE")
    scoring, query, n = found[0]
    if n < top:
        raise InputError(
            f"{flag('leave_out', 'top')} {top}: {scoring} ranks only {n} examples for query "
            f"{query!r}. Leave out fewer, or score "
            f"again with a larger {flag('top_k')}."
        )
