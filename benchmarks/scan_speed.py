"""Time the scan of codes on disk against FAISS, torch and numpy on float32 rows, and against DuckDB alone.

python -m benchmarks.scan_speed [--rows 24000] [--code halfbit] [--rounds 3] [--threads 1] [--folder DIR]
python -m benchmarks.scan_speed --memory [--rows 1000000] [--code halfbit]

The codes are synthetic, seeded: 10,752 dimensions in blocks of 1,024, as ingest makes them by default, and a last
one of 512. attrstore ranks them from a DuckDB file for 1, 32 and 700 queries, top 100; what the blocks weigh is in
the store from a first scan, as it is for whoever asks twice, and `trackstar-block` is timed without it too.
Preparing the queries, which does not grow with the examples, is not timed. FAISS (pip install faiss-cpu) and torch
hold the decoded rows in memory as float32, numpy maps them from a file. The OpenBLAS in FAISS does not know every
processor; where there is AVX-512, FAISS is timed with OPENBLAS_CORETYPE=SkylakeX too, in a process of its own. All
in turn, `rounds` times; medians, and the spread. Examples are counted by the second and by the processor second, which
counts the thread that reads, and hardly the other work of a machine: ratios and goals are of these. DuckDB's own scan
is SELECT bit_xor(hash(code)) FROM encodings, which reads every byte and keeps none. `--memory` scans for 100 queries in
a process of its own and reports its peak. Exits 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow
import torch

import attrstore
from attrstore.methods import Request, linear_map
from attrstore.methods.gradient import PARTS
from attrstore.scoring import selected
from attrstore.vectors import codes, encoders, scan, stored
from benchmarks.rows import Row, conclude

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from attrstore.methods.parts import Parts

BLOCKS = encoders.make_blocks([(f"m{i}", 1024) for i in range(10)] + [("last", 512)])
DIMENSIONS = 10 * 1024 + 512
QUERIES = (1, 32, 700)
TIMES_FAISS = {1: 2.0, 32: 1.0, 700: 2.0}  # the goals
SHARE_OF_SCAN = 0.6
TIMES_LATER = 3.0  # that a first scan under a new curvature may take
MEMORY, MEMORY_QUERIES = 2e9, 100
FLAT = "FAISS IndexFlatIP"
KERNELS = {"OPENBLAS_CORETYPE": "SkylakeX"}  # of OpenBLAS, chosen when it is loaded
FLAT_AVX512 = f"{FLAT}, SkylakeX"
COSINE, BLOCK = "cosine", "trackstar-block"


class Rate(NamedTuple):
    """Examples of one round."""

    a_second: float
    a_processor_second: float


Rates = dict[str, list[Rate]]


def blobs(matrix: np.ndarray[Any, Any]) -> pyarrow.Array:
    """View each row as a blob."""
    offsets = np.arange(len(matrix) + 1, dtype=np.int64) * matrix.shape[1]
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(np.ascontiguousarray(matrix))]
    return pyarrow.LargeBinaryArray.from_buffers(pyarrow.large_binary(), len(matrix), buffers)


def build(path: Path, rows: int, code: str) -> None:
    """Make a store of random codes, and of the queries."""
    draw = np.random.default_rng(0)
    encoder = encoders.Encoder("gradient", "synthetic", "none", {"code": code}, BLOCKS)
    width = codes.CODES[code].n_bytes(DIMENSIONS)
    with attrstore.open(path, create=True) as store:
        store.execute("SET enable_progress_bar = false")
        encoders.save(store, encoder)
        store.execute(
            "INSERT INTO examples SELECT i, i::VARCHAR, '', NULL, NULL, 0 FROM range($n) t(i)", {"n": rows}
        )
        for start in range(0, rows, 10_000):
            n = min(10_000, rows - start)
            if codes.CODES[code].bits < 8:
                quantised = draw.integers(0, 256, (n, width), dtype=np.uint8)
            else:
                normal = torch.from_numpy(draw.standard_normal((n, DIMENSIONS), dtype=np.float32))
                quantised = codes.encode(normal, BLOCKS, codes.CODES[code])[0].numpy()
            norms = (
                torch.from_numpy(draw.lognormal(0, 1, (n, len(BLOCKS)))).bfloat16().view(torch.uint8).numpy()
            )
            made = {"i": np.arange(start, start + n), "code": blobs(quantised), "scales": blobs(norms)}
            with store.transaction(), store.registered(made=pyarrow.table(made)):
                store.execute(
                    "INSERT INTO encodings SELECT $e, i, code, scales, 1, 1, 'ok' FROM made",
                    {"e": encoder.encoder_id},
                )
        asked = draw.standard_normal((max(QUERIES), DIMENSIONS), dtype=np.float32)
        made = {"i": np.arange(len(asked)), "vector": blobs(asked.view(np.uint8))}
        with store.transaction(), store.registered(made=pyarrow.table(made)):
            store.execute(
                "INSERT INTO query_encodings SELECT $e, i, vector, 1, 1, 'ok' FROM made",
                {"e": encoder.encoder_id},
            )


def ranker(store: attrstore.Store, recipe: Parts, n: int) -> Callable[[], object]:
    """Prepare n queries and return what ranks all examples for them."""
    encoder = encoders.choose(store, "gradient")
    ids, asked = stored.query_vectors(store, encoder)
    score, _ = linear_map.scorer(store, encoder, recipe, asked[:n])

    def scored(statement: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for chunk in scan.chunks(store, encoder, statement):
            yield chunk.example_ids, score(chunk)

    return lambda: linear_map.rank_scored(store, ids[:n], scored, Request(100), asked.device)


def decoded(store: attrstore.Store, path: Path) -> np.ndarray[Any, Any]:
    """Write the rows as float32 to a file and map it."""
    encoder = encoders.choose(store, "gradient")
    n = store.value("SELECT count(*) FROM encodings")
    rows = np.memmap(path, np.float32, "w+", shape=(n, DIMENSIONS))
    done = 0
    for chunk in scan.chunks(store, encoder):
        part, _ = codes.decode(chunk.code, chunk.scales, BLOCKS, codes.CODES[encoder.code])
        rows[done : done + len(part)] = part.numpy()
        done += len(part)
    rows.flush()
    return rows


def peers(
    rows: np.ndarray[Any, Any], asked: np.ndarray[Any, Any], threads: int
) -> dict[str, Callable[[int], object]]:
    """Return what searches the rows for n queries, by name; FAISS only where it is installed."""
    held = torch.from_numpy(np.array(rows))
    found: dict[str, Callable[[int], object]] = {
        "torch, in memory": lambda n: (torch.from_numpy(asked[:n]) @ held.T).topk(100, dim=1),
        "numpy, memory map": lambda n: np.argpartition(asked[:n] @ rows.T, -100, axis=1),
    }
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError:
        return found
    faiss.omp_set_num_threads(threads)
    flat = faiss.IndexFlatIP(DIMENSIONS)
    flat.add(held.numpy())
    found[FLAT] = lambda n: flat.search(asked[:n], 100)
    quantised = faiss.IndexScalarQuantizer(
        DIMENSIONS, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    quantised.train(held[:5000].numpy())
    quantised.add(held.numpy())
    # Its products are not blocked: 700 queries would take minutes.
    found["FAISS IndexScalarQuantizer"] = lambda n: quantised.search(asked[: min(n, 32)], 100)
    return found


@contextmanager
def faiss_with_avx512(rows: Path, asked: np.ndarray[Any, Any], threads: int) -> Iterator[dict[str, Any]]:
    """Search the rows of a file in a process whose OpenBLAS uses AVX-512; nothing where there is none."""
    if importlib.util.find_spec("faiss") is None or torch.backends.cpu.get_cpu_capability() != "AVX512":
        yield {}
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs, rows, asked, threads), daemon=True)
    with patch.dict(os.environ, KERNELS):
        process.start()
    theirs.close()  # so that the pipe ends with the process
    ours.recv()

    def search(n: int) -> float:
        ours.send(n)
        return float(ours.recv())

    yield {FLAT_AVX512: search}
    ours.send(0)
    process.join()


def answer(pipe: Connection, rows: Path, asked: np.ndarray[Any, Any], threads: int) -> None:
    """Search for as many queries as the pipe says, until it says none; reply with the processor seconds of each."""
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(threads)
    flat = faiss.IndexFlatIP(DIMENSIONS)
    flat.add(np.fromfile(rows, np.float32).reshape(-1, DIMENSIONS))
    pipe.send(None)
    while n := pipe.recv():
        before = time.process_time()
        flat.search(asked[:n], 100)
        pipe.send(time.process_time() - before)


def measure(folder: Path, rows: int, code: str, rounds: int, threads: int) -> Rates:
    """Time everything in turn."""
    rates: Rates = {}

    def timed(name: str, action: Callable[[], object]) -> None:
        start, spent = time.perf_counter(), time.process_time()
        elsewhere = action()  # processor seconds of another process, if that does the work
        spent = elsewhere if isinstance(elsewhere, float) else time.process_time() - spent
        rates.setdefault(name, []).append(Rate(rows / (time.perf_counter() - start), rows / spent))

    build(folder / "s.duckdb", rows, code)
    with attrstore.open(folder / "s.duckdb", writable=True) as store, selected(store, None):
        store.execute("SET threads = $n", {"n": threads})
        _, vectors_asked = stored.query_vectors(store, encoders.choose(store, "gradient"))
        asked = vectors_asked.numpy()
        others = peers(decoded(store, folder / "rows.f32"), asked, threads)
        own = {f"{name} {n}": ranker(store, PARTS[name], n) for n in QUERIES for name in (COSINE, BLOCK)}
        for name in (COSINE, BLOCK):
            own[f"{name} 1"]()  # keeps the weights
        with faiss_with_avx512(folder / "rows.f32", asked, threads) as more:
            for _ in range(rounds):
                one_round(store, timed, own, others | more)
    return rates


def one_round(
    store: attrstore.Store,
    timed: Callable[..., None],
    own: dict[str, Callable[[], object]],
    others: dict[str, Callable[[int], object]],
) -> None:
    """Time everything once."""
    timed("DuckDB", lambda: store.value("SELECT bit_xor(hash(code)) FROM encodings"))
    for n in QUERIES:
        for name in (COSINE, BLOCK):
            timed(f"{name} {n}", own[f"{name} {n}"])
        for name, search in others.items():
            if not (name.endswith("Quantizer") and n > 32):
                timed(f"{name} {n}", lambda search=search, n=n: search(n))
    store.execute("DELETE FROM block_weights WHERE norm = 'block'")  # as before a first scan
    timed(f"{BLOCK}, first time {QUERIES[-1]}", own[f"{BLOCK} {QUERIES[-1]}"])


def peak(path: Path, threads: int, reply: Any) -> None:
    """Rank for some queries and reply with the peak of this process's memory, in bytes, and the seconds."""
    torch.set_num_threads(threads)
    with attrstore.open(path) as store, selected(store, None):
        store.execute("SET threads = $n", {"n": threads})
        start = time.perf_counter()
        ranker(store, PARTS[COSINE], MEMORY_QUERIES)()
        seconds = time.perf_counter() - start
    reply.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds))


def memory(folder: Path, rows: int, code: str, threads: int) -> Row:
    """Scan a large store in a process of its own."""
    path = folder / "large.duckdb"
    context = multiprocessing.get_context("spawn")
    # In a process of its own too: a child's peak counts what its parent held when it was started.
    builder = context.Process(target=build, args=(path, rows, code))
    builder.start()
    builder.join()
    reply = context.Queue()
    process = context.Process(target=peak, args=(path, threads, reply))
    process.start()
    used, seconds = reply.get()
    process.join()
    return Row(
        f"{rows:,} examples x {DIMENSIONS:,}, {code}, {MEMORY_QUERIES} queries: memory",
        f"{used / 1e9:.2f} GB, {rows / seconds:,.0f} examples/s",
        f"{MEMORY / 1e9:.0f} GB",
        used / MEMORY,
        used < MEMORY,
    )


def text(rates: list[Rate]) -> str:
    """Medians, and the spread of the first."""
    every = [rate.a_second for rate in rates]
    return (
        f"{statistics.median(every):,.0f}/s ({min(every):,.0f}-{max(every):,.0f}), "
        f"{typical(rates):,.0f} a processor second"
    )


def typical(rates: list[Rate]) -> float:
    """Median of the examples a processor second."""
    return statistics.median(rate.a_processor_second for rate in rates)


def table(rates: Rates, code: str) -> list[Row]:
    """Compare each query count with each peer; the goals are against FAISS IndexFlatIP and DuckDB."""
    found = []
    names = [FLAT, FLAT_AVX512, "FAISS IndexScalarQuantizer", "torch, in memory", "numpy, memory map"]
    for n in QUERIES:
        for mine in (COSINE, BLOCK):
            own = rates[f"{mine} {n}"]
            for name in names:
                peer = rates.get(f"{name} {n}")
                title = f"{mine}, {code}, {n} queries: {name}"
                if name in (FLAT, FLAT_AVX512):
                    title += f" x {TIMES_FAISS[n]:g}"
                if peer is None:
                    left_out = "not timed" if f"{name} 1" in rates else "not installed"
                    found.append(Row(title, text(own), left_out, None, None))
                    continue
                ratio = typical(own) / typical(peer)
                goal = ratio >= TIMES_FAISS[n] if name in (FLAT, FLAT_AVX512) else None
                found.append(Row(title, text(own), text(peer), ratio, goal, TIMES_FAISS[n]))
    own, alone = rates[f"{COSINE} 1"], rates["DuckDB"]
    share = typical(own) / typical(alone)
    title = f"one query, {code}: at least {SHARE_OF_SCAN} of DuckDB's own scan"
    found.append(Row(title, text(own), text(alone), share, share >= SHARE_OF_SCAN, SHARE_OF_SCAN))
    first, later = rates[f"{BLOCK}, first time {QUERIES[-1]}"], rates[f"{BLOCK} {QUERIES[-1]}"]
    times = typical(later) / typical(first)
    title = f"{BLOCK}, {code}, {QUERIES[-1]} queries, weights not kept yet: at most {TIMES_LATER:g} x a later scan"
    found.append(Row(title, text(first), text(later), times, times <= TIMES_LATER, TIMES_LATER))
    return found


def rows(
    n: int = 24_000, code: str = "halfbit", rounds: int = 3, threads: int = 1, folder: Path | None = None
) -> list[Row]:
    """Build, time, and return one row for each comparison."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        return table(measure(Path(made), n, code, rounds, threads), code)


def memory_rows(
    n: int = 1_000_000, code: str = "halfbit", threads: int = 1, folder: Path | None = None
) -> list[Row]:
    """Build a large store, and return its one row."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        return [memory(Path(made), n, code, threads)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--code", default="halfbit", choices=[c for c in codes.CODES if c != "fp16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    if args.memory:
        found = memory_rows(args.rows or 1_000_000, args.code, args.threads, args.folder)
    else:
        found = rows(args.rows or 24_000, args.code, args.rounds, args.threads, args.folder)
    conclude(found)


if __name__ == "__main__":
    main()
