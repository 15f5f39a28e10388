"""What the page keeps between requests: never a number of a file that has changed since, and never too much."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import attrstore
from attrstore.web import kept, kinds, lease, stretch
from attrstore.web.app import application
from attrstore.web.kept import Kept, Snapshot
from attrstore.web.stretch import Stretch
from tests import hostile, scored

HOST = "127.0.0.1:8642"
VIEWS = ("/", "/query?id=q3&a=cosine&b=bm25", "/example?id=e1")


@pytest.fixture
def world(path: Path, monkeypatch: pytest.MonkeyPatch) -> scored.World:
    """A scored store at `path`, which pages let go at once."""
    monkeypatch.setattr(lease, "LINGER", 0.0)
    with attrstore.open(path, create=True) as store:
        return scored.fill(store)


def opened(path: Path) -> TestClient:
    return TestClient(
        application(path, token="secret", hosts=frozenset({HOST})),
        base_url=f"http://{HOST}",
        cookies={"attrstore-8642": "secret"},
    )


def pages(browser: TestClient) -> list[str]:
    return [browser.get(view).text for view in VIEWS]


def anew(path: Path) -> list[str]:
    with opened(path) as browser:
        return pages(browser)


def writable(path: Path) -> attrstore.Store:
    """Open for writing as soon as the page has let go: in one process DuckDB does not allow both."""
    for _ in range(200):
        try:
            return attrstore.open(path, writable=True)
        except attrstore.StoreError:
            time.sleep(0.01)
    raise AssertionError("the page never let go of the store")


def wait_until_closed(path: Path) -> None:
    while str(path) in {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}:
        time.sleep(0.01)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE scores SET rank = 13 - rank WHERE scoring_id = 'cosine' AND rank BETWEEN 1 AND 12",
        "UPDATE labels SET label = 1 - label",
        "DELETE FROM scores WHERE scoring_id = 'bm25'; DELETE FROM scorings WHERE scoring_id = 'bm25'",
    ],
)
def test_pages_after_a_write_are_those_of_a_server_started_after_it(
    path: Path, world: scored.World, change: str
) -> None:
    with opened(path) as browser:
        before = pages(browser)
        assert pages(browser) == before
        with writable(path) as store:
            store.execute(change)
        after = pages(browser)
    assert after == anew(path)
    assert after[1] != before[1]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's list of open files")
def test_another_file_at_the_path_is_seen_whatever_its_times_and_size_say(
    path: Path, world: scored.World, tmp_path: Path
) -> None:
    other = tmp_path / "other.duckdb"
    shutil.copy2(path, other)
    with attrstore.open(other, writable=True) as store:
        store.execute("UPDATE queries SET prompt = 'asked otherwise'")
    os.truncate(other, max(other.stat().st_size, path.stat().st_size))
    os.truncate(path, other.stat().st_size)
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    with opened(path) as browser:
        assert "asked otherwise" not in "".join(pages(browser))
        writable(path).close()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        pages(browser)
        wait_until_closed(path)
        shutil.copy2(other, path)  # in place: the same inode, size and time of writing
        assert all("asked otherwise" in page for page in pages(browser)[:2])
        third = tmp_path / "third.duckdb"
        shutil.copy2(other, third)
        with attrstore.open(third, writable=True) as store:
            store.execute("UPDATE queries SET prompt = 'asked a third time'")
        os.replace(third, path)
        assert all("asked a third time" in page for page in pages(browser)[:2])


def test_what_a_killed_writer_had_committed_is_seen(path: Path, world: scored.World) -> None:
    code = (
        "import attrstore, os, signal, sys; s = attrstore.open(sys.argv[1], writable=True); "
        "s.execute(\"UPDATE queries SET prompt = 'committed'\"); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with opened(path) as browser:
        before = path.stat()
        assert "committed" not in "".join(pages(browser))
        time.sleep(0.1)
        assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
        after = path.stat()
        assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)  # it is in the log
        assert all("committed" in page for page in pages(browser)[:2])


def test_a_writer_starts_beside_an_open_page_and_the_page_says_so(
    path: Path, world: scored.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "TRUSTED", 0.2)
    code = "import attrstore, sys; s = attrstore.open(sys.argv[1], writable=True); print('open', flush=True); input()"
    with opened(path) as browser:
        before = pages(browser)
        time.sleep(0.1)
        with subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            time.sleep(0.3)
            answers = [browser.get(view) for view in VIEWS]
            assert {answer.status_code for answer in answers} == {503}
            writer.communicate(b"\n")
        assert pages(browser) == before


def test_a_kept_page_is_given_out_without_opening_the_file(
    path: Path, world: scored.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as browser:
        before = pages(browser)
        monkeypatch.setattr(attrstore, "open", None)
        assert pages(browser) == before


def test_readers_at_once_get_what_one_gets(path: Path, world: scored.World) -> None:
    views = [f"/query?id=q{q}&a=cosine" for q in range(8)]
    with opened(path) as browser:
        alone = {view: browser.get(view).text for view in views}
    asked = random.Random(0).sample(views * 2, len(views) * 2)
    with opened(path) as browser, ThreadPoolExecutor(12) as threads:
        assert all(
            text == alone[view]
            for view, text in zip(asked, threads.map(lambda v: browser.get(v).text, asked), strict=True)
        )


def test_what_several_ask_for_at_once_is_found_out_once() -> None:
    results, calls, begun = Kept(), [], threading.Event()

    def make() -> int:
        calls.append(1)
        begun.wait(5)
        return 7

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(results.once, "n", make) for _ in range(8)]
        begun.set()
        assert [one.result() for one in asked] == [7] * 8
    assert len(calls) == 1


def test_what_failed_is_asked_again_and_none_is_an_answer() -> None:
    results = Kept()
    with pytest.raises(ZeroDivisionError):
        results.once("n", lambda: 1 // 0)
    assert results.once("n", lambda: None) is None
    assert results.once("n", lambda: 5) is None


@pytest.mark.parametrize(
    "kind, made", [("page", bytes(300)), ("stretch", Stretch({"query_id": np.zeros(10), "n": np.zeros(10)}))]
)
def test_what_has_a_size_is_kept_up_to_a_number_of_bytes(
    monkeypatch: pytest.MonkeyPatch, kind: str, made: object
) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES", {"stretch": 500})
    monkeypatch.setattr(kept, "KEPT_BYTES_OTHERS", 1_000)
    results = Kept()
    for other in ("page", "stretch"):  # each has its own bound
        results.once(other, lambda: bytes(400), "large")
    for i in range(100):
        results.once(kind, lambda: made, i)
        results.find(kind, 0)  # the one asked for last stays
    assert [i for i in range(100) if results.find(kind, i)] == [0, 98, 99]
    assert [results.find(other, "large") is None for other in ("page", "stretch")] == [
        kind == "page",
        kind == "stretch",
    ]


STATEMENTS = {
    "ranked": "SELECT query_id, example_id, rank, score FROM scores WHERE scoring_id = $scoring",
    "labels": "SELECT query_id, example_id, max(label) FROM labels GROUP BY ALL",
}


@pytest.mark.parametrize("length", [1, 4, 5, 32])
@pytest.mark.parametrize("name, asked", [("ranked", {"scoring": "cosine"}), ("labels", {})])
def test_a_stretch_holds_of_each_query_what_is_its_own(
    path: Path,
    world: scored.World,
    monkeypatch: pytest.MonkeyPatch,
    length: int,
    name: str,
    asked: dict[str, str],
) -> None:
    monkeypatch.setattr(stretch, "LENGTH", length)
    with attrstore.open(path) as store:
        snapshot, every = Snapshot(store), store.rows(STATEMENTS[name], asked)
        assert every
        for q in range(scored.N_QUERIES + 1):
            found = stretch.rows(snapshot, name, q, **asked)
            assert sorted(found) == sorted(row[1:] for row in every if row[0] == q)


def test_rows_of_a_stretch_come_in_any_order() -> None:
    ids, values = np.array([5.0, 2, 5, 3, 2]), np.array([0.0, 1, 2, 3, 4])
    found = Stretch({"query_id": ids, "value": values})
    assert [found.of(q) for q in (1, 2, 3, 4, 5)] == [[], [(1,), (4,)], [(3,)], [], [(0,), (2,)]]


def test_the_page_of_a_neighbour_asks_only_for_the_query_and_its_texts(
    path: Path, world: scored.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, named = [], attrstore.Store.named

    def noting(
        store: attrstore.Store, file: str, name: str, parameters: dict[str, object] | None = None
    ) -> object:
        if file == "web":
            asked.append(name)
        return named(store, file, name, parameters)

    with opened(path) as browser:
        browser.get("/query?id=q3&a=cosine&b=bm25")
        monkeypatch.setattr(attrstore.Store, "named", noting)
        assert browser.get("/query?id=q4&a=cosine&b=bm25").status_code == 200
    assert asked == ["query", "example_texts"]


def test_a_file_that_is_always_read_is_opened_anew_once_in_a_while(
    path: Path, world: scored.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LINGER", 60.0)
    monkeypatch.setattr(lease, "LEASES", 10)
    openings, open_ = [], attrstore.open

    def counted(path: Path) -> attrstore.Store:
        openings.append(path)
        return open_(path)

    monkeypatch.setattr(attrstore, "open", counted)
    held = lease.Lease(path)

    def read(i: int) -> int:
        with held.open() as snapshot:
            snapshot.once("n", lambda _: i)  # what was found out stays: the file is the same
            return int(snapshot.store.value("SELECT count(*) FROM queries")) + snapshot.once(
                "n", lambda _: -1
            )

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(read, range(35)))
    held.close()
    assert len(set(found)) == 1
    assert len(openings) == 4


def test_words_are_those_of_the_macro_whatever_the_letters(path: Path, world: scored.World) -> None:
    letters = [chr(c) for c in (*range(1, 0x300), *range(0x300, 0x110000, 97)) if not 0xD800 <= c <= 0xDFFF]
    texts = [f"A{c}b Σ{c}{c} {c}" for c in letters]
    with attrstore.open(path) as store:
        expected = store.rows(
            "SELECT words_of(t) FROM (SELECT unnest($texts::VARCHAR[]) AS t)", {"texts": texts}
        )
        found = kinds.words_of(Snapshot(store), texts)
    assert [words[1:-1] for words in found] == [words for (words,) in expected]


def test_kinds_are_those_of_the_view(path: Path, world: scored.World) -> None:
    """Over texts with and without letters beyond ASCII, subjects that are empty, and words that only look alike."""
    texts = [
        *hostile.TEXTS.values(),
        "Old-Town mill",
        "the OLD town",
        "ÉCOLE old",
        "İstanbul école",
        "oldtown",
    ]
    subjects = ["old town", "Old-Town", "école", "", "--", "i̇stanbul", "mill"]
    with attrstore.open(path, writable=True) as store:
        for e, text in enumerate(texts):
            store.execute("UPDATE examples SET text = $t, metadata = $m WHERE example_id = $e",
                          {"t": text, "e": e, "m": f'{{"relation": "r{e % 2}"}}'})  # fmt: skip
        for q, subject in enumerate(subjects):
            store.execute(
                "UPDATE queries SET metadata = json_object('subject', $s, 'object', 'mill', 'relation', 'r1') "
                "WHERE query_id = $q",
                {"s": subject, "q": q},
            )
        store.execute("DELETE FROM labels")
        store.execute("DELETE FROM scores")
        store.execute(
            "INSERT INTO scores SELECT 'cosine', q, e, e + 1, 0 FROM range($q) q(q), range($e) e(e)",
            {"q": len(subjects), "e": len(texts)},
        )
        store.execute("INSERT INTO labels VALUES (0, 0, 1, NULL), (1, 0, 0, NULL)")
        expected = store.rows("SELECT query, example, kind FROM classed_proponents ORDER BY ALL")
        labels = dict.fromkeys([(0, 0)], 1.0)
        found, snapshot = [], Snapshot(store)
        for q, subject in enumerate(subjects):
            spelt, mill, *words = kinds.words_of(snapshot, [subject, "mill", *texts])
            found += [
                (
                    f"q{q}",
                    f"e{e}",
                    kinds.kind(labels.get((q, e)), text, spelt, mill, same_relation=e % 2 == 1),
                )
                for e, text in enumerate(words)
            ]
    assert sorted(found) == expected
    assert len({kind for _, _, kind in expected}) == 6
