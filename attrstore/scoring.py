"""Apply one method once: rank, and write its scoring and scores in one transaction."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import duckdb

import attrstore
from attrstore.aggregates import Aggregates
from attrstore.errors import InputError, MismatchError, extras_named, flag
from attrstore.methods import Ranking, Request, find
from attrstore.methods.recommended import recommended
from attrstore.progress import Progress, silent
from attrstore.runs import recorded, writes
from attrstore.schema import tables_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    method: str | None = None,
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
        method: one of `attrstore.methods.every_method()`; if not given, the one to begin with in a search for what
            moved the model: damped-block where there are codes of low rank on principal directions, else cosine-block.
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
    if method is None:
        method, chosen = recommended(store)
        options = {**chosen, **options}
    asked = _Asked(method, name or method, top_k, where, options)
    if not replace and store.value("SELECT count(*) FROM scorings WHERE name = $name", {"name": asked.name}):
        raise InputError(
            f"{store.path}: there is a scoring called {asked.name}. Choose another {flag('name')}."
        )
    if group_by is not None and asked.method.reads.kind in ("lexical", "model"):
        raise InputError(
            f"{flag('group_by')} {group_by}: {method} does not scan encodings, so it has no score for every example."
        )
    grouped = {} if group_by is None else {"group_by": group_by}
    with recorded(store, "score", **asked.about, **grouped, **options) as run:
        with selected(store, where), _grouped(store, group_by) as groups:
            request = Request(top_k, asked.options, progress, observe=groups)
            ranking = asked.method.rank(store, request)
            described = None if groups is None else groups.table(ranking.query_ids)
        scoring = asked.written(store, ranking, described)
        run.rows = scoring.n_scores
    return scoring


@extras_named()
def score_on_ray(
    path: str | Path,
    method: str,
    *,
    workers: int | None = None,
    name: str | None = None,
    top_k: int = 100,
    where: str | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Scoring:
    """Rank as `score` does, with the encodings scanned by the workers of a Ray cluster, and keep the result.

    The cluster is the one at RAY_ADDRESS, or one of this machine. The store is open for reading only until all is
    scanned; every worker opens it too, at the same place.

    Args:
        path: the store; nobody may have it open in this process.
        workers: how many; if not given, one for each CPU of the cluster.
        method, name, top_k, where, options: as for `score`.

    Raises:
        InputError: as `score`; or a method that does not scan the encodings of one encoder.
        MismatchError: the store changed while it was scanned.
    """
    from attrstore.methods import elsewhere

    asked = _Asked(method, name or method, top_k, where, options)
    if asked.method.reads.kind in ("lexical", "model") or asked.method.reads.several:
        raise InputError(
            f"{flag('engine')} ray: {method} does not scan the encodings of one encoder. Leave it out."
        )
    inputs = "SELECT input, n, digest FROM present_inputs ORDER BY ALL"
    with attrstore.open(path) as store, selected(store, where):
        before = store.rows(inputs)
        on_ray = partial(elsewhere.on_ray, n=workers)
        ranking = asked.method.rank(store, Request(top_k, asked.options, progress, elsewhere=on_ray))
    with attrstore.open(path, writable=True) as store:
        if store.rows(inputs) != before:
            raise MismatchError(
                f"{path}: changed while it was scanned, so nothing was kept. Run the same command again."
            )
        with recorded(store, "score", **asked.about, engine="ray", **options) as run:
            scoring = asked.written(store, ranking)
            run.rows = scoring.n_scores
    return scoring


class _Asked:
    """A method with its options, and under which name its ranking is kept; wrong ones are refused."""

    def __init__(
        self, method: str, name: str, top_k: int, where: str | None, options: dict[str, Any]
    ) -> None:
        self.method, self.name = find(method), name
        self.options = self.method.with_options(options)
        if top_k < 1:
            raise InputError(f"{flag('top_k')} {top_k}: must be at least 1")
        self.limits = {"top_k": top_k, "where": where}

    @property
    def about(self) -> dict[str, object]:
        """What a run of it is recorded with, besides the method's options."""
        return {"method": self.method.name, "name": self.name, **self.limits}

    def written(self, store: Store, ranking: Ranking, described: pyarrow.Table | None = None) -> Scoring:
        """Keep a ranking, with what was described of its groups."""
        spec = {**ranking.spec, **self.limits}
        scoring = Scoring(self.name, uuid.uuid4().hex[:12], ranking.n_examples, len(ranking.pairs), spec)
        family, method = self.method.family, self.method.name
        write_scoring(store, scoring, ranking, family=family, method=method, aggregated=described)
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
