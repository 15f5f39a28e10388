"""Who states the fact and who moves the model: the fact-tracing table of every method, from files to intervals.

python benchmarks/fact_tracing.py DATA [--queries 300] [--mirrored 0] [--workdir DIR]

DATA has corpus.jsonl, queries.jsonl, labels.jsonl and model/ with optimizer.pt, as the folder of `attrstore demo`
does; further checkpoints of the run, DATA/checkpoint-*, are what tracincp needs. MRR and hit@10 are over all queries,
tail-patch over the ten strongest proponents of the first --queries. The store stays in --workdir, and the same command
goes on where it was stopped. Exits 1 unless BM25 finds most and trackstar moves more than BM25, intervals apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrstore
from attrstore.cli.trace import print_trace
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.representations import ingest_representations
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.lexical import ingest_lexical
from attrstore.workflows.trace import Trace, trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took."""
    start = time.perf_counter()
    yield
    print(f"  {time.perf_counter() - start:6.1f} s  {what}", flush=True)


def prepare(store: attrstore.Store, data: Path) -> None:
    """Ingest what is not ingested; the gradients of `model` come last, so that it is the model explained."""
    with timed("files, lexical index"):
        ingest_corpus(store, [data / "corpus.jsonl"])
        ingest_queries(store, [data / "queries.jsonl"])
        ingest_labels(store, [data / "labels.jsonl"])
        ingest_lexical(store)
    model = data / "model"
    with timed("representations"):
        ingest_representations(store, model=model)
    checkpoints = sorted(data.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    for name, folder in [*((path.name, path) for path in checkpoints), ("plain", model)]:
        with timed(f"gradients, {name}"):
            ingest_gradients(store, model=folder, optimizer_state="none", name=name)
    with timed("gradients, optimizer"):
        ingest_gradients(store, model=model, optimizer_state=model / "optimizer.pt", name="optimizer")


def stopwatch() -> Callable[[str, int, int], None]:
    """Return what `trace` tells its progress to: prints each part's time when its last piece is done."""
    began: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        start = began.setdefault(what, time.perf_counter())
        if done == total:
            print(f"  {time.perf_counter() - start:6.1f} s  {what}, from its first piece", flush=True)

    return progress


def reached(traced: Trace) -> bool:
    """Print who finds most and who moves most; whether BM25 and TrackStar, as published, part as they should."""
    rows = {row["name"]: row for row in traced.table.records()}
    bm25, trackstar = rows["bm25"], rows["trackstar"]
    finds = max(rows.values(), key=lambda row: row["mrr"])
    # mirrored is over a few queries only, and does not compare.
    moves = max(
        (row for row in rows.values() if row["name"] != "mirrored"), key=lambda row: row["tail_patch_logprob"]
    )
    print(f"highest MRR: {finds['name']}; highest tail-patch: {moves['name']}")
    if moves is not trackstar:
        apart = moves["tail_patch_logprob_low"] > trackstar["tail_patch_logprob_high"]
        print(f"  above trackstar as published, intervals {'apart' if apart else 'overlapping'}")
    goals: dict[str, Any] = {
        "BM25 has the highest MRR": finds is bm25,
        "trackstar's tail-patch is above BM25's, intervals apart": (
            trackstar["tail_patch_logprob_low"] > bm25["tail_patch_logprob_high"]
        ),
    }
    for goal, met in goals.items():
        print(f"  {'reached' if met else 'MISSED '}  {goal}")
    return all(goals.values())


def main() -> None:
    """Make or continue the store and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--mirrored", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("fact-tracing"))
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    with attrstore.open(arguments.workdir / "store.duckdb", create=True) as store:
        prepare(store, arguments.data)
        with timed("scoring and tail-patch"):
            traced = trace(
                store, queries=arguments.queries, mirrored=arguments.mirrored, model=arguments.data / "model",
                progress=stopwatch(),
            )  # fmt: skip
    print_trace(traced.table)
    for name, need in traced.left_out.items():
        print(f"left out: {name}: {need}")
    sys.exit(not reached(traced))


if __name__ == "__main__":
    main()
