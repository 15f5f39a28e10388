"""Run the demo: world, files, training, ingest, scoring, each by the library's own calls."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import attrstore
from attrstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from attrstore.demo.train import Progress, Training
    from attrstore.store import Store

STORE = "demo.duckdb"
MODEL = "model"
# Everything that the demo writes; `--force` removes these and nothing else.
OWN = ("corpus.jsonl", "queries.jsonl", "labels.jsonl", MODEL, STORE, f"{STORE}.wal")
METHODS = ("dot", "cosine", "trak", "trackstar", "trackstar-block", "cosine-block", "bm25")
INFLUENCE, RETRIEVAL = "cosine-block", "bm25"
MEASURED = 30  # facts whose proponents are measured


@dataclass(frozen=True)
class Demo:
    """A finished demo."""

    store: Path
    model: Path
    trained: Progress
    seconds: float


def run(
    folder: Path,
    *,
    seed: int = 0,
    force: bool = False,
    recipe: Training | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Demo:
    """Make the world of `seed` in `folder`, train on it, and fill `folder/demo.duckdb`.

    Args:
        force: remove what an earlier demo wrote there; anything else in the folder stays.
        say: told each step, a line at a time.

    Raises:
        InputError: the folder is not empty, and `force` was not given.
    """
    began = time.perf_counter()
    _make_room(folder, force)
    from attrstore.demo.train import one_thread

    with _no_bars(), one_thread():
        _write_world(folder, seed, say)
        trained = _train(folder, seed, recipe, say)
        with attrstore.open(folder / STORE, create=True) as store:
            _ingest(store, folder, say)
            _score(store, say)
            _measure(store, folder, say)
    return Demo(folder / STORE, folder / MODEL, trained, time.perf_counter() - began)


def _make_room(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file, not a folder. Choose another: attrstore demo DIR")
    if folder.is_dir() and any(folder.iterdir()):
        if not force:
            raise InputError(
                f"{folder}: not empty. --force replaces what an earlier demo wrote there and leaves the "
                "rest; or choose another folder: attrstore demo DIR"
            )
        for name in OWN:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def _write_world(folder: Path, seed: int, say: Callable[[str], None]) -> None:
    from attrstore.demo.world import generate

    world = generate(seed)
    world.write(folder)
    stating = sum(fact.frequency for fact in world.facts)
    say(
        f"1/5 World {seed}: {len(world.facts)} facts, {len(world.sentences):,} sentences; "
        f"{stating:,} of them state a fact, the others only share its names or none."
    )


def _train(folder: Path, seed: int, recipe: Training | None, say: Callable[[str], None]) -> Progress:
    from attrstore.demo.train import train

    def report(now: Progress) -> None:
        say(f"    {now.step:>5} {now.loss:>8.3f} {now.recall:>8.0%} {now.seconds:>7.0f} s")

    say("2/5 Training a small Llama on them. Facts known: the share of prompts it answers exactly.")
    say(f"    {'step':>5} {'loss':>8} {'known':>8} {'time':>9}")
    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    return train(corpus, queries, folder / MODEL, seed=seed, recipe=recipe, report=report)


def _ingest(store: Store, folder: Path, say: Callable[[str], None]) -> None:
    from attrstore.ingest.encode.gradients import ingest_gradients
    from attrstore.ingest.files.corpus import ingest_corpus
    from attrstore.ingest.files.labels import ingest_labels
    from attrstore.ingest.files.queries import ingest_queries
    from attrstore.ingest.lexical import ingest_lexical

    say("3/5 Ingesting files, words and gradients.")
    ingest_corpus(store, [folder / "corpus.jsonl"])
    ingest_queries(store, [folder / "queries.jsonl"])
    ingest_labels(store, [folder / "labels.jsonl"])
    ingest_lexical(store)
    began = time.perf_counter()
    ingest_gradients(store, model=folder / MODEL, optimizer_state=folder / MODEL / "optimizer.pt")
    examples = store.value("SELECT count(*) FROM encodings WHERE code IS NOT NULL")
    say(f"    {examples:,} gradients in {time.perf_counter() - began:.0f} s")


def _score(store: Store, say: Callable[[str], None]) -> None:
    from attrstore.scoring import score

    say(f"4/5 Scoring: {', '.join(METHODS)}.")
    for method in METHODS:
        score(store, method)


def _measure(store: Store, folder: Path, say: Callable[[str], None]) -> None:
    from attrstore.ingest.measure.tail_patch import tail_patch

    began = time.perf_counter()
    measured = tail_patch(
        store,
        scorings=[INFLUENCE, RETRIEVAL],
        queries=MEASURED,
        optimizer_state=folder / MODEL / "optimizer.pt",
    )
    say(
        f"5/5 Tail-patch: one training step on each of the ten strongest of {MEASURED} facts by {INFLUENCE} and by "
        f"{RETRIEVAL}:\n    {measured.examples:,} steps in {time.perf_counter() - began:.0f} s"
    )


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the model library's own progress bars out of the demo's lines."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
