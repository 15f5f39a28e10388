"""Attach shards of synthetic codes and scan them, in one process and on Ray; see that memory holds and time is linear.

    python -m benchmarks.shard_scan [--rows 2000000] [--queries 500] [--ray-rows 500000] [--rounds 2] [--folder DIR]

The codes are random, 5,376 dimensions in half a bit: 378 bytes each with their norms. A quarter of the rows, half of
them and all lie in 64 shards each, which are attached; `score STORE cosine` then ranks them in a process of its own, of
which seconds, seconds of the processor and the peak of memory are reported. On Ray one worker and two scan in turn,
`rounds` times: examples a second are counted from the first part that is done to the last, so without what it takes to
start them, and the tables of scores are held against one process's. --rows 0 and --ray-rows 0 leave one of the two out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow
import torch

import attrstore
from attrstore import cluster, shards
from attrstore.folders import folder_at
from attrstore.progress import silent
from attrstore.scoring import score_on_ray
from attrstore.vectors import codes, encoders
from attrstore.vectors.encoders import Encoder
from benchmarks.scan_speed import blobs
from benchmarks.synthetic import INSERT_EXAMPLES

FILES = 64
BLOCKS = encoders.make_blocks([(f"m{i}", 256) for i in range(21)])  # k 16 on 21 linear maps
DIMENSIONS = 21 * 256
SCORES = "SELECT query_id, example_id, rank, score FROM scores ORDER BY ALL"
ENCODER = Encoder("gradient", "synthetic", "none", {"code": "halfbit"}, BLOCKS)


def main() -> None:
    """Print a line for each scan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--from-size", type=int, default=0, help="1: leave out the quarter, 2: the half too")
    parser.add_argument("--ray-rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # no less than this process
    with TemporaryDirectory(dir=options.folder) as folder:
        sizes = [options.rows // 4, options.rows // 2, options.rows, options.ray_rows]
        for n in dict.fromkeys(sizes[options.from_size :]):
            if n:
                path = Path(folder, f"{n}.duckdb")
                make(path, n, options.queries)
                in_one_process(path)
                if n == options.ray_rows:
                    on_ray(path, options.rounds)
                path.unlink()


def make(path: Path, n: int, queries: int) -> None:
    """Write the shards, attach them and delete them."""
    draw = np.random.default_rng(0)
    folder = path.with_suffix(".shards")
    folder.mkdir()
    with attrstore.open(path, create=True) as store:
        store.execute("SET enable_progress_bar = false")
        store.execute(INSERT_EXAMPLES, {"n": n})
        encoders.save(store, ENCODER)
        asked = draw.standard_normal((queries, DIMENSIONS), dtype=np.float32)
        vectors = pyarrow.table({"i": np.arange(queries), "vector": blobs(asked.view(np.uint8))})
        with store.registered(made=vectors):
            insert = "INSERT INTO query_encodings SELECT $e, i, vector, 1, 1, 'ok' FROM made"
            store.execute(insert, {"e": ENCODER.encoder_id})
        for part in range(FILES):
            shards.write(folder_at(folder), part, ENCODER, random_rows(draw, part, n))
        size = sum(file.stat().st_size for file in folder.iterdir())
        began, before = time.perf_counter(), time.process_time()
        done = shards.attach(store, folder_at(folder), silent)
        store.execute("CHECKPOINT")
        seconds, of_processor = time.perf_counter() - began, time.process_time() - before
    print(
        f"{done.rows:,} codes in {done.shards} shards of {size / 1e6:,.0f} MB in all, attached: {seconds:.1f} s, "
        f"processor {of_processor:.1f} s",
        flush=True,
    )
    shutil.rmtree(folder)


def random_rows(draw: np.random.Generator, part: int, n: int) -> pyarrow.Table:
    """Return the encodings of one of the files."""
    ids = np.arange(part * n // FILES, (part + 1) * n // FILES)
    width = codes.CODES["halfbit"].n_bytes(DIMENSIONS)
    quantised = draw.integers(0, 256, (len(ids), width), dtype=np.uint8)
    norms = torch.from_numpy(draw.lognormal(0, 1, (len(ids), len(BLOCKS)))).bfloat16().view(torch.uint8)
    rest: dict[str, Any] = {"n_tokens": [50], "loss": [1.0], "status": ["ok"], "content_hash": ["0"]}
    return pyarrow.table(
        {"example_id": ids, "code": blobs(quantised), "scales": blobs(norms.numpy())}
        | {name: value * len(ids) for name, value in rest.items()}
    )


def in_one_process(path: Path) -> None:
    """Score in a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "attrstore", "score", str(path), "cosine"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    before, peak = os.times(), 0
    while process.poll() is None:
        peak = max(peak, held(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    used = os.times()
    of_processor = used.children_user + used.children_system - before.children_user - before.children_system
    print(
        f"{path.stem} rows, one process: {time.perf_counter() - began:.1f} s, processor {of_processor:.1f} s, "
        f"{peak / 1e9:.2f} GB at most",
        flush=True,
    )


def held(process: int | str) -> int:
    """Return the bytes that a process has held at most; what its parent held counts in rusage, and not here."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return 1024 * int(text.split("VmHWM:", 1)[1].split()[0]) if "VmHWM:" in text else 0


def on_ray(path: Path, rounds: int) -> None:
    """Score with one worker and with two, in turn."""
    with attrstore.open(path) as store:
        expected = store.sql(SCORES).to_arrow_table()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with cluster.connected(2, 10**8):
        for _ in range(rounds):
            for workers, found in rates.items():
                watch = Watch()
                began = time.perf_counter()
                score_on_ray(path, "cosine", workers=workers, progress=watch)
                found.append(watch.rate())
                with attrstore.open(path) as store:
                    same = store.sql(SCORES).to_arrow_table() == expected
                print(
                    f"{path.stem} rows, Ray, {workers} workers: {found[-1]:,.0f} examples/s, "
                    f"{time.perf_counter() - began:.1f} s in all, {watch.peak / 1e9:.2f} GB at most in a worker, "
                    f"load {os.getloadavg()[0]:.1f}; scores equal to one process's: {same}",
                    flush=True,
                )
    one, two = (statistics.median(rates[workers]) for workers in (1, 2))
    print(f"two workers: {two / one:.2f} x one, medians of {rounds}")


class Watch:
    """Notes when parts are done, and how much memory workers have held at most."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []
        self.peak = 0

    def __call__(self, done: int, total: int) -> None:
        """Be told of the examples that are done."""
        self.seen.append((time.perf_counter(), done))
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "comm").read_text().startswith("ray::Kept"):
                    self.peak = max(self.peak, held(process.name))

    def rate(self) -> float:
        """Return the examples a second between the first part that was done and the last."""
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - began)


if __name__ == "__main__":
    main()
