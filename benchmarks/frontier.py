"""Bytes an example against MRR, tail-patch, overlap@10 and ingest time: a table, a picture, and three goals.

python -m benchmarks.frontier DATA [--workdir DIR] [--queries 300] [--bergson-python PYTHON] [--picture FILE]

DATA has corpus.jsonl, queries.jsonl, labels.jsonl and model/ with optimizer.pt. Each recipe is one gradient ingest
into the same store, ranked by each of its methods. Bytes are those of an example's code and of its blocks' norms; MRR
is over all queries, tail-patch over the ten strongest proponents of the first --queries, both with 95% bootstrap
intervals; overlap@10 is with the ranking of the same numbers in float16, where these are a recipe too. PYTHON, or
ATTRSTORE_BERGSON_PYTHON in the environment, is a Python that has bergson: its own TrackStar recipe is run and ranked in
the same store, by the same measures. The store stays in --workdir, so that the same command goes on where it was
stopped, and keeps the seconds of each ingest that was not: they are only worth reading from a machine that had nothing
else to do. Exits 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import attrstore
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.files.scores import import_scores
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.measure.tail_patch import tail_patch
from attrstore.scoring import score
from benchmarks.bergson_trackstar import read_scores
from benchmarks.frontier_picture import draw
from benchmarks.rows import Row, conclude

if TYPE_CHECKING:
    from collections.abc import Sequence

COSINE, TRACKSTAR, MIXED = "cosine-block", "trackstar-block", "trackstar-block, mixing .9"
BOTH, ALL_THREE = (COSINE, TRACKSTAR), (COSINE, TRACKSTAR, MIXED)
# The method of `attrstore score`, and its options. Chosen from the spectra, the mixing comes to about .6 here; in
# TrackStar's paper it is about .9 for T-REx, whose examples are sentences like these.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    COSINE: ("cosine-block", {}),
    TRACKSTAR: ("trackstar-block", {}),
    MIXED: ("trackstar-block", {"mixing": 0.9}),
}
BM25, BERGSON = "bm25", "bergson"
REFERENCE = "fp16"  # the code that the others' rankings are held against
# Which linear maps are encoded, as an expression for --modules.
PARTS = {
    "all": ".",  # with the token embedding and the output head
    "layers": None,
    "layers 0-4": r"layers\.[0-4]\.|embed|head",  # with both as well
    "layers 0-2": r"layers\.[0-2]\.|embed|head",
    "qk": r"[qk]_proj$",
}


@dataclass(frozen=True)
class Recipe:
    """One way to encode, always with the optimizer's state."""

    part: str  # a key of PARTS
    dim: int  # --projection-dim
    code: str
    methods: tuple[str, ...] = BOTH
    finalist: bool = False  # measured by `rows` too, which must not take as long as the whole table

    @property
    def name(self) -> str:
        """Of the encoder."""
        return f"{self.part} k{self.dim} {self.code}"


RECIPES = (
    Recipe("qk", 40, "halfbit", ALL_THREE),
    Recipe("layers 0-2", 30, "halfbit", finalist=True),
    Recipe("all", 16, "1bit"),
    Recipe("qk", 48, "halfbit", ALL_THREE),
    Recipe("layers 0-4", 32, "halfbit", finalist=True),
    Recipe("all", 22, "1bit"),
    Recipe("layers", 32, "halfbit", ALL_THREE),  # the default
    Recipe("all", 32, "halfbit"),
    Recipe("qk", 48, "1bit", ALL_THREE),
    Recipe("all", 32, "1bit"),
    # Its curvature would take 37 matrices of 4096 x 4096.
    Recipe("layers 0-4", 64, "halfbit", (COSINE,), finalist=True),
    Recipe("all", 16, "int8"),
    Recipe("all", 32, "2bit"),
    Recipe("all", 16, REFERENCE),
    Recipe("qk", 40, REFERENCE),
    Recipe("layers 0-2", 30, REFERENCE),
    Recipe("all", 32, REFERENCE),
)


@dataclass(frozen=True)
class Goal:
    """At most so many bytes an example, and at least this quality by one method."""

    most_bytes: int
    mrr: float
    tail_patch: float | None = None

    def __str__(self) -> str:
        """As in the table."""
        text = f"at most {self.most_bytes:,} B an example, MRR at least {number(self.mrr, 2)}"
        return text if self.tail_patch is None else f"{text}, tail-patch at least {signed(self.tail_patch)}"


GOALS = (Goal(1_350, 0.29), Goal(2_700, 0.39, 0.0025), Goal(10_800, 0.50))


class Interval(NamedTuple):
    """A mean over queries, and the central 95% of its resamples."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """What one recipe gave by one method; None is what was not measured."""

    recipe: str
    method: str
    n_bytes: float | None
    mrr: Interval
    hit_at_10: Interval
    tail_patch: Interval | None
    overlap: float | None  # at ten
    seconds: float | None  # of the ingest; of its whole recipe for bergson
    correlation: float | None = None  # over all examples


def number(value: float, places: int = 3) -> str:
    """Without the zero before the point."""
    return f"{value:.{places}f}".replace("0.", ".", 1)


def signed(value: float) -> str:
    """A change of log-probability, in nats, with its sign."""
    return f"{value:+.5f}".replace("0.", ".", 1).replace("-", "−")


def scoring(recipe: Recipe, method: str) -> str:
    """Name the recipe's ranking by the method."""
    return f"{recipe.name} {method}"


def seconds(store: attrstore.Store, encoder: str) -> float | None:
    """Seconds of the ingest, if one run wrote every row of the encoder."""
    found: float | None = store.value(
        "SELECT max(epoch(finished - started)) FROM runs JOIN encoders ON parameters ->> 'encoder' = encoder_id "
        "WHERE job = 'ingest gradients' AND name = $name AND state = 'finished' "
        "AND runs.rows = (SELECT count(*) FROM examples) + (SELECT count(*) FROM queries)",
        {"name": encoder},
    )
    return found


def say(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def rank(store: attrstore.Store, data: Path, recipes: Sequence[Recipe]) -> None:
    """Ingest the files, encode by each recipe and rank by its methods, as far as it is not done yet."""
    ingest_corpus(store, [data / "corpus.jsonl"])
    ingest_queries(store, [data / "queries.jsonl"])
    ingest_labels(store, [data / "labels.jsonl"])
    ingest_lexical(store)
    known = {name for (name,) in store.rows("SELECT name FROM scorings")}
    if BM25 not in known:
        score(store, BM25)
    for recipe in recipes:
        if seconds(store, recipe.name) is None:
            ingest_gradients(
                store, model=data / "model", optimizer_state=data / "model" / "optimizer.pt", name=recipe.name,
                modules=PARTS[recipe.part], projection_dim=recipe.dim, code=recipe.code,
            )  # fmt: skip
            say(f"{recipe.name}: ingest {seconds(store, recipe.name) or float('nan'):.1f} s")
        for method in recipe.methods:
            if scoring(recipe, method) not in known:
                applied, given = METHODS[method]
                score(store, applied, name=scoring(recipe, method), encoder=recipe.name, **given)
                say(f"{scoring(recipe, method)}: scored")


def run_bergson(store: attrstore.Store, data: Path, folder: Path, python: str) -> tuple[float, float | None]:
    """Rank by bergson's own recipe; return its bytes an example, and its seconds where it printed them."""
    printed, run = folder / "printed.txt", folder / "bergson_run"
    if not printed.exists():
        script = Path(__file__).with_name("bergson_trackstar.py")
        words = [python, str(script), str(data), "--workdir", str(folder)]
        ran = subprocess.run(words, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(
                f"{script.name} ended with {ran.returncode}: {(ran.stderr or ran.stdout).strip()[-300:]}"
            )
        printed.write_text(ran.stdout, encoding="utf-8")
    matrix = folder / "scores.npy"
    np.save(matrix, read_scores(run / "scores").T)
    import_scores(store, matrix, name=BERGSON, method=BERGSON)
    # Its recipe scores examples without keeping them; its index would keep each as it keeps a query.
    n_queries: int = store.value("SELECT count(*) FROM queries")
    n_bytes = (run / "query" / "gradients.bin").stat().st_size / n_queries
    total = re.search(r"^total\s+([\d.]+)", printed.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return n_bytes, float(total[1]) if total else None


def overlap(store: attrstore.Store, one: str, other: str) -> float | None:
    """Mean over queries of the share of the ten strongest that two scorings have in common."""
    shared: float | None = store.value(
        "WITH first AS (SELECT name, query_id, example_id FROM scores JOIN scorings USING (scoring_id) "
        "WHERE rank BETWEEN 1 AND 10) "
        "SELECT (SELECT count(*) FROM first a JOIN first b USING (query_id, example_id) "
        "WHERE a.name = $one AND b.name = $other) / nullif((SELECT count(*) FROM first WHERE name = $other), 0)",
        {"one": one, "other": other},
    )
    return shared


def collect(
    store: attrstore.Store, recipes: Sequence[Recipe], peer: tuple[float, float | None] | None
) -> list[Point]:
    """Read every point from the store, and the peers'."""
    found: dict[tuple[str, str], Interval] = {
        (name, metric): Interval(mean, low, high)
        for name, metric, mean, low, high in store.rows(
            "SELECT name, metric, mean, low, high FROM report_intervals()"
        )
        if mean is not None
    }
    sizes: dict[str, float] = dict(
        store.rows(
            "SELECT name, avg(octet_length(code) + octet_length(scales)) "
            "FROM encodings JOIN encoders USING (encoder_id) GROUP BY name"
        )
    )

    def of(name: str) -> tuple[Interval, Interval, Interval | None]:
        return found[name, "mrr"], found[name, "hit_at_10"], found.get((name, "tail_patch_logprob"))

    points = []
    for recipe in recipes:
        for method in recipe.methods:
            name = scoring(recipe, method)
            shared = overlap(store, name, scoring(Recipe(recipe.part, recipe.dim, REFERENCE), method))
            took = seconds(store, recipe.name)
            mrr, hit, patch = of(name)
            if recipe.code == REFERENCE:
                patch = None  # of its proponents only those were measured that others have too
            points.append(Point(recipe.name, method, sizes[recipe.name], mrr, hit, patch, shared, took))
    if peer is not None:
        points.append(Point(BERGSON, "trackstar", peer[0], *of(BERGSON), None, peer[1]))
    points.append(Point(BM25, BM25, None, *of(BM25), None, None))
    return points


def measure(
    data: Path, workdir: Path, recipes: Sequence[Recipe], queries: int, python: str | None
) -> list[Point]:
    """Make or go on with the store in `workdir`, and return its points."""
    workdir.mkdir(parents=True, exist_ok=True)
    with attrstore.open(workdir / "store.duckdb", create=True) as store:
        rank(store, data, recipes)
        peer = run_bergson(store, data, workdir / BERGSON, python) if python else None
        names = [scoring(recipe, m) for recipe in recipes if recipe.code != REFERENCE for m in recipe.methods]
        names += [BM25, *([BERGSON] if peer else [])]
        say("tail-patch ...")
        tail_patch(
            store, scorings=names, queries=queries, model=data / "model",
            optimizer_state=data / "model" / "optimizer.pt",
        )  # fmt: skip
        return collect(store, recipes, peer)


def reaches(point: Point, goal: Goal) -> bool:
    """Whether one point meets every condition of the goal."""
    if point.n_bytes is None or point.n_bytes > goal.most_bytes or point.mrr.mean < goal.mrr:
        return False
    if goal.tail_patch is None:
        return True
    return point.tail_patch is not None and point.tail_patch.mean >= goal.tail_patch


def judge(points: Sequence[Point], goal: Goal) -> Row:
    """Hold a point that is small enough against the goal.

    Of those that reach it, the one that moves the model most; if none does, the one that finds most.
    """
    peer = next((p for p in points if p.recipe == BERGSON), None)
    small = [p for p in points if p is not peer and p.n_bytes is not None and p.n_bytes <= goal.most_bytes]
    beside = "not installed: ATTRSTORE_BERGSON_PYTHON names no Python with bergson"
    if peer is not None and peer.n_bytes is not None:
        beside = f"bergson, {peer.n_bytes:,.0f} B, {quality(peer)}"
    if not small:
        return Row(str(goal), "no recipe is as small", beside, None, False)
    reached = [p for p in small if reaches(p, goal)]
    best = max(
        reached or small,
        key=lambda p: (p.tail_patch.mean if reached and p.tail_patch else float("-inf"), p.mrr.mean),
    )
    assert best.n_bytes is not None  # else it would not be small
    ratio = best.n_bytes / peer.n_bytes if peer is not None and peer.n_bytes is not None else None
    measured = f"{best.n_bytes:,.0f} B, {quality(best)} ({best.recipe}, {best.method})"
    return Row(str(goal), measured, beside, ratio, bool(reached))


def quality(point: Point) -> str:
    """MRR and tail-patch."""
    text = f"MRR {number(point.mrr.mean)}"
    return text if point.tail_patch is None else f"{text}, tail-patch {signed(point.tail_patch.mean)}"


def print_points(points: Sequence[Point]) -> None:
    """Print the whole table, by bytes."""
    print("| recipe | method | bytes | MRR | hit@10 | tail-patch | overlap@10 | ingest |")
    print("|---|---|---|---|---|---|---|---|")
    for p in sorted(points, key=lambda p: p.n_bytes or float("inf")):
        patch = ""
        if p.tail_patch is not None:
            mean, low, high = (signed(v) for v in p.tail_patch)
            patch = f"{mean} [{low}, {high}]"
        cells = [
            p.recipe, p.method, "" if p.n_bytes is None else f"{p.n_bytes:,.0f}",
            f"{number(p.mrr.mean)} [{number(p.mrr.low)}, {number(p.mrr.high)}]", number(p.hit_at_10.mean), patch,
            "" if p.overlap is None else number(p.overlap, 2), "" if p.seconds is None else f"{p.seconds:.0f} s",
        ]  # fmt: skip
        print("|", " | ".join(cells), "|")


def whole_file(data: Path, store: Path, encoder: str) -> float:
    """Bytes an example of a file of its own with text, lexical index and the encoder's codes."""
    with tempfile.TemporaryDirectory(dir=store.parent) as folder:
        path = Path(folder) / "alone.duckdb"
        with attrstore.open(path, create=True) as alone:
            ingest_corpus(alone, [data / "corpus.jsonl"])
            ingest_lexical(alone)
            alone.execute(f"ATTACH '{store}' AS measured (READ_ONLY)")
            alone.execute(
                "INSERT INTO encodings SELECT e.* FROM measured.encodings e "
                "JOIN measured.encoders USING (encoder_id) WHERE name = $name ORDER BY example_id",
                {"name": encoder},
            )
            alone.execute("DETACH measured")
            n_examples: int = alone.value("SELECT count(*) FROM examples")
        return path.stat().st_size / n_examples


def peers_python(given: str | None) -> str | None:
    """Return the Python that has bergson, if one is named."""
    return given or os.environ.get("ATTRSTORE_BERGSON_PYTHON") or None


def rows(data: Path, queries: int = 300, bergson_python: str | None = None) -> list[Row]:
    """Measure the finalists alone, and return one row for each goal."""
    finalists = [recipe for recipe in RECIPES if recipe.finalist]
    with tempfile.TemporaryDirectory() as folder:
        points = measure(data, Path(folder), finalists, queries, peers_python(bergson_python))
    return [judge(points, goal) for goal in GOALS]


def main() -> None:
    """Print the table and the goals, and draw the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--workdir", type=Path, default=Path("frontier"))
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--bergson-python", metavar="PYTHON")
    parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".svg"))
    options = parser.parse_args()
    python = peers_python(options.bergson_python)
    points = measure(options.data, options.workdir, RECIPES, options.queries, python)
    print_points(points)
    if python is None:
        print("\nbergson is left out: ATTRSTORE_BERGSON_PYTHON names no Python with it.")
    for name in ("layers k32 halfbit", "layers 0-2 k30 halfbit"):
        whole = whole_file(options.data, options.workdir / "store.duckdb", name)
        print(f"\nthe whole file with text, lexical index and {name}: {whole:,.0f} B an example")
    print()
    options.picture.write_text(draw(points, GOALS), encoding="utf-8")
    conclude([judge(points, goal) for goal in GOALS])


if __name__ == "__main__":
    main()
