"""What does the storage version that old clients of DuckDB read cost? Writing and scanning under both, in turn.

python -m benchmarks.storage [--rows 400000] [--passages 250000] [--encoded 400] [--repeats 3] [--rounds 7] [--step S]

Each round makes two stores, one with the version that attrstore writes and one with this DuckDB's own, in an order that
changes from round to round, and takes every step in both before the next: --rows codes of 10,752 dimensions at half a
bit, a corpus of --passages from a file, its lexical index, gradients of a small Llama over --encoded passages; then
scans for one query and for 32, --repeats times each, and sums over all postings in SQL, eight times as often. Closing
the store, with its checkpoint, belongs to each step that writes. Processor seconds of this process and its children are
the ones to read on a busy machine: medians of the rounds, and the median of the rounds' ratios with the least and the
greatest, and their mean with its standard error. --step takes only the steps that have S in their names.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import LlamaForCausalLM

import attrstore
from attrstore import schema
from attrstore.demo import train
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.lexical import ingest_lexical
from attrstore.methods.gradient import PARTS
from attrstore.scoring import selected
from benchmarks import scan_speed

OLD, OWN = schema.STORAGE, "latest"
SCANNED = (1, 32)  # queries


@dataclass(frozen=True)
class Seconds:
    """How long a step took."""

    wall: float
    processor: float


@dataclass
class Times:
    """What each version took for each step in each round, and how large its files are."""

    steps: dict[str, dict[str, list[Seconds]]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, step: str, version: str) -> Iterator[None]:
        """Note how long the block took."""
        start, busy = time.perf_counter(), processor()
        yield
        taken = Seconds(time.perf_counter() - start, processor() - busy)
        self.steps.setdefault(step, {}).setdefault(version, []).append(taken)


def processor() -> float:
    """Seconds that this process and its children have computed."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class Sizes:
    """How much each step has to do."""

    rows: int
    passages: int
    encoded: int
    repeats: int


@dataclass(frozen=True)
class Inputs:
    """What is read in every round."""

    corpus: Path
    short: Path  # its first passages, whose gradients are taken
    queries: Path
    model: Path


def inputs(folder: Path, sizes: Sizes) -> Inputs:
    """Write made-up passages whose words are Zipfian, queries, and a Llama that nobody trained."""
    import numpy as np

    drawn = np.random.default_rng(0)
    rows = [
        {"id": f"p-{i}", "text": " ".join(f"w{w}" for w in drawn.zipf(1.3, 60) % 50_000)}
        for i in range(sizes.passages)
    ]
    made = Inputs(folder / "corpus.jsonl", folder / "short.jsonl", folder / "queries.jsonl", folder / "model")
    asked = [{"id": f"q-{i}", "prompt": row["text"], "target": " w1 w2"} for i, row in enumerate(rows[:32])]
    for file, lines in ((made.corpus, rows), (made.short, rows[: sizes.encoded]), (made.queries, asked)):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    recipe = train.Training(dim=64, context=256)
    tokenizer = train.make_tokenizer([row["text"] for row in rows[:2000]], recipe.vocabulary, recipe.context)
    torch.manual_seed(0)
    LlamaForCausalLM(train.make_config(len(tokenizer), recipe)).save_pretrained(made.model)
    tokenizer.save_pretrained(made.model)
    return made


Step = Callable[[Path], object]


def steps(given: Inputs, sizes: Sizes) -> dict[str, Step]:
    """What is done in a folder of each version, in order."""

    def opened(name: str, action: Callable[[attrstore.Store], object]) -> Step:
        def taken(folder: Path) -> None:
            with attrstore.open(folder / name, create=True) as store:
                action(store)

        return taken

    def scanned(n: int, store: attrstore.Store) -> None:
        with selected(store, None):
            store.execute("SET threads = 1")
            scan = scan_speed.ranker(store, PARTS["cosine"], n)
            for _ in range(sizes.repeats):
                scan()

    def gradients(store: attrstore.Store) -> None:
        ingest_corpus(store, [given.short])
        ingest_queries(store, [given.queries])
        ingest_gradients(store, model=given.model, optimizer_state="none", device="cpu")

    def postings(store: attrstore.Store) -> None:
        for _ in range(8 * sizes.repeats):
            store.value("SELECT sum(hash(term_id, example_id, tf)::HUGEINT) FROM postings")

    return {
        f"write {sizes.rows:,} codes": lambda folder: scan_speed.build(
            folder / "codes.duckdb", sizes.rows, "halfbit"
        ),
        f"ingest corpus, {sizes.passages:,} passages": opened(
            "text.duckdb", lambda store: ingest_corpus(store, [given.corpus])
        ),
        "ingest lexical": opened("text.duckdb", ingest_lexical),
        f"ingest gradients, {sizes.encoded:,} passages": opened("gradients.duckdb", gradients),
        **{
            f"scan, {n} quer{'y' if n == 1 else 'ies'}": opened("codes.duckdb", partial(scanned, n))
            for n in SCANNED
        },
        "read postings in SQL": opened("text.duckdb", postings),
    }


def rounds(times: Times, chosen: Mapping[str, Step], folder: Path, number: int) -> None:
    """Take the steps under both versions, `number` times, after a round that warms up."""
    for i in range(number + 1):
        pair = (OLD, OWN) if i % 2 else (OWN, OLD)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            for version in pair:
                (Path(made) / version).mkdir()
            for step, action in chosen.items():
                for version in pair:
                    with patch.object(schema, "STORAGE", version), times.of(step, version):
                        action(Path(made) / version)
            for version in pair:
                files = (Path(made) / version).glob("*.duckdb")
                times.sizes[version] = sum(file.stat().st_size for file in files)
        if not i:
            times.steps.clear()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, number in {"rows": 400_000, "passages": 250_000, "encoded": 400, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--step", default="")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    sizes = Sizes(asked.rows, asked.passages, asked.encoded, asked.repeats)
    times = Times()
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        every = steps(inputs(Path(made), sizes), sizes)
        chosen = {name: step for name, step in every.items() if asked.step in name}
        rounds(times, chosen, Path(made), asked.rounds)
    print(f"| | {OLD} | {OWN} | ratio, processor | ratio, clock |\n|---|---|---|---|---|")
    for step, taken in times.steps.items():
        cells = [_text(taken[version]) for version in (OLD, OWN)]
        pairs = list(zip(taken[OLD], taken[OWN], strict=True))
        of_processor = _ratio([old.processor / max(own.processor, 1e-9) for old, own in pairs])
        of_clock = _ratio([old.wall / max(own.wall, 1e-9) for old, own in pairs])
        print(f"| {step} | {' | '.join(cells)} | {of_processor} | {of_clock} |")
    sizes_of = [times.sizes[version] for version in (OLD, OWN)]
    print(f"| bytes of the files | {sizes_of[0]:,} | {sizes_of[1]:,} | {sizes_of[0] / sizes_of[1]:.2f} | |")


def _text(taken: list[Seconds]) -> str:
    wall, busy = (statistics.median(getattr(one, name) for one in taken) for name in ("wall", "processor"))
    return f"{busy:.2f} s ({wall:.2f})"


def _ratio(ratios: list[float]) -> str:
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else math.nan
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{statistics.median(ratios):.2f} {spread}, mean {statistics.mean(ratios):.3f} +- {error:.3f}"


if __name__ == "__main__":
    main()
