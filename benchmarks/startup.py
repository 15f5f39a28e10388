"""Time `attrstore sql` and `attrstore report` from the shell, on a store of facts: under half a second.

python -m benchmarks.startup [DATA] [--runs 7] [--limit N]

DATA is a folder with corpus.jsonl, queries.jsonl, labels.jsonl and model/ (with optimizer.pt): its store is built
once, with encodings, index and two scorings. Without it a synthetic store of that size is. The peer is a fresh
Python that imports duckdb and runs the same SQL on the same file, in turn. Exits 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrstore
from attrstore.ingest.lexical import ingest_lexical
from attrstore.scoring import score
from benchmarks import ingest, scan_speed, synthetic
from benchmarks.rows import Row, conclude

SECONDS = 0.5  # the goal
EXAMPLES, QUERIES = 5_811, 708  # of the synthetic store
SQL = "FROM comparison WHERE query = (SELECT min(external_id) FROM queries) ORDER BY influence_rank LIMIT 20"
ATTRSTORE = "from attrstore.cli import main; main()"  # what the installed command runs
DUCKDB = (
    "import sys, duckdb; print(duckdb.connect(sys.argv[1], read_only=True).execute(sys.argv[2]).fetchall())"
)
QUESTIONS = {  # the command's arguments, of which the first is followed by the store; the same as SQL
    "attrstore sql": (["sql", SQL], SQL),
    "attrstore report": (["report"], "FROM method_report"),
}


def build(path: Path, data: Path | None, limit: int | None) -> None:
    """Make the store, of real facts or a synthetic one of their size."""
    if data is None:
        examples = min(limit or EXAMPLES, EXAMPLES)
        scan_speed.build(path, examples, "int8")
        with attrstore.open(path, writable=True) as store:
            synthetic.put_scorings(store, examples, QUERIES)
        return
    with tempfile.TemporaryDirectory() as folder:
        ingest.whole(data if limit is None else ingest.first(data, Path(folder), limit), path, {})
    with attrstore.open(path, writable=True) as store:
        ingest_lexical(store)
        score(store, "bm25")


def seconds(program: str, *arguments: str) -> float:
    """Return how long a fresh Python takes for a program."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def text(times: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


def compared(name: str, path: Path, runs: int) -> Row:
    """Time a command and its peer in turn, after one of each that fills the disk's cache."""
    (command, *rest), query = QUESTIONS[name]
    own, peer = [], []
    for _ in range(runs + 1):
        own.append(seconds(ATTRSTORE, command, str(path), *rest))
        peer.append(seconds(DUCKDB, str(path), query))
    own, peer = own[1:], peer[1:]
    middle, theirs = statistics.median(own), statistics.median(peer)
    megabytes = f"{path.stat().st_size / 1e6:.0f} MB"
    return Row(
        f"{name}, store of {megabytes}: under {SECONDS} s",
        text(own),
        f"import duckdb, same query: {text(peer)}",
        middle / theirs,
        middle < SECONDS,
        SECONDS / theirs,
    )


def rows(data: Path | None = None, runs: int = 7, limit: int | None = None) -> list[Row]:
    """Build the store, and time each command."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "facts.duckdb"
        build(path, data, limit)
        return [compared(name, path, runs) for name in QUESTIONS]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--limit", type=int, help="only the first N examples")
    conclude(rows(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
