"""Time and memory of ingest, scan, BM25 and report at 1x, 4x and 16x the data: each linear or better.

python -m benchmarks.cost_curves [--scale 1] [--rounds 3] [--threads 1] [--folder DIR]

Every run is a process of its own that does the job on a tenth of the smallest size first, so that nothing is
loaded for the first time while it is timed, and then once on its size. An exponent is the slope of log time over
log size by least squares: 1 is linear. The goal is 1.05 and the noise, which is half the range of the rounds'
exponents. Memory is by how much the run raised the process's peak. The data are synthetic and seeded, the model
is a small Llama that was not trained, the scan is that of `score cosine` for 100 queries. Exits 1 when a goal is
missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import attrstore
from attrstore.evaluation.report import tabulate
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.scoring import score
from benchmarks import bm25_speed, scan_speed, synthetic
from benchmarks.rows import Row, conclude

SIZES = (1, 4, 16)
WARM_UP = 0.1  # of the smallest size
MOST = 1.05  # the goal, before the noise
LEAST_MEMORY = 1e6  # bytes; what grew by less did not grow
SCAN_QUERIES = 100


@dataclass(frozen=True)
class Job:
    """What is timed, on a store that was filled before."""

    name: str
    size: int  # at 1x
    unit: str
    fill: Callable[[Path, int], None]  # makes a store of that size
    run: Callable[[attrstore.Store], object]


@dataclass(frozen=True)
class Cost:
    """Of one run."""

    seconds: float
    memory: float  # bytes above what the process held before


def fill_texts(path: Path, n: int) -> None:
    """Write texts that the small model reads, and the model beside the store."""
    synthetic.save_model(path.with_suffix(".model"))
    with attrstore.open(path, create=True) as store:
        bm25_speed.put(store, bm25_speed.INSERT_TEXTS, synthetic.texts(n))


def fill_codes(path: Path, n: int) -> None:
    """Write random codes of half a bit, the default, and the vectors of the queries."""
    scan_speed.build(path, n, "halfbit")
    with attrstore.open(path, writable=True) as store:
        store.execute("DELETE FROM query_encodings WHERE query_id >= $n", {"n": SCAN_QUERIES})


def fill_passages(path: Path, n: int) -> None:
    """Write Zipfian passages, and queries."""
    asked = np.random.default_rng(2).integers(4, 13, bm25_speed.QUERIES)
    with attrstore.open(path, create=True) as store:
        bm25_speed.put(store, bm25_speed.INSERT_TEXTS, bm25_speed.corpus(n))
        bm25_speed.put(store, bm25_speed.INSERT_QUERIES, bm25_speed.zipfian(asked, seed=3))


def fill_indexed(path: Path, n: int) -> None:
    """Write the same with its index."""
    fill_passages(path, n)
    with attrstore.open(path, writable=True) as store:
        ingest_lexical(store)


def fill_scores(path: Path, n: int) -> None:
    """Write examples, as many queries, and two scorings of them."""
    with attrstore.open(path, create=True) as store:
        synthetic.put_scorings(store, n, n)


def ingest(store: attrstore.Store) -> object:
    """Encode the gradients of every text."""
    return ingest_gradients(store, model=store.path.with_suffix(".model"))


JOBS = {
    "ingest": Job("gradient ingest", 1_000, "examples", fill_texts, ingest),
    "scan": Job("scan", 20_000, "codes", fill_codes, lambda store: score(store, "cosine")),
    "index": Job("BM25 index", 15_000, "passages", fill_passages, ingest_lexical),
    "search": Job("BM25 search", 15_000, "passages", fill_indexed, bm25_speed.scores_of),
    "report": Job("report", 10_000, "queries", fill_scores, tabulate),
}


def in_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of this module in a process of its own and return what it returns."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_reply, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"{function.__name__}{arguments} ended with {process.exitcode}; see above"
        ) from None
    finally:
        process.join()


def _reply(sender: Any, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    sender.send(function(*arguments))


def fill(key: str, path: Path, n: int) -> None:
    """Make the store of a job."""
    JOBS[key].fill(path, n)


def cost(key: str, warm_up: Path, path: Path, threads: int) -> Cost:
    """Run a job on the warm-up's store, and then measure it on the store at `path`."""
    torch.set_num_threads(threads)
    for store_path in (warm_up, path):
        with attrstore.open(store_path, writable=True) as store:
            store.execute("SET threads = $n", {"n": threads})
            store.execute("SET enable_progress_bar = false")
            before, start = peak(), time.perf_counter()
            JOBS[key].run(store)
            seconds = time.perf_counter() - start
    return Cost(seconds, peak() - before)


def peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def copied(source: Path, name: str) -> Path:
    """Copy a store, so that every run finds it as it was filled."""
    target = source.with_name(f"{name}.duckdb")
    shutil.copyfile(source, target)
    model = source.with_suffix(".model")
    if model.exists():
        shutil.copytree(model, target.with_suffix(".model"), dirs_exist_ok=True)
    return target


def measure(key: str, folder: Path, scale: float, rounds: int, threads: int) -> list[list[Cost]]:
    """Return the cost at each size, of each round; the sizes in turn."""
    sizes = [WARM_UP, *SIZES]
    stores = [folder / f"{key}{size}.duckdb" for size in sizes]
    for store, size in zip(stores, sizes, strict=True):
        in_process(fill, key, store, max(10, round(JOBS[key].size * scale * size)))
    found: list[list[Cost]] = []
    for _ in range(rounds):
        found.append([])
        for store in stores[1:]:
            paths = copied(stores[0], "warm-up"), copied(store, "measured")
            found[-1].append(in_process(cost, key, *paths, threads))
        times = ", ".join(f"{c.seconds:.2f} s {c.memory / 1e6:.0f} MB" for c in found[-1])
        print(f"{key}: {times}", file=sys.stderr, flush=True)
    return found


def exponent(values: Sequence[float]) -> float:
    """Return the slope of the values' logarithms over those of the sizes."""
    return float(np.polyfit(np.log(SIZES), np.log(values), 1)[0])


def row(job: Job, scale: float, measured: list[list[Cost]]) -> Row:
    """Hold the exponents of time and memory against the goal."""
    slopes = [exponent([c.seconds for c in costs]) for costs in measured]
    noise = (max(slopes) - min(slopes)) / 2
    by_size = list(zip(*measured, strict=True))
    seconds = [statistics.median(c.seconds for c in costs) for costs in by_size]
    memory = [statistics.median(max(c.memory, LEAST_MEMORY) for c in costs) for costs in by_size]
    of_time, of_memory, bound = statistics.median(slopes), exponent(memory), MOST + noise
    ratio = max(of_time, of_memory)
    sizes = ", ".join(f"{round(job.size * scale * size):,}" for size in SIZES)
    times = ", ".join(f"{value:.2f}" for value in seconds)
    sizes_held = ", ".join(f"{value / 1e6:.0f}" for value in memory)
    return Row(
        f"{job.name}: linear or better at {sizes} {job.unit}",
        f"time ^{of_time:.2f} ({times} s), memory ^{of_memory:.2f} (+{sizes_held} MB)",
        f"^{MOST} + noise {noise:.2f}",
        ratio,
        ratio <= bound,
        bound,
    )


def rows(scale: float = 1.0, rounds: int = 3, threads: int = 1, folder: Path | None = None) -> list[Row]:
    """Measure each job and return its row."""
    found = []
    for key, job in JOBS.items():
        with tempfile.TemporaryDirectory(dir=folder) as made:
            found.append(row(job, scale, measure(key, Path(made), scale, rounds, threads)))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="times every size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch and DuckDB")
    parser.add_argument("--folder", type=Path, help="where the stores are made")
    conclude(rows(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
