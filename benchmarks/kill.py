"""Kill a gradient ingest at random moments until it is done, and compare with an uninterrupted run.

python benchmarks/kill.py DATA [--kills 10] [--seed 0] [--kronecker]

Each round starts the command line's own job, kills it with SIGKILL after a random time, and starts it again.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrstore
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.queries import ingest_queries

TABLES = {
    "encodings": "SELECT * FROM encodings ORDER BY example_id",
    "query_encodings": "SELECT * FROM query_encodings ORDER BY query_id",
    "projections": "SELECT * FROM projections ORDER BY module, part",
    "encoders": "SELECT encoder_id, spec, blocks FROM encoders",
}


def make(path: Path, data: Path, extra: list[str]) -> list[str]:
    """Make a store with corpus and queries, and return the command that encodes it."""
    with attrstore.open(path, create=True) as store:
        ingest_corpus(store, [data / "corpus.jsonl"])
        ingest_queries(store, [data / "queries.jsonl"])
    program = "from attrstore.cli import main; main()"
    return [sys.executable, "-c", program, "ingest", "gradients", str(path), "--model", str(data / "model"),
            "--optimizer-state", str(data / "model" / "optimizer.pt"), *extra]  # fmt: skip


def main() -> None:
    """Run the rounds; exit 1 when a table differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kronecker", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    extra = ["--kronecker"] if arguments.kronecker else []
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole.duckdb", Path(folder) / "killed.duckdb"
        start = time.perf_counter()
        subprocess.run(make(whole, arguments.data, extra), check=True, capture_output=True)
        seconds = time.perf_counter() - start
        print(f"uninterrupted: {seconds:.0f} s", flush=True)
        command = make(killed, arguments.data, extra)
        done = 0
        while done < arguments.kills:
            # Ten kills should fall all over one run's length, start-up included.
            job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait = moments.uniform(0.1, 1.3) * seconds / arguments.kills + 4
            try:
                job.wait(wait)
                break  # it was faster than the dice
            except subprocess.TimeoutExpired:
                job.kill()
                job.wait()
            done += 1
            with attrstore.open(killed, writable=True) as store:
                print(f"kill {done} after {wait:.1f} s: {store.value('SELECT count(*) FROM encodings'):,} rows kept",
                      flush=True)  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        with attrstore.open(whole) as one, attrstore.open(killed) as other:
            equal = {name: one.rows(query) == other.rows(query) for name, query in TABLES.items()}
    print(f"{done} kills; tables equal row for row: {equal}")
    sys.exit(not all(equal.values()))


if __name__ == "__main__":
    main()
