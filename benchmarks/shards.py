"""Time a sharded ingest against one process, and hold their tables against each other.

    python -m benchmarks.shards DATA [--rounds N]
    python -m benchmarks.shards --attach N

Each of the first is a command line of its own; seconds are of the wall and of the processor, with all that it started.
The second attaches N random codes as long as the default's of that model: 2,772 bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow

import attrstore
from attrstore import shards
from attrstore.folders import folder_at
from attrstore.ingest.encode.job import SHARD
from attrstore.progress import silent
from attrstore.vectors import encoders
from attrstore.vectors.encoders import Encoder, make_blocks
from benchmarks.synthetic import INSERT_EXAMPLES

TABLES = (
    "FROM encodings ORDER BY example_id",
    "FROM query_encodings ORDER BY query_id",
    "FROM projections ORDER BY ALL",
    "SELECT query_id, example_id, rank, score FROM scores ORDER BY ALL",
)
WAYS = ("one process", "shards, 1 worker", "--workers 2")


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--attach", type=int, metavar="N")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.attach:
        time_attach(options.attach)
        return
    with TemporaryDirectory() as folder:
        empty = Path(folder, "empty.duckdb")
        for command in ("init", "ingest corpus", "ingest queries"):
            files = [options.data / f"{command.split()[1]}.jsonl"] if " " in command else []
            _run(*command.split(), empty, *files)
        tables = {}
        for _ in range(options.rounds):
            for way in WAYS:
                path = Path(folder, "store.duckdb")
                shutil.copy(empty, path)
                began, before = time.perf_counter(), _processor()
                _ingest(way, path, options.data / "model")
                print(
                    f"{way}: {time.perf_counter() - began:.1f} s, processor {_processor() - before:.1f} s",
                    flush=True,
                )
                _run("score", path, "cosine-block")
                with attrstore.open(path) as store:
                    tables[way] = [store.rows(query) for query in TABLES]
                for other in Path(folder).glob("store.*"):
                    other.unlink() if other.is_file() else shutil.rmtree(other)
        for way in WAYS[1:]:
            same = [mine == one for mine, one in zip(tables[way], tables[WAYS[0]], strict=True)]
            print(f"{way}: encodings, queries, projections, scores equal to one process's: {same}")


def time_attach(n: int) -> None:
    """Attach n random codes; every file is read twice, once for its hash."""
    encoder = Encoder("gradient", "random", "none", {"code": "halfbit"}, make_blocks([("all", 43_008)]))
    draw = np.random.default_rng(0)
    with TemporaryDirectory() as folder, attrstore.open(Path(folder, "store.duckdb"), create=True) as store:
        store.execute(INSERT_EXAMPLES, {"n": n})
        encoders.save(store, encoder)
        into = Path(folder, "shards")
        into.mkdir()
        for part in range(-(-n // SHARD)):
            ids = range(part * SHARD, min(n, (part + 1) * SHARD))
            blobs = {
                name: pyarrow.array([draw.bytes(length) for _ in ids], pyarrow.large_binary())
                for name, length in (("code", 2_688), ("scales", 84))
            }
            columns = {"example_id": list(ids), "n_tokens": [50] * len(ids), "loss": [1.0] * len(ids)}
            rest = {"status": ["ok"] * len(ids), "content_hash": ["0"] * len(ids)}
            shards.write(folder_at(into), part, encoder, pyarrow.table({**columns, **blobs, **rest}))
        size = sum(file.stat().st_size for file in into.iterdir())
        began, before = time.perf_counter(), time.process_time()
        done = shards.attach(store, folder_at(into), silent)
        store.execute("CHECKPOINT")
        seconds = time.perf_counter() - began
        print(
            f"attached {done.rows:,} codes of {done.shards:,} files: {seconds:.1f} s, processor "
            f"{time.process_time() - before:.1f} s, {size / seconds / 1e6:.0f} MB/s"
        )


def _ingest(way: str, path: Path, model: Path) -> None:
    ingest = ["ingest", "gradients", path, "--model", model]
    if way.startswith("shards"):
        into = path.with_suffix(".shards")
        _run(*ingest, "--shards", into)
        _run("attach", path, into)
    else:
        _run(*ingest, *way.split() if way.startswith("--") else [])


def _run(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "attrstore", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL
    )


def _processor() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
