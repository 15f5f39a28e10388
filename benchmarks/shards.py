"""Time a sharded ingest against one process, and hold their tables against each other.

    python -m benchmarks.shards DATA [--kind KIND] [--limit N] [--queries N] [--rounds N] [--ways WAY ...]
    python -m benchmarks.shards --attach N

Each way is a command line of its own, or several, all ways in turn; `s3` is one worker with a bucket of a server (moto)
that is started for it. Seconds are of the wall and of the processor, with all that it started, but for Ray's workers,
which are not its children.
The second attaches N random codes as long as the default's of that model: 2,772 bytes.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLES = (
    "FROM encodings ORDER BY example_id",
    "FROM query_encodings ORDER BY query_id",
    "FROM projections ORDER BY ALL",
    "SELECT query_id, example_id, rank, score FROM scores ORDER BY ALL",
)
METHODS = {"gradients": "cosine-block", "representations": "repsim"}  # by what reads them
ALONE = "one process"
WAYS = (ALONE, "1 worker", "s3", "--workers 2", "--workers 4", "two ranks", "--engine ray --workers 2")


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--attach", type=int, metavar="N")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=int, help="of the corpus")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--kind", choices=METHODS, default="gradients")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--projection-dim", default=16)
    options = parser.parse_args()
    if options.attach:
        time_attach(options.attach)
        return
    with TemporaryDirectory() as folder:
        empty = Path(folder, "empty.duckdb")
        _run("init", empty)
        for what, limit in (("corpus", options.limit), ("queries", options.queries)):
            lines = (options.data / f"{what}.jsonl").read_text(encoding="utf-8").splitlines()
            file = Path(folder, f"{what}.jsonl")
            file.write_text("\n".join(lines[:limit]), encoding="utf-8")
            _run("ingest", what, empty, file)
        ingest = [options.kind, "--model", options.data / "model"]
        if options.kind == "gradients":
            ingest += ["--projection-dim", options.projection_dim]
        compare(empty, [ALONE, *(way for way in options.ways if way != ALONE)], options.rounds, ingest)


def compare(empty: Path, ways: list[str], rounds: int, options: list[object]) -> None:
    """Ingest in every way in turn, and hold times and tables against one process's."""
    tables: dict[str, list[list[tuple[object, ...]]]] = {}
    of_processor: dict[str, list[float]] = {way: [] for way in ways}
    path = empty.with_name("store.duckdb")
    for _ in range(rounds):
        for way in ways:
            shutil.copy(empty, path)
            began, before = time.perf_counter(), _processor()
            _ingest(way, path, options)
            of_processor[way].append(_processor() - before)
            print(
                f"{way}: {time.perf_counter() - began:.1f} s, processor {of_processor[way][-1]:.1f} s, load "
                f"{os.getloadavg()[0]:.1f}",
                flush=True,
            )
            if way not in tables:
                _run("score", path, METHODS[str(options[0])])
                with attrstore.open(path) as store:
                    tables[way] = [store.rows(query) for query in TABLES]
                same = [mine == one for mine, one in zip(tables[way], tables[ALONE], strict=True)]
                print(
                    f"{way}: encodings, queries, projections, scores equal to one process's: {same}",
                    flush=True,
                )
            for other in path.parent.glob("store.*"):
                other.unlink() if other.is_file() else shutil.rmtree(other)
    for way in ways[1:]:
        ratio = statistics.median(of_processor[way]) / statistics.median(of_processor[ALONE])
        print(f"{way}: {ratio:.3f} x one process's processor time, medians of {rounds}")


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


def _ingest(way: str, path: Path, options: list[object]) -> None:
    ingest = ["ingest", options[0], path, *options[1:]]
    into = path.with_suffix(".shards")
    if way == "1 worker":
        _run(*ingest, "--shards", into)
        _run("attach", path, into)
    elif way == "s3":
        with _bucket() as bucket:
            _run(*ingest, "--shards", f"{bucket}/shards")
            _run("attach", path, f"{bucket}/shards")
    elif way == "two ranks":
        ranks = ["--shards", into, "--world-size", "2", "--shard-rank"]
        started = [_start(*ingest, *ranks, rank) for rank in range(2)]
        if any(process.wait() for process in started):
            raise SystemExit("a rank failed")
        _run("attach", path, into)
    else:
        _run(*ingest, *([] if way == ALONE else way.split()))


@contextmanager
def _bucket() -> Iterator[str]:
    """Start an S3 server in this process, and point the commands at it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it prints every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    boto3.client("s3").create_bucket(Bucket="corpus")
    try:
        yield "s3://corpus"
    finally:
        server.stop()


def _start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "attrstore", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _run(*arguments: object) -> None:
    if _start(*arguments).wait():
        raise SystemExit(f"attrstore {' '.join(map(str, arguments))} failed")


def _processor() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
