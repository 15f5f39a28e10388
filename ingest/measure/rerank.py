"""Score the strongest candidates of scorings again, from whole gradients: nothing projected, nothing quantised."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pyarrow
import torch
from torch import Tensor

from attrstore import scoring
from attrstore.chosen import no_scoring, scoring_names
from attrstore.errors import InputError, Interrupted, flag
from attrstore.ingest.measure.options import EXACT_METHODS, Source
from attrstore.ingest.measure.whole import open_gradients
from attrstore.ingest.model import sequences
from attrstore.ingest.stopping import ctrl_c
from attrstore.methods import Ranking
from attrstore.runs import recorded
from attrstore.statements import statement
from attrstore.vectors import encoders
from attrstore.vectors.rounding import is_rounding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from attrstore.ingest.measure.whole import Opened
    from attrstore.ingest.model.sequences import Item
    from attrstore.runs import Run
    from attrstore.scoring import Scoring
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

MOST = 200  # proponents, where it is not said how many
COMMIT_SECONDS = 2.0  # a killed job loses at most so much work
SHARD = 4096  # candidates whose texts are read at once
HELD_BYTES = 2**30  # of the queries' factors; more queries are taken in turn
FORMED_BYTES = 2**31  # of their gradients, where they are held formed
LEAST_FORMED = 8  # queries that must fit, or an example's passes would be for too few
OF_SOLVER = 8  # vectors of each query that a solver holds
TINY = 1e-300


class First(NamedTuple):
    """A scoring whose candidates are taken."""

    scoring_id: str
    family: str
    method: str
    spec: dict[str, Any]
    encoder_id: str | None
    n_examples: int


def rerank(
    store: Store,
    candidates: str | Sequence[str],
    *,
    top: int | None = None,
    method: str | None = None,
    queries: int | None = None,
    name: str | None = None,
    source: Source = Source(),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scoring:
    """Rank the `top` strongest proponents of each query again by exact scores, as a scoring of its own.

    Several scorings take turns: the first of each, then the second of each, every example once, until there are `top`.
    So BM25 can bring what states a fact, and low-rank codes what moves the model.

    A gradient here is the whole one: corrected by the optimizer's state as the encoder's are, float32, neither
    projected nor quantised, and so are the norms. ekfac, trackstar and trackstar-block take products and norms in the
    metric of the inverse of EK-FAC's curvature, which is fitted on a sample of the corpus in full width and kept in a
    file beside the store; cg inverts the true Gauss-Newton matrix, from EK-FAC's inverse on. Examples that are not
    among a query's candidates are not in the new scoring: they have no rank, and count 0 in its metrics.

    Args:
        candidates: name of a scoring, or several, of any methods, over the same examples.
        top: how many proponents, which each scoring must have kept (`score --top-k`); if not given as many as each
            keeps, at most 200.
        method: one of `EXACT_METHODS`; if not given the one without curvature that has the first scoring's norm, or
            cosine-block.
        queries: only the first so many of the store, by query_id; of several scorings, those that all ranked.
        name: of the new scoring; `METHOD exact, TOP of SCORING` if not given.
        source: whose gradients, and the damping, sample and iterations of their curvature.
        progress: called with the candidates computed and those to compute, of the queries that are held.

    Raises:
        InputError: no such scoring, encoder or method, or an option is unusable.
        MismatchError: the folder holds another model, or the file another optimizer state.
        Interrupted: the user pressed Ctrl-C; what was computed is committed.
    """
    names = [candidates] if isinstance(candidates, str) else list(dict.fromkeys(candidates))
    firsts, top = _firsts(store, names, top, queries)
    method = _method(method, firsts)
    encoder = _encoder(store, firsts, source.encoder)
    way = EXACT_METHODS[method]
    opened = open_gradients(store, encoder, source, way.curvature)
    name = name or f"{method} exact, {top} of {' and '.join(names)}"
    with recorded(
        store, "rerank", candidates=names, top=top, method=method, queries=queries, name=name, recipe=opened.recipe
    ) as run:  # fmt: skip
        scorings = [first.scoring_id for first in firsts]
        store.named("rerank", "candidates", {"scorings": scorings, "top": top})
        long, loss = str(encoder.spec["long"]), str(encoder.spec.get("loss", "auto"))
        job = Job(store, scorings, opened, long, loss, source.batch_tokens, run, progress)
        asked = job(2**62 if queries is None else queries)
        ranked = {"recipe": opened.recipe, "norm": way.norm, "queries": asked}
        pairs = store.sql(statement("rerank", "ranked"), ranked).to_arrow_table()
        store.named("rerank", "drop_candidates")
        spec = {
            "norm": way.norm,
            "curvature": way.curvature,
            **opened.spec,
            "exact": True,
            "candidates": top,
            "candidates_of": names[0] if len(names) == 1 else names,
            "candidates_spec": firsts[0].spec if len(names) == 1 else [first.spec for first in firsts],
            "queries": queries,
            "top_k": top,
            "where": firsts[0].spec.get("where"),
        }
        n_examples = firsts[0].n_examples
        ranking = Ranking(pairs, n_examples, spec, encoder.encoder_id, query_ids=asked)
        made = scoring.Scoring(name, uuid.uuid4().hex[:12], n_examples, len(pairs), spec)
        scoring.write_scoring(store, made, ranking, family="influence", method=method)
    return made


def _method(wanted: str | None, firsts: Sequence[First]) -> str:
    """Return the method that was asked for, or the one with the norm of the first scoring that has one."""
    if wanted is None:
        norms = [first.spec["norm"] for first in firsts if "norm" in first.spec]
        plain = {way.norm: name for name, way in EXACT_METHODS.items() if way.curvature == "none"}
        return plain[norms[0]] if norms else "cosine-block"
    if wanted not in EXACT_METHODS:
        raise InputError(
            f"{flag('method')} {wanted}: cannot be computed from whole gradients; there are {', '.join(EXACT_METHODS)}"
        )
    return wanted


def _firsts(
    store: Store, names: Sequence[str], top: int | None, queries: int | None
) -> tuple[list[First], int]:
    """Return the scorings of these names, over the same examples, and how many proponents, which each has kept."""
    for option, number in (("top", top), ("queries", queries)):
        if number is not None and number < 1:
            raise InputError(f"{flag(option)} {number}: must be at least 1")
    if not names:
        raise InputError("candidates: name a scoring")
    firsts = [_first(store, name) for name in names]
    kept = [int(first.spec.get("top_k") or 0) for first in firsts]
    if top is None:
        top = max(1, min(MOST, *kept))
    for name, first, most in zip(names, firsts, kept, strict=True):
        if min(top, first.n_examples) > most:
            raise InputError(
                f"{flag('top')} {top}: the scoring {name} keeps {most} proponents of each query. Score again with "
                f"{flag('top_k')} {top}, or re-rank fewer."
            )
    for name, first in zip(names, firsts, strict=True):
        if (first.spec.get("where"), first.n_examples) != (firsts[0].spec.get("where"), firsts[0].n_examples):
            raise InputError(
                f"{name}: ranks {first.n_examples:,} examples (where: {first.spec.get('where')}), and {names[0]} ranks "
                f"{firsts[0].n_examples:,} (where: {firsts[0].spec.get('where')}). Score both over the same."
            )
    return firsts, top


def _first(store: Store, name: str) -> First:
    rows = store.named("rerank", "scoring", {"name": name}).fetchall()
    if not rows:
        raise no_scoring(name, scoring_names(store))
    first = First(*rows[0])
    return first._replace(spec=json.loads(str(first.spec)))


def _encoder(store: Store, firsts: Sequence[First], wanted: str | None) -> Encoder:
    """Return the encoder that is named, or the first scoring's that has one of gradients, or the store's first."""
    of_gradients = {encoder.encoder_id for encoder in encoders.load_all(store, "gradient")}
    own = (first.encoder_id for first in firsts if first.encoder_id in of_gradients)
    return encoders.choose(store, "gradient", wanted or next(own, None))


@dataclass
class Job:
    """Computes the pairs of a work list that have no exact score yet."""

    store: Store
    scorings: list[str]
    opened: Opened
    long: str
    loss: str
    batch_tokens: int
    run: Run
    progress: Callable[[int, int], None]
    parts: list[tuple[Tensor, ...]] = field(default_factory=list)  # computed and not yet committed
    committed_at: float = field(default_factory=time.monotonic)

    def __call__(self, queries: int) -> list[int]:
        """Compute for the first `queries` queries; return those that can be asked."""
        first = {"scorings": self.scorings, "queries": queries}
        asked = [query_id for (query_id,) in self.store.named("rerank", "asked", first).fetchall()]
        rows = self.store.named("tail_patch", "queries", {"ids": asked}).fetchall()
        loaded = self.opened.loaded
        items = sequences.queries(sorted(rows), loaded.tokenizer, loaded.context)
        items = [item for item in items if item.windows]
        if not items:
            raise InputError(f"{self.store.path}: the scoring ranked none of these queries.")
        formed = self._formed(items)
        with ctrl_c() as stopped:
            for group in self._groups(items, formed=formed):
                self._group(group, stopped, formed=formed)
        return [item.key for item in items]

    def _formed(self, items: Sequence[Item]) -> bool:
        """Whether gradients are held formed: each multiplies a matrix then, and where few pairs are wanted tokens."""
        _, whole = self.opened.exact.width
        if self.opened.solve is not None:
            return True
        asked = {"recipe": self.opened.recipe, "queries": [item.key for item in items]}
        ((wanted, examples),) = self.store.named("rerank", "amount", asked).fetchall()
        return bool(2 * wanted > examples * len(items)) and 4 * whole * LEAST_FORMED <= FORMED_BYTES

    def _groups(self, items: Sequence[Item], *, formed: bool) -> Iterator[list[Item]]:
        """Split the queries so that what is held of each group fits."""
        of_token, whole = self.opened.exact.width
        copies = 1 if self.opened.solve is None else OF_SOLVER
        group: list[Item] = []
        n_bytes = 0
        for item in items:
            size = 4 * whole * copies if formed else 4 * of_token * item.length
            if group and n_bytes + size > (FORMED_BYTES if formed else HELD_BYTES):
                yield group
                group, n_bytes = [], 0
            group.append(item)
            n_bytes += size
        yield group

    def _group(self, queries: list[Item], stopped: list[bool], *, formed: bool) -> None:
        ids = [item.key for item in queries]
        recipe, exact = self.opened.recipe, self.opened.exact
        work = dict(self.store.named("rerank", "pending", {"recipe": recipe, "queries": ids}).fetchall())
        if not work:
            return
        batches = list(sequences.batches(queries, self.batch_tokens))
        held, squares = exact.hold(batches, formed=formed, solve=self.opened.solve)
        row_of = {item.key: row for row, item in enumerate(held)}
        keys = torch.tensor([item.key for item in held])
        done = 0
        for items in self._examples(list(work)):
            for batch in sequences.batches(items, self.batch_tokens):
                wanted = [torch.tensor(sorted(row_of[q] for q in work[item.key])) for item in batch.items]
                found = exact.products(batch, wanted)
                for item, rows, of_pairs, own in zip(batch.items, wanted, *found, strict=True):
                    scores = _scores(of_pairs, squares[rows.to(squares.device)], own)
                    self.parts.append((keys[rows], torch.full_like(rows, item.key), *scores))
                done += len(batch.items)
                self.progress(done, len(work))
                self._commit(now=stopped[0])
                if stopped[0]:
                    raise Interrupted(
                        f"stopped after {self.run.rows:,} pairs, all committed. Run the same command again to go on."
                    )
        self._commit(now=True)

    def _examples(self, ids: list[int]) -> Iterator[list[Item]]:
        tokenizer, context = self.opened.loaded.tokenizer, self.opened.loaded.context
        for start in range(0, len(ids), SHARD):
            rows = self.store.named("tail_patch", "examples", {"ids": ids[start : start + SHARD]}).fetchall()
            found = sequences.examples(sorted(rows), tokenizer, context, self.long, self.loss)
            yield [item for item in found if item.windows]

    def _commit(self, *, now: bool) -> None:
        if not self.parts or not (now or time.monotonic() - self.committed_at > COMMIT_SECONDS):
            return
        columns = ("query_id", "example_id", "dot", "cosine", "cosine_block")
        arrays = (torch.cat(column).cpu().numpy() for column in zip(*self.parts, strict=True))
        table = pyarrow.table(dict(zip(columns, arrays, strict=True)))
        with self.store.transaction(), self.store.registered(measured=table):
            self.store.named("rerank", "insert", {"recipe": self.opened.recipe})
        self.run.rows += len(table)
        self.parts = []
        self.committed_at = time.monotonic()


def _scores(products: Tensor, of_queries: Tensor, of_example: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a pair's score by each method, from its blocks: products [p, B], squared norms [p, B] and [B]."""
    dot = products.sum(dim=1)
    whole = (of_queries.sum(dim=1) * of_example.sum()).sqrt().clamp(min=TINY)
    each = (of_queries * of_example).sqrt().clamp(min=TINY)
    counted = ~(is_rounding(of_queries) | is_rounding(of_example))
    return dot.float(), (dot / whole).float(), (products / each * counted).mean(dim=1).float()
