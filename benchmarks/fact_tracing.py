"""Who states the fact and who moves the model: from files to the fact-tracing table, with 95% intervals.

python benchmarks/fact_tracing.py DATA [--queries 300] [--workdir DIR] [--learning-rate 1e-6]

DATA has corpus.jsonl, queries.jsonl, labels.jsonl and model/ with optimizer.pt. Each method reads the encodings
that its paper describes; MRR and hit@10 are over all queries, tail-patch over the ten strongest proponents of
the first --queries. The store stays in --workdir, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrstore.ingest.corpus import ingest_corpus
from attrstore.ingest.gradients import ingest_gradients
from attrstore.ingest.labels import ingest_labels
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.queries import ingest_queries
from attrstore.ingest.representations import ingest_representations
from attrstore.ingest.tail_patch import tail_patch

import attrstore
from attrstore.scoring import score

if TYPE_CHECKING:
    from collections.abc import Iterator

# encoder: the options of its ingest
ENCODERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "optimizer": {"optimizer_state": "optimizer.pt"},
    "kronecker": {"kronecker_factors": True},
}
# scoring: its method and the encoder that it reads
SCORINGS: dict[str, tuple[str, str | None]] = {
    "dot": ("dot", "plain"),
    "cosine": ("cosine", "plain"),
    "trak": ("trak", "plain"),
    "trackstar": ("trackstar", "optimizer"),
    "trackstar-block": ("trackstar-block", "optimizer"),
    "trackstar-block, no state": ("trackstar-block", "plain"),
    "trackstar-block, kronecker": ("trackstar-block", "kronecker"),
    "repsim": ("repsim", None),
    "bm25": ("bm25", None),
}
METRICS = {"mrr": ("MRR", 3), "hit_at_10": ("hit@10", 3), "tail_patch_logprob": ("tail-patch", 5)}


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took."""
    start = time.perf_counter()
    yield
    print(f"  {time.perf_counter() - start:6.1f} s  {what}", flush=True)


def prepare(store: attrstore.Store, data: Path) -> None:
    """Ingest what is not ingested, score what is not scored."""
    with timed("files, lexical index"):
        ingest_corpus(store, [data / "corpus.jsonl"])
        ingest_queries(store, [data / "queries.jsonl"])
        ingest_labels(store, [data / "labels.jsonl"])
        ingest_lexical(store)
    model = data / "model"
    for name, recipe in ENCODERS.items():
        state = recipe.get("optimizer_state")
        given = {**recipe, "optimizer_state": model / state} if state else recipe
        with timed(f"gradients, {name}"):
            ingest_gradients(store, model=model, name=name, **given)
    with timed("representations"):
        ingest_representations(store, model=model)
    known = {name for (name,) in store.rows("SELECT name FROM scorings")}
    for name, (method, encoder) in SCORINGS.items():
        if name not in known:
            with timed(f"score {name}"):
                options: dict[str, Any] = {"encoder": encoder} if encoder else {}
                score(store, method, name=name, **options)


def table(store: attrstore.Store) -> None:
    """Print one row per method, each metric with its interval, and how many queries tail-patch is over."""
    found = {
        (name, metric): (mean, low, high)
        for name, metric, mean, low, high in store.rows(
            "SELECT name, metric, mean, low, high FROM report_intervals()"
        )
    }
    measured = dict(store.rows("SELECT name, count(tail_patch_logprob) FROM query_report GROUP BY name"))
    print(f"\n{'method':28}" + "".join(f"{title:>34}" for title, _ in METRICS.values()) + "    over")
    for name in SCORINGS:
        cells = ""
        for metric, (_, places) in METRICS.items():
            mean, low, high = found[name, metric]
            sign = "+" if places == 5 else ""
            cells += f"{f'{mean:{sign}.{places}f}  [{low:{sign}.{places}f}, {high:{sign}.{places}f}]':>34}"
        print(f"{name:28}{cells}  {measured[name]:6}")


def main() -> None:
    """Make or continue the store and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--workdir", type=Path, default=Path("fact-tracing"))
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    model: Path = arguments.data / "model"
    with attrstore.open(arguments.workdir / "store.duckdb", create=True) as store:
        prepare(store, arguments.data)
        with timed("tail-patch"):
            done = tail_patch(
                store, queries=arguments.queries, learning_rate=arguments.learning_rate, scorings=list(SCORINGS),
                optimizer_state=model / "optimizer.pt", model=model,
            )  # fmt: skip
        print(
            f"  {done.pairs:,} pairs measured in {done.examples:,} steps; skipped: {done.skipped or 'none'}"
        )
        table(store)


if __name__ == "__main__":
    main()
