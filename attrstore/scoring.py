"""Apply one method once: rank, and write its scoring and scores in one transaction."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

import attrstore
from attrstore.aggregates import Aggregates
from attrstore.errors import InputError, flag
from attrstore.methods import Ranking, Request, find
from attrstore.progress import Progress, silent
from attrstore.runs import recorded, writes
from attrstore.schema import tables_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow

    from attrstore.store import Store


@dataclass(frozen=True)
class Scoring:
    """What was written."""

    name: str
    scoring_id: str
    n_examples: int
    n_scores: int
    spec: dict[str, Any]


@writes
def score(
    store: Store,
    /,
    method: str,
    *,
    name: str | None = None,
    top_k: int = 100,
    where: str | None = None,
    group_by: str | None = None,
    replace: bool = True,
    progress: Progress = silent,
    **options: Any,
) -> Scoring:
    """Rank every selected example for every query and keep the result under `name`.

    Args:
        method: one of `attrstore.methods.every_method()`.
        name: of the scoring; the method's name if not given. A scoring of that name is replaced.
        top_k: proponents kept for each query, and as many opponents.
        where: an SQL predicate over `examples`, such as "source = 'wiki'".
        group_by: `source` or a key of the metadata: while scanning, the scores of all examples are described by query
            and value of it, in `score_groups`; of a method that scans encodings.
        replace: whether a scoring of that name may be replaced.
        options: of the method: fields of its `options`, as in `attrstore score METHOD --help`.

    Raises:
        InputError: no such method or option, nothing ingested for it, or a bad predicate.
    """
    chosen = find(method)
    taken = chosen.with_options(options)
    name = name or method
    if top_k < 1:
        raise InputError(f"{flag('top_k')} {top_k}: must be at least 1")
    if not replace and store.value("SELECT count(*) FROM scorings WHERE name = $name", {"name": name}):
        raise InputError(f"{store.path}: there is a scoring called {name}. Choose another {flag('name')}.")
    if group_by is not None and chosen.reads.kind in ("lexical", "model"):
        raise InputError(
            f"{flag('group_by')} {group_by}: {method} does not scan encodings, so it has no score for every example."
        )
    about = {"top_k": top_k, "where": where} | ({} if group_by is None else {"group_by": group_by})
    with recorded(store, "score", method=method, name=name, **about, **options) as run:
        with selected(store, where), _grouped(store, group_by) as groups:
            ranking = chosen.rank(store, Request(top_k, taken, progress, observe=groups))
            described = None if groups is None else groups.table(ranking.query_ids)
        spec = {**ranking.spec, "top_k": top_k, "where": where}
        scoring = Scoring(name, uuid.uuid4().hex[:12], ranking.n_examples, len(ranking.pairs), spec)
        write_scoring(store, scoring, ranking, family=chosen.family, method=chosen.name, aggregated=described)
        run.rows = scoring.n_scores
    return scoring


@contextmanager
def _grouped(store: Store, by: str | None) -> Iterator[Aggregates | None]:
    """Make what sees the scores of a scan, if they are to be described by group."""
    if by is None:
        yield None
        return
    groups = Aggregates(store, by)
    try:
        yield groups
    finally:
        groups.close()


@contextmanager
def selected(store: Store, where: str | None) -> Iterator[None]:
    """Make the ids that satisfy the predicate visible as the table `selected_examples(example_id)`."""
    try:
        examples = store.connection.table("examples")
        relation = examples.filter(where) if where else examples
        ids = relation.select("example_id").to_arrow_table()
    except duckdb.Error as error:
        raise InputError(f"{flag('where')} {where}: {str(error).splitlines()[0]}") from error
    if not len(ids):
        which = f"no example satisfies {flag('where')} {where}" if where else "no examples yet"
        raise InputError(f"{store.path}: {which}.")
    with store.registered(selected_examples=ids):
        yield


def write_scoring(
    store: Store,
    scoring: Scoring,
    ranking: Ranking,
    *,
    family: str,
    method: str,
    aggregated: pyarrow.Table | None = None,
) -> None:
    """Write a scoring, its scores and the queries it ranked in one transaction, in the place of any of that name.

    Args:
        aggregated: what `Aggregates` found while it was ranked.
    """
    with store.transaction(), store.registered(ranked=ranking.pairs):
        for (before,) in store.rows("SELECT scoring_id FROM scorings WHERE name = $n", {"n": scoring.name}):
            for table in tables_with(store, "scoring_id"):
                store.execute(f'DELETE FROM "{table}" WHERE scoring_id = $id', {"id": before})
        store.named(
            "scoring",
            "insert_scoring",
            {
                "id": scoring.scoring_id,
                "name": scoring.name,
                "family": family,
                "method": method,
                "spec": json.dumps(scoring.spec),
                "encoder": ranking.encoder_id,
                "n_examples": scoring.n_examples,
                "version": attrstore.__version__,
            },
        )
        store.named("scoring", "insert_scores", {"scoring": scoring.scoring_id})
        store.named("scoring", "insert_inputs", {"scoring": scoring.scoring_id})
        asked = {"scoring": scoring.scoring_id, "queries": list(ranking.query_ids)}
        store.named("scoring", "insert_scoring_queries", asked)
        store.named("scoring", "insert_written", {"scoring": scoring.scoring_id})
        if aggregated is not None:
            with store.registered(aggregated=aggregated):
                store.named("aggregates", "insert", {"scoring": scoring.scoring_id})
