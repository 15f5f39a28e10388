"""Time BM25 against bm25s and rank_bm25 on Zipfian text, in turn: index, batch search, appending.

python -m benchmarks.bm25_speed [--passages 100000] [--rounds 3] [--threads 1] [--folder DIR]

1,000 queries of 4 to 12 words drawn as the text's are, the top 100 of each. attrstore indexes and searches a
store on disk, query words and postings read anew each time; bm25s (pip install bm25s) works in memory, index
included, on one thread. rank_bm25 scores a few of the queries; it is left out above 200,000 passages, where it
does not fit in memory. The rankings must agree: scores with bm25s to 1e-4 (it computes in float32), with
rank_bm25 to 1e-6. Exits 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

import attrstore
from attrstore.ingest.lexical import ingest_lexical
from attrstore.methods import METHODS, Request
from attrstore.scoring import selected
from benchmarks.rows import Row, conclude

VOCABULARY = 200_000
MEAN_LENGTH = 50
QUERIES, TOP_K = 1000, 100
SAMPLE = 5  # queries for rank_bm25
MOST_FOR_RANK_BM25 = 200_000  # passages: it keeps a dictionary for each
INSERT_TEXTS = (
    "INSERT INTO examples SELECT n + i, (n + i)::VARCHAR, text, NULL, NULL, 0 "
    "FROM texts CROSS JOIN (SELECT count(*) AS n FROM examples)"
)
INSERT_QUERIES = "INSERT INTO queries SELECT i, i::VARCHAR, '', text, NULL, 0 FROM texts"
Scores = np.ndarray[Any, np.dtype[np.float64]]


def vocabulary() -> list[str]:
    """Made-up words, the frequent ones short."""
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    words = []
    for rank in range(VOCABULARY):
        word = syllables[rank % len(syllables)]
        while rank := rank // len(syllables):
            word += syllables[rank % len(syllables)]
        words.append(word)
    return words


def zipfian(lengths: np.ndarray[Any, np.dtype[np.int64]], seed: int) -> list[str]:
    """Texts of given numbers of words; the r-th word has a share of about 1 / (r + 2.7)."""
    share = (1 / (np.arange(VOCABULARY) + 2.7)).cumsum()
    draw = np.random.default_rng(seed)
    words = np.array(vocabulary(), dtype=object)
    texts = []
    for some in np.array_split(lengths, max(1, len(lengths) // 10_000)):
        drawn = words[share.searchsorted(draw.random(some.sum()) * share[-1], side="right")]
        texts += [" ".join(text) for text in np.split(drawn, some.cumsum()[:-1])]
    return texts


def corpus(passages: int, seed: int = 0) -> list[str]:
    """Passages of about 50 words, some of them three times as long."""
    spread = np.random.default_rng(seed + 1).lognormal(-0.1, 0.45, passages)
    return zipfian(np.maximum(1, np.rint(MEAN_LENGTH * spread)).astype(np.int64), seed)


def put(store: attrstore.Store, insert: str, texts: list[str]) -> None:
    """Insert texts, numbered from 1 on."""
    table = pyarrow.table({"i": np.arange(1, len(texts) + 1), "text": texts})
    with store.transaction(), store.registered(texts=table):
        store.execute(insert)


class Clock:
    """The seconds of each step in each round."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        yield
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        print(f"{name:14} {self.seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)


def scores_of(store: attrstore.Store, **options: Any) -> Scores:
    """The top scores of each query, best first, 0 where fewer examples share a word."""
    with selected(store, None):
        pairs = METHODS["bm25"].rank(store, Request(TOP_K, METHODS["bm25"].with_options(options))).pairs
    scores = np.zeros((QUERIES, TOP_K))
    scores[pairs["query_id"].to_numpy() - 1, pairs["rank"].to_numpy() - 1] = pairs["score"].to_numpy()
    return scores


class Peer:
    """bm25s with the same tokens and the same formula."""

    def __init__(self) -> None:
        self.library = importlib.import_module("bm25s")
        self.tokens = {"stopwords": None, "token_pattern": r"(?u)\w+", "show_progress": False}

    def index(self, texts: list[str]) -> None:
        """Tokenise and index."""
        self.model = self.library.BM25(method="lucene")
        self.model.index(self.library.tokenize(texts, **self.tokens), show_progress=False)

    def search(self, queries: list[str]) -> Scores:
        """The top scores of each query."""
        asked = self.library.tokenize(queries, **self.tokens)
        scores: Scores = self.model.retrieve(asked, k=TOP_K, show_progress=False).scores
        return scores


def installed() -> Peer | None:
    """Return bm25s, or None with a word about it."""
    try:
        return Peer()
    except ImportError:
        print("bm25s is not installed: its rows are left out (pip install bm25s)", file=sys.stderr)
        return None


def measure(
    folder: Path, texts: list[str], queries: list[str], rounds: int, threads: int, peer: Peer | None
) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each step in each round, and the largest difference from bm25s's scores."""
    later = corpus(max(1, len(texts) // 100), seed=7)
    base, path = folder / "base.duckdb", folder / "round.duckdb"
    with attrstore.open(base, create=True) as store:
        put(store, INSERT_TEXTS, texts)
        put(store, INSERT_QUERIES, queries)
    clock, difference = Clock(), 0.0
    for _ in range(rounds):
        shutil.copy(base, path)
        with attrstore.open(path, writable=True) as store:
            store.execute("SET threads = $threads", {"threads": threads})
            with clock("index"):
                ingest_lexical(store, variant="lucene")
            if peer:
                with clock("bm25s index"):
                    peer.index(texts)
            with clock("search"):
                found = scores_of(store)
            if peer:
                with clock("bm25s search"):
                    expected = peer.search(queries)
                difference = max(difference, float(np.abs(found - expected).max()))
            put(store, INSERT_TEXTS, later)
            with clock("append"):
                ingest_lexical(store)
    return clock.seconds, difference


def against_rank_bm25(folder: Path, texts: list[str], queries: list[str]) -> tuple[list[float], float]:
    """Seconds of rank_bm25 for each sampled query, and the largest difference from its scores."""
    from rank_bm25 import BM25Okapi

    with attrstore.open(folder / "base.duckdb", writable=True) as store:
        ingest_lexical(store, variant="okapi")
        found = scores_of(store)
    model = BM25Okapi([text.split() for text in texts])
    times, difference = [], 0.0
    for number in range(SAMPLE):
        start = time.perf_counter()
        scores = model.get_scores(queries[number].split())
        best = np.sort(np.partition(scores, -TOP_K)[-TOP_K:])[::-1]
        times.append(time.perf_counter() - start)
        difference = max(difference, float(np.abs(best - found[number]).max()))
    return times, difference


def spread(values: list[float], scale: Callable[[float], float] = lambda value: value) -> str:
    """Median and range."""
    middle, ends = scale(statistics.median(values)), sorted((scale(min(values)), scale(max(values))))
    return f"{middle:,.3g} ({ends[0]:,.3g} to {ends[1]:,.3g})"


def rows(passages: int = 100_000, rounds: int = 3, threads: int = 1, folder: Path | None = None) -> list[Row]:
    """Measure, and hold the figures against the goals."""
    texts, peer = corpus(passages), installed()
    queries = zipfian(np.random.default_rng(2).integers(4, 13, QUERIES), seed=3)
    size = f"{passages:,} passages"

    def rate(value: float) -> float:
        return QUERIES / value

    def beats_bm25s(what: str, unit: str, scale: Callable[[float], float]) -> Row:
        ours, theirs = times[what], times.get(f"bm25s {what}", [])
        ratio = statistics.median(theirs) / statistics.median(ours) if theirs else None
        return Row(
            f"BM25 {what}, {size}: at least as fast as bm25s",
            f"{spread(ours, scale)} {unit}",
            f"{spread(theirs, scale)} {unit}" if theirs else "not installed",
            ratio,
            None if ratio is None else ratio >= 1,
            bound=1,
        )

    with tempfile.TemporaryDirectory(dir=folder) as made:
        times, difference = measure(Path(made), texts, queries, rounds, threads, peer)
        measured = [
            beats_bm25s("index", "s", lambda value: value),
            beats_bm25s("search", "queries/s", rate),
        ]
        if peer:
            name = f"BM25 top {TOP_K}, {size}: bm25s's scores to 1e-4"
            measured.append(Row(name, f"{difference:.1e}", "", None, difference <= 1e-4))
        if passages <= MOST_FOR_RANK_BM25:
            slow, difference = against_rank_bm25(Path(made), texts, queries)
            ratio = rate(statistics.median(times["search"])) * statistics.fmean(slow)
            name = f"BM25 search, {size}: 50 x rank_bm25, scores to 1e-6"
            theirs = f"{1 / statistics.fmean(slow):.3g} queries/s"
            ours = f"{spread(times['search'], rate)} queries/s, {difference:.1e}"
            measured.append(Row(name, ours, theirs, ratio, ratio >= 50 and difference <= 1e-6, 50))
    share = statistics.median(times["append"]) / statistics.median(times["index"])
    name = f"BM25, {size}: appending 1% under 3% of a rebuild"
    measured.append(
        Row(name, f"{spread(times['append'])} s", f"{spread(times['index'])} s", share, share < 0.03, 0.03)
    )
    return measured


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of DuckDB")
    parser.add_argument("--folder", type=Path, help="where the stores are made")
    conclude(rows(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
