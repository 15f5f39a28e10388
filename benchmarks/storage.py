"""What does the storage version that old clients of DuckDB read cost? Writing and scanning under both, in turn.

python -m benchmarks.storage [--rows 20000] [--passages 20000] [--rounds 5] [--folder DIR]

Each round makes two stores, one with the version that attrstore writes and one with this DuckDB's own, in an order that
changes from round to round: codes of 10,752 dimensions at half a bit, a corpus from a file, its lexical index; then
scans for one query and for 32 and a report in SQL over all scores. Medians of rounds, wall and processor time of this
process, and the median of the rounds' ratios. The processor's ratio is the one to read on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import attrstore
from attrstore import schema
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.lexical import ingest_lexical
from attrstore.methods.gradient import PARTS
from attrstore.scoring import selected
from benchmarks import scan_speed

OLD, OWN = schema.STORAGE, "latest"
Times = dict[tuple[str, str], list[tuple[float, float]]]  # version and step: wall and processor of each round


@contextmanager
def timed(times: Times, version: str, step: str) -> Iterator[None]:
    """Note how long the block took."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    times.setdefault((version, step), []).append((time.perf_counter() - start, time.process_time() - busy))


def one(times: Times, version: str, folder: Path, rows: int, corpus: Path) -> None:
    """Make and read the stores of one version."""
    with patch.object(schema, "STORAGE", version):
        with timed(times, version, "write codes"):
            scan_speed.build(folder / "codes.duckdb", rows, "halfbit")
        with attrstore.open(folder / "text.duckdb", create=True) as store:
            with timed(times, version, "ingest corpus"):
                ingest_corpus(store, [corpus])
            with timed(times, version, "ingest lexical"):
                ingest_lexical(store)
    with attrstore.open(folder / "codes.duckdb") as store, selected(store, None):
        store.execute("SET threads = 1")
        scans: dict[str, Callable[[], object]] = {
            f"scan, {n} queries": scan_speed.ranker(store, PARTS["cosine"], n) for n in (1, 32)
        }
        for step, scan in scans.items():
            with timed(times, version, step):
                scan()
    with attrstore.open(folder / "text.duckdb") as store, timed(times, version, "read postings in SQL"):
        store.value("SELECT sum(hash(term_id, example_id, tf)::HUGEINT) FROM postings")
    size = sum((folder / name).stat().st_size for name in ("codes.duckdb", "text.duckdb"))
    times.setdefault((version, "bytes"), []).append((size, size))


def passages(file: Path, n: int) -> Path:
    """Write made-up passages whose words are Zipfian."""
    import numpy as np

    drawn = np.random.default_rng(0)
    with file.open("w", encoding="utf-8") as stream:
        for i in range(n):
            words = drawn.zipf(1.3, 60) % 50_000
            stream.write(json.dumps({"id": f"p-{i}", "text": " ".join(f"w{w}" for w in words)}) + "\n")
    return file


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    times: Times = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        corpus = passages(Path(made) / "corpus.jsonl", given.passages)
        for number in range(given.rounds + 1):
            for version in (OLD, OWN) if number % 2 else (OWN, OLD):
                with tempfile.TemporaryDirectory(dir=made) as folder:
                    one(times, version, Path(folder), given.rows, corpus)
            if not number:
                times.clear()  # the first round warms up
    print(f"| | {OLD} | {OWN} | ratio, wall | ratio, processor |\n|---|---|---|---|---|")
    for step in dict.fromkeys(step for _, step in times):
        old, own = times[OLD, step], times[OWN, step]
        cells = [_text(step, values) for values in (old, own)]
        ratios = [
            statistics.median(a[i] / max(b[i], 1e-9) for a, b in zip(old, own, strict=True)) for i in (0, 1)
        ]
        print(f"| {step} | {' | '.join(cells)} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


def _text(step: str, values: list[tuple[float, float]]) -> str:
    wall, processor = (statistics.median(column) for column in zip(*values, strict=True))
    return f"{wall:,.0f}" if step == "bytes" else f"{wall:.2f} s ({processor:.2f})"


if __name__ == "__main__":
    main()
