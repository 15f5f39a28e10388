"""Corpora of extreme shapes: the most memory that each command takes, and its processor time.

python -m benchmarks.bounds [--megabytes 50] [--examples 1000000] [--queries 10000] [--only one-word]

Each command runs in a process of its own; memory is its greatest resident set as the kernel counts it, of which a
command that does nothing takes what the first row says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Iterator[dict[str, str]]


def ran(*arguments: str | Path) -> tuple[int, float, float]:
    """Run a command: its exit code, seconds of processor time, and peak memory in MB."""
    pid = os.fork()
    if not pid:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.execv(sys.executable, [sys.executable, "-m", "attrstore", *map(str, arguments)])
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def written(path: Path, rows: Rows) -> Path:
    """Write rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def questions(n: int) -> Rows:
    """Give n queries of two words."""
    return ({"id": f"q{i}", "prompt": f"w{i % 97}", "target": f" w{i % 89}"} for i in range(n))


def one_line(folder: Path, asked: argparse.Namespace) -> list[Path]:
    """Write one document of many megabytes, on one line."""
    text = " ".join(f"w{i % 50_000}" for i in range(asked.megabytes * 150_000))
    return [
        written(folder / "c.jsonl", iter([{"id": "long", "text": text[: asked.megabytes * 1_000_000]}])),
        written(folder / "q.jsonl", questions(3)),
    ]


def one_word(folder: Path, asked: argparse.Namespace) -> list[Path]:
    """Write many documents of one word."""
    rows = ({"id": f"e{i}", "text": f"w{i % 50_000}"} for i in range(asked.examples))
    return [written(folder / "c.jsonl", rows), written(folder / "q.jsonl", questions(3))]


def many_queries(folder: Path, asked: argparse.Namespace) -> list[Path]:
    """Write many queries and ten documents."""
    rows = ({"id": f"e{i}", "text": " ".join(f"w{i * 7 + j}" for j in range(30))} for i in range(10))
    return [written(folder / "c.jsonl", rows), written(folder / "q.jsonl", questions(asked.queries))]


def one_example(folder: Path, asked: argparse.Namespace) -> list[Path]:
    """Write one document."""
    rows = iter([{"id": "only", "text": "w1 w2 w3"}])
    return [written(folder / "c.jsonl", rows), written(folder / "q.jsonl", questions(3))]


def bomb(folder: Path, asked: argparse.Namespace) -> list[Path]:
    """Write a parquet file of some kilobytes that unpacks to many megabytes."""
    texts = pa.array(["w" * 1_000_000] * (2 * asked.megabytes))
    pq.write_table(
        pa.table({"id": pa.array([f"e{i}" for i in range(len(texts))]), "text": texts}), folder / "c.parquet"
    )
    return [folder / "c.parquet", written(folder / "q.jsonl", questions(3))]


def deep(folder: Path, asked: argparse.Namespace) -> list[Path]:
    """Write JSON whose metadata is nested without end."""
    depth = asked.megabytes * 1_000
    (folder / "c.jsonl").write_text(f'{{"id": "a", "text": "w", "metadata": {"[" * depth}{"]" * depth}}}\n')
    return [folder / "c.jsonl", written(folder / "q.jsonl", questions(3))]


SHAPES: dict[str, Callable[[Path, argparse.Namespace], list[Path]]] = {
    "one example": one_example,
    "one line of {megabytes} MB": one_line,
    "{examples:,} one-word examples": one_word,
    "{queries:,} queries, 10 examples": many_queries,
    "parquet that unpacks to {twice} MB": bomb,
    "JSON nested {depth:,} deep": deep,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    sizes = {**vars(asked), "twice": 2 * asked.megabytes, "depth": 1_000 * asked.megabytes}
    print("| corpus | file, MB | command | exit | processor, s | peak, MB |\n|---|---|---|---|---|---|")
    print("| | | --version | {} | {:.1f} | {:.0f} |".format(*ran("--version")))
    for title, make in SHAPES.items():
        name = title.format(**sizes)
        if asked.only not in name:
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            corpus, queries = make(folder, asked)
            store = folder / "s.duckdb"
            ran("init", store)
            size = f"{corpus.stat().st_size / 1e6:.1f}"
            commands: list[list[str | Path]] = [
                ["ingest", "corpus", store, corpus],
                ["ingest", "queries", store, queries],
                ["ingest", "lexical", store],
                ["score", store, "bm25"],
                ["check", store],
            ]
            for arguments in commands:
                told = " ".join(str(part) for part in arguments if not isinstance(part, Path))
                print(
                    "| {} | {} | {} | {} | {:.1f} | {:.0f} |".format(name, size, told, *ran(*arguments)),
                    flush=True,
                )


if __name__ == "__main__":
    main()
