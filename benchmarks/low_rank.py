"""Codes of low rank against whole gradients: bytes, fidelity, what they find, and what re-ranking gives back.

python -m benchmarks.low_rank DATA --workdir DIR [--queries 120] [--tail-patch 60] [--top 200]
    [--bergson-python PEER_PYTHON] [--picture FILE] [RECIPE ...]

DATA has corpus.jsonl, queries.jsonl, labels.jsonl and model/ with optimizer.pt. A RECIPE is pairs, width, code and a
query's pairs, such as 1,116,1bit,2, with a p behind for principal directions: 1,116,1bit,2,p. Each is a gradient ingest
into the same store, ranked over all examples by cosine-block and, of principal directions, damped-block and
trackstar-block. The strongest --top of the last but one are ranked again from whole gradients: alone, in turns with
trackstar-block's of the same encodings, and in turns with BM25's. The reference is the ranking of every example by
whole gradients for the first --queries queries (all, if not given): every measure is over these. The last candidates
of the first recipe are also ranked again with curvature in full width: ekfac, trackstar, trackstar-block. Tail-patch
is that of the ten strongest of the first --tail-patch of them. Intervals of 95% over queries. The store stays in
--workdir: the same command goes on where it was stopped. With a Python that has bergson its own TrackStar is a row.
FILE becomes an SVG of bytes an example against overlap@10 and Spearman's correlation with the reference.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import attrstore
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.measure.options import Source
from attrstore.ingest.measure.rerank import rerank
from attrstore.ingest.measure.tail_patch import tail_patch
from attrstore.scoring import score
from benchmarks.frontier import BERGSON, Interval, Point, run_bergson
from benchmarks.frontier_picture import FIDELITY, draw

EXACT, USUAL = "exact", "k 32, half a bit"
RECIPES = ("1,116,1bit,2,p", "2,116,1bit,2,p")
CURVED = ("ekfac", "trackstar", "trackstar-block")
BY = ("cosine-block", "damped-block", "trackstar-block")
UNKNOWN = Interval(math.nan, math.nan, math.nan)
METRICS = ("mrr", "hit_at_10", "tail_patch_logprob")


Again = dict[str, tuple[list[str], str]]  # scoring: its candidates, and the method


class Recipe(NamedTuple):
    """One code of low rank."""

    rank: int
    dim: int
    code: str
    query_rank: int
    principal: bool

    @classmethod
    def read(cls, text: str) -> Recipe:
        """Read `1,116,1bit,2` or `1,116,1bit,2,p`."""
        rank, dim, code, query_rank, *rest = text.split(",")
        return cls(int(rank), int(dim), code, int(query_rank), rest == ["p"])

    @property
    def name(self) -> str:
        """Of the encoder."""
        where = "principal" if self.principal else "random"
        return f"rank {self.rank}, {self.dim} {where} directions, {self.code}, queries {self.query_rank}"

    @property
    def label(self) -> str:
        """In a picture."""
        of = "" if self.principal else " random"
        return f"{self.rank} x {self.dim}{of} {self.code}"

    @property
    def scorings(self) -> dict[str, str]:
        """Names of the scorings by each method."""
        return {method: f"{self.name}: {method}" for method in (BY if self.principal else BY[:1])}

    @property
    def candidates(self) -> list[list[str]]:
        """Whose candidates are ranked again."""
        names = list(self.scorings.values())
        if not self.principal:
            return [names, [*names, "bm25"]]
        return [names[1:2], names[1:], [names[1], "bm25"]]

    def again(self, top: int, *, curved: bool) -> Again:
        """Names of the scorings of these candidates by whole gradients, and the method of each."""
        found = {
            f"{' and '.join(names)}: {top} re-ranked": (names, "cosine-block") for names in self.candidates
        }
        last = self.candidates[-1]
        if not curved:
            return found
        return found | {
            f"{' and '.join(last)}: {top} re-ranked, {method}": (last, method) for method in CURVED
        }


def prepare(store: attrstore.Store, data: Path, queries: int | None) -> None:
    """Ingest the files and rank by the usual code and by whole gradients, as far as it is not done yet."""
    ingest_corpus(store, [data / "corpus.jsonl"])
    ingest_queries(store, [data / "queries.jsonl"])
    ingest_labels(store, [data / "labels.jsonl"])
    if queries is not None and store.value("SELECT count(*) FROM queries") > queries:
        dropped = "(SELECT query_id FROM queries ORDER BY query_id LIMIT 1000000000 OFFSET $n)"
        for table in ("labels", "queries"):
            store.execute(f"DELETE FROM {table} WHERE query_id IN {dropped}", {"n": queries})
    ingest_gradients(store, model=data / "model", optimizer_state=data / "model" / "optimizer.pt", name=USUAL)
    ingest_lexical(store)
    n: int = store.value("SELECT count(*) FROM examples")
    if not scored(store, "bm25"):
        score(store, "bm25", top_k=n)
    if not scored(store, USUAL):
        score(store, "cosine-block", encoder=USUAL, name=USUAL, top_k=n)
    if not scored(store, EXACT):
        rerank(store, USUAL, top=n, name=EXACT, source=Source(model=data / "model"))


def measure(store: attrstore.Store, data: Path, recipe: Recipe, again: Again, top: int) -> None:
    """Encode, rank, and rank the strongest again, as far as it is not done yet."""
    state = data / "model" / "optimizer.pt"
    ingest_gradients(
        store, model=data / "model", optimizer_state=state, name=recipe.name, rank=recipe.rank,
        projection_dim=recipe.dim, code=recipe.code, query_rank=recipe.query_rank, principal=recipe.principal,
    )  # fmt: skip
    n: int = store.value("SELECT count(*) FROM examples")
    for method, name in recipe.scorings.items():
        if not scored(store, name):
            score(store, method, encoder=recipe.name, name=name, top_k=n)
    source = Source(encoder=recipe.name, model=data / "model")
    for name, (candidates, by) in again.items():
        if not scored(store, name):
            rerank(store, candidates, top=top, method=by, name=name, source=source)


def scored(store: attrstore.Store, name: str) -> bool:
    """Whether there is a scoring called so."""
    return bool(store.value("SELECT count(*) FROM scorings WHERE name = $name", {"name": name}))


def fidelity(store: attrstore.Store, name: str) -> tuple[float | None, float | None]:
    """Return overlap@10 and Spearman's correlation with the reference, as the view `agreement` has them.

    The view compares each scoring with each other, which takes long where all keep every example.
    """
    (found,) = store.rows(
        """
        WITH ranked AS (
            SELECT name, query_id, example_id, max(rank) AS place
            FROM scores JOIN scorings USING (scoring_id)
            WHERE name IN ($name, $exact) AND rank > 0
            GROUP BY ALL
        ),
        pairs AS (
            SELECT one.query_id, one.place AS a, other.place AS b
            FROM ranked AS one JOIN ranked AS other USING (query_id, example_id)
            WHERE one.name = $name AND other.name = $exact
        )
        SELECT avg(overlap), CASE WHEN min(n) = (SELECT count(*) FROM examples) THEN avg(correlation) END
        FROM (
            SELECT
                count(*) AS n, count(*) FILTER (a <= 10 AND b <= 10) / 10 AS overlap, corr(a, b) AS correlation
            FROM pairs GROUP BY query_id
        )
        """,
        {"name": name, "exact": EXACT},
    )
    return found


def sizes(store: attrstore.Store, encoder: str | None) -> tuple[float | None, float | None]:
    """Return the bytes of an example and of a query."""
    (found,) = store.rows(
        "SELECT (SELECT avg(octet_length(code) + octet_length(scales)) FROM encodings "
        "        JOIN encoders USING (encoder_id) WHERE name = $name), "
        "       (SELECT avg(octet_length(vector)) FROM query_encodings "
        "        JOIN encoders USING (encoder_id) WHERE name = $name)",
        {"name": encoder},
    )
    return found


def points(store: attrstore.Store, recipes: list[Recipe]) -> list[Point]:
    """Return each code by each method, as far as a picture of fidelity needs it."""
    shown = [(USUAL, USUAL, "cosine-block", USUAL)]
    shown += [(r.label, r.name, method, name) for r in recipes for method, name in r.scorings.items()]
    found = []
    for label, encoder, method, name in shown:
        overlap, correlation = fidelity(store, name)
        n_bytes, _ = sizes(store, encoder)
        found.append(Point(label, method, n_bytes, UNKNOWN, UNKNOWN, None, overlap, None, correlation))
    return found


Intervals = dict[tuple[str, str], tuple[float, float, float]]  # by scoring and metric: mean, low, high


def row(store: attrstore.Store, name: str, encoder: str | None, intervals: Intervals) -> str:
    """One line of the table."""
    cells = [name, *("" if part is None else f"{part:,.0f}" for part in sizes(store, encoder))]
    cells += ["" if name == EXACT or part is None else f"{part:.3f}" for part in fidelity(store, name)]
    for metric in METRICS:
        mean, low, high = intervals.get((name, metric), (None, None, None))
        digits = 5 if metric == "tail_patch_logprob" else 3
        cells.append(
            ""
            if mean is None
            else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("0.", ".")
        )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make the store and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--tail-patch", type=int, default=0, metavar="N")
    parser.add_argument("--top", type=int, default=200)
    parser.add_argument("--bergson-python", metavar="PEER_PYTHON")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    arguments = parser.parse_intermixed_args()
    recipes = [Recipe.read(text) for text in arguments.recipes]
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    with attrstore.open(arguments.workdir / "low_rank.duckdb", create=True) as store:
        prepare(store, arguments.data, arguments.queries)
        again = [recipe.again(arguments.top, curved=recipe is recipes[0]) for recipe in recipes]
        for recipe, candidates in zip(recipes, again, strict=True):
            measure(store, arguments.data, recipe, candidates, arguments.top)
        names: list[tuple[str, str | None]] = [(EXACT, None), (USUAL, USUAL)]
        for recipe, candidates in zip(recipes, again, strict=True):
            names += [(name, recipe.name) for name in recipe.scorings.values()]
            names += [(name, None) for name in candidates]
        if arguments.bergson_python:
            if arguments.queries:
                parser.error("--bergson-python ranks for all queries")
            folder = arguments.workdir / BERGSON
            peers_bytes, _ = run_bergson(store, arguments.data, folder, arguments.bergson_python)
            print(f"bergson: {peers_bytes:,.0f} bytes an example\n")
            names.append((BERGSON, None))
        if arguments.tail_patch:
            tail_patch(
                store, scorings=[name for name, _ in names], queries=arguments.tail_patch,
                model=arguments.data / "model", optimizer_state=arguments.data / "model" / "optimizer.pt",
            )  # fmt: skip
        print("| scoring | bytes | of a query | overlap@10 | Spearman | MRR | hit@10 | tail-patch |")
        print("|" + "---|" * 8)
        found = store.rows("SELECT name, metric, mean, low, high FROM report_intervals()")
        intervals = {(name, metric): (mean, low, high) for name, metric, mean, low, high in found}
        for name, encoder in names:
            print(row(store, name, encoder, intervals), flush=True)
        if arguments.picture:
            arguments.picture.write_text(draw(points(store, recipes), [], FIDELITY), encoding="utf-8")


if __name__ == "__main__":
    main()
