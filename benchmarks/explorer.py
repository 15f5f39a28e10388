"""How fast the page is while many read it, what memory its server takes, and how soon a large list is there.

    python -m benchmarks.explorer STORE [--readers 50] [--requests 5000] [--queries 100000]

STORE is any scored store: the goals are those of 708 queries and 16 scorings. Three rounds of query pages:

    new pages        every query once, 50 readers with a mean of a second to read each page
    kept pages       the same queries again and again, 50 requests under way at all times
    any two scorings the same, each page with two scorings drawn at random, so that few are kept

and the list of a store made up on the spot, of many queries with 100 pairs each under two scorings, in servers that
were just started. Exits 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import attrstore
from benchmarks.rows import Row, conclude
from benchmarks.synthetic import put_scorings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P99 = 150.0  # ms
LIST = 500.0  # ms
GROWTH = 0.05  # of the memory after the first thousand requests
EVERY = 1_000  # requests between two looks at the memory
STARTS = 5
METADATA = (
    "UPDATE queries SET metadata = json_object('relation', 'r' || query_id % 20, 'frequency', query_id % 9)"
)


class Server(NamedTuple):
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    host: str
    cookie: str

    def memory(self) -> float:
        """Return its resident memory in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    def processor(self) -> float:
        """Return the seconds of processor time that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Round(NamedTuple):
    """What one round took."""

    milliseconds: list[float]  # of each request, sorted
    memory: list[float]  # before the first request and after each thousand, in MB
    processor: float  # milliseconds a request

    def at(self, share: float) -> float:
        """Return a quantile of the times."""
        return self.milliseconds[min(len(self.milliseconds) - 1, int(len(self.milliseconds) * share))]

    def says(self) -> str:
        """Return the quantiles, the processor time and the memory in words."""
        times = ", ".join(f"p{share * 100:.0f} {self.at(share):.0f} ms" for share in (0.5, 0.9, 0.99))
        memory = " ".join(f"{n:.0f}" for n in self.memory)
        pages = f"{len(self.milliseconds):,} pages"
        return f"{pages}: {times}; processor {self.processor:.1f} ms a page; memory {memory} MB"


@contextmanager
def serving(store: Path) -> Iterator[Server]:
    """Serve a store."""
    command = [sys.executable, "-m", "attrstore", "serve", str(store), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().rsplit("http://", 1)[1].strip()
            host, token = address.split("/?token=")
            yield Server(process, host, f"attrstore-{host.rpartition(':')[2]}={token}")
        finally:
            process.terminate()


def get(connection: http.client.HTTPConnection, cookie: str, path: str) -> float:
    """Return the milliseconds until a page is there."""
    started = time.perf_counter()
    try:
        connection.request("GET", path, headers={"Cookie": cookie})
        answer = connection.getresponse()
    except (
        http.client.RemoteDisconnected,
        BrokenPipeError,
    ):  # the server closes what was idle for five seconds
        connection.close()
        connection.request("GET", path, headers={"Cookie": cookie})
        answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status}")
    return (time.perf_counter() - started) * 1e3


def read(server: Server, readers: int, pages: list[str], pause: float) -> Round:
    """Let many readers fetch pages, each over a connection that it keeps, as browsers do."""
    times: list[float] = []
    memory = [server.memory()]
    left = iter(pages)
    lock = threading.Lock()
    before = server.processor()

    def one(seed: int) -> None:
        chance = random.Random(seed)
        connection = http.client.HTTPConnection(server.host)
        while True:
            if pause:
                time.sleep(chance.expovariate(1 / pause))
            with lock:
                page = next(left, None)
            if page is None:
                return
            taken = get(connection, server.cookie, page)
            with lock:
                times.append(taken)
                if len(times) % EVERY == 0:
                    memory.append(server.memory())

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(times) != len(pages):
        raise RuntimeError(f"{len(pages) - len(times):,} pages of {len(pages):,} were not answered")
    return Round(sorted(times), memory, (server.processor() - before) * 1e3 / len(times))


def query_pages(store: Path, readers: int, requests: int) -> Iterator[Row]:
    """Yield the rows of the three rounds."""
    with attrstore.open(store) as opened:
        names = [name for (name,) in opened.rows("SELECT external_id FROM queries ORDER BY query_id")]
        scorings = [name for (name,) in opened.rows("SELECT name FROM scorings ORDER BY name")]
    chance = random.Random(0)
    new = [f"/query?{urlencode({'id': name})}" for name in chance.sample(names, len(names))]
    kept = chance.choices(new, k=requests)
    pairs = list(itertools.permutations(scorings, 2))
    any_two = [
        f"/query?{urlencode({'id': chance.choice(names), 'a': a, 'b': b})}"
        for a, b in chance.choices(pairs, k=requests)
    ]
    size = f"{len(names):,} queries, {len(scorings)} scorings, {readers} readers"
    with serving(store) as server:
        first = read(server, readers, new, 1.0)
        yield Row(
            f"p99 of a query page, new: {size}", first.says(), f"{P99:g} ms", *_held(first.at(0.99), P99)
        )
        again = read(server, readers, kept, 0.0)
        yield Row(f"p99 of a query page, kept: {size}, no pause", again.says(), f"{P99:g} ms",
                  *_held(again.at(0.99), P99))  # fmt: skip
        drawn = read(server, readers, any_two, 0.0)
        yield Row("p99 of any two scorings, no pause", drawn.says(), "", None, None)
    for says, memory in (("kept", again.memory), ("any two scorings", drawn.memory)):
        warm, most = memory[1], max(memory[1:])
        yield Row(f"memory after {EVERY:,} requests and the most of {requests:,}, {says}",
                  f"{warm:.0f} MB, {most:.0f} MB", f"growth of {GROWTH:.0%}",
                  *_held(most / warm - 1, GROWTH))  # fmt: skip


def _held(measured: float, bound: float) -> tuple[float, bool, float]:
    return measured / bound, measured <= bound, 1.0


def large_list(queries: int) -> Iterator[Row]:
    """Yield the rows of a list of many queries, each measured in servers that were just started."""
    shown: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.duckdb"
        with attrstore.open(path, create=True) as store:
            put_scorings(store, queries, queries)
            store.execute(METADATA)
        for _ in range(STARTS):
            with serving(path) as server:
                fetch = _fetcher(server)
                shown.setdefault("first", []).append(fetch("/"))
                os.utime(path)  # as if it had been written: nothing that is kept may be used
                shown.setdefault("first after a write", []).append(fetch("/"))
                shown.setdefault("again", []).append(fetch("/"))
                shown.setdefault("its last page", []).append(fetch("/?page=1000000"))
                shown.setdefault("by agreement", []).append(fetch("/?sort=disagree"))
                shown.setdefault("by agreement, page 2", []).append(fetch("/?sort=disagree&page=2"))
                memory = server.memory()
    for name, times in shown.items():
        goal = (
            (f"{LIST:g} ms", *_held(statistics.median(times), LIST)) if "first" in name else ("", None, None)
        )
        says = f"{statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f}, {STARTS} starts)"
        yield Row(f"list of {queries:,} queries, {name}", says, *goal)
    yield Row("memory after it", f"{memory:.0f} MB", "", None, None)


def _fetcher(server: Server) -> Callable[[str], float]:
    connection = http.client.HTTPConnection(server.host)
    get(connection, server.cookie, "/static/icon.svg")
    return lambda path: get(connection, server.cookie, path)


def main() -> None:
    """Measure, print the table, and say whether the goals are reached."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.explorer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--queries", type=int, default=100_000, help="of the large list; 0 leaves it out")
    given = parser.parse_args()
    rows = list(query_pages(given.store, given.readers, given.requests))
    if given.queries:
        rows += large_list(given.queries)
    conclude(rows)


if __name__ == "__main__":
    main()
