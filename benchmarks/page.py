"""How fast the page is while many read it.

python benchmarks/page.py STORE --readers 50 --pause 1 --pages 1000
"""

from __future__ import annotations

import argparse
import http.client
import random
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import attrstore


def main() -> None:
    """Serve the store in a process of its own, read queries at random, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds that a reader reads")
    parser.add_argument("--pages", type=int, default=1000)
    given = parser.parse_args()
    with attrstore.open(given.store) as store:
        names = [row[0] for row in store.rows("SELECT external_id FROM queries")]
    command = [sys.executable, "-m", "attrstore", "serve", str(given.store), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().rsplit("http://", 1)[1].strip()
            host, token = address.split("/?token=")
            cookie = f"attrstore-{host.rpartition(':')[2]}={token}"
            time.sleep(1)
            first = timed(host, cookie, "/")
            print(f"list, first: {first * 1e3:.0f} ms; again: {timed(host, cookie, '/') * 1e3:.0f} ms")
            before = memory(server.pid)
            times = sorted(read(host, cookie, names, given.readers, given.pages, given.pause))
            after = memory(server.pid)
        finally:
            server.terminate()
    at = {share: times[min(len(times) - 1, int(len(times) * share))] * 1e3 for share in (0.5, 0.9, 0.99)}
    shown = ", ".join(f"p{share * 100:.0f} {ms:.0f} ms" for share, ms in at.items())
    print(f"{len(times):,} query pages, {given.readers} readers, a pause of {given.pause:g} s: {shown}")
    print(f"memory of the server: {before:.0f} MB before, {after:.0f} MB after")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"CPU of the server: {(used.ru_utime + used.ru_stime) / len(times) * 1e3:.0f} ms a page, its start included"
    )


def timed(host: str, cookie: str, path: str) -> float:
    """Return the seconds until a page is there, over a connection of its own."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection(host)
    connection.request("GET", path, headers={"Cookie": cookie})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status}")
    return time.perf_counter() - started


def read(host: str, cookie: str, names: list[str], readers: int, pages: int, pause: float) -> list[float]:
    """Let many readers open queries, each waiting for a page and then reading it."""
    times: list[float] = []

    def one(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(pages // readers):
            time.sleep(chance.expovariate(1 / pause) if pause else 0)
            times.append(timed(host, cookie, f"/query?id={quote(chance.choice(names))}"))

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
