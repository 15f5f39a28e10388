"""Workers of a Ray cluster of this machine: the same rows and ranks as one process, whatever is killed."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import attrstore
from attrstore import cluster, shards
from attrstore.cli import main
from attrstore.errors import MismatchError
from attrstore.folders import folder_at
from attrstore.ingest.encode import job
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.workers import encode_with_workers
from attrstore.scoring import score, score_on_ray
from attrstore.vectors import scan
from tests import tiny

QUERIES = [("a b c", " d"), ("north of the", " river"), ("the river", " bank")]
N = 70  # examples, in five ranges
SMALL: dict[str, Any] = {"projection_dim": 4, "batch_tokens": 64}
ENCODINGS = ("FROM encodings ORDER BY encoder_id, example_id", "FROM query_encodings ORDER BY ALL")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 # by default they give way to whatever else there is
SCORES = "SELECT query_id, example_id, rank, score FROM scores ORDER BY ALL"
METHODS: dict[str, dict[str, Any]] = {  # the first two in a cluster, which takes seconds each
    "cosine-block": {"where": "example_id % 3 > 0"}, "trackstar": {"top_k": 5}, "dot": {}, "less": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.checkpoint(tmp_path_factory.mktemp("model"))
    tiny.adam_state(folder)
    return folder


def made(path: Path) -> Path:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES)
        store.execute("INSERT INTO labels SELECT query_id, example_id, 1, NULL FROM queries, examples "
                      "WHERE (query_id + example_id) % 9 = 0")  # fmt: skip
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job, "SHARD", 16)
    return made(tmp_path / "store.duckdb")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A store that one process made."""
    path = made(tmp_path_factory.mktemp("alone") / "store.duckdb")
    with pytest.MonkeyPatch.context() as patch, attrstore.open(path, writable=True) as store:
        patch.setattr(job, "SHARD", 16)
        ingest_gradients(store, model=model, **SMALL)
        ingest_gradients(store, model=model, optimizer_state="none", **SMALL)
    return path


@pytest.fixture(scope="module")
def joined() -> Iterator[None]:
    """One cluster for several tests: to start one takes longer than they do."""
    with cluster.connected(2, 0):
        yield


def rows(path: Path, *queries: str) -> list[list[tuple[Any, ...]]]:
    with attrstore.open(path) as store:
        return [store.rows(query) for query in queries]


def agree(path: Path, method: str, progress: Any) -> None:
    """Rank in one process and in parts, and hold the scorings against each other."""
    options = METHODS[method]
    with attrstore.open(path, writable=True) as store:
        expected = score(store, method, **options)
        scores = store.rows(SCORES)
        store.execute("DELETE FROM scores")
    found = score_on_ray(path, method, workers=2, progress=progress, **options)
    assert (found.spec, found.n_examples) == (expected.spec, expected.n_examples)
    with attrstore.open(path, writable=True) as store:
        assert store.rows(SCORES) == scores
        assert len(scores) > 2 * 5 * len(QUERIES)
        assert store.rows("SELECT job, state FROM runs ORDER BY run_id DESC LIMIT 1") == [
            ("score", "finished")
        ]
        for table in ("scores", "scorings", "scoring_queries", "scoring_inputs"):
            store.execute(f"DELETE FROM {table}")


def descendants(process: int) -> Iterator[int]:
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        yield int(child)
        yield from descendants(int(child))


def command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def actors(process: int) -> list[int]:
    return [child for child in descendants(process) if command(child).startswith("ray::Kept")]


@pytest.mark.slow
def test_ray_encodes_what_one_process_does_while_actors_are_killed(
    joined: None, path: Path, model: Path, alone: Path
) -> None:
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done < total and len(killed) < 2:
            killed.append(actors(os.getpid())[0])
            os.kill(killed[-1], signal.SIGKILL)

    for state in (None, "none"):
        done = encode_with_workers(
            path, "gradient", 2, engine="ray", progress=kill, model=model, optimizer_state=state, **SMALL
        )
        assert (done.rows, done.shards, done.missing) == (N, 5, 0)
    assert len(set(killed)) == 2
    assert rows(path, *ENCODINGS) == rows(alone, *ENCODINGS)
    assert not path.with_name("store.duckdb.shards").exists()


@pytest.mark.slow
def test_ray_ranks_as_one_process_does(joined: None, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "rows_at_once", lambda encoder: 9)  # eight parts; the workers do not see this
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.append(actors(os.getpid())[0])
            os.kill(killed[-1], signal.SIGKILL)

    for method in list(METHODS)[:2]:
        agree(alone, method, kill)
    assert killed


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on(path: Path, model: Path, alone: Path) -> None:
    ingest = ["ingest", "gradients", path, "--model", model, "--projection-dim", "4", "--batch-tokens", "64"]
    on_ray = [str(a) for a in [*ingest, "--engine", "ray", "--workers", "2"]]
    script = "from attrstore.cli import main\nfrom attrstore.ingest.encode import job\njob.SHARD = 16\nmain()"
    folder = path.with_name("store.duckdb.shards")
    driver = subprocess.Popen([sys.executable, "-c", script, *on_ray])
    while not list(folder.glob("*.json")):
        assert driver.poll() is None
        time.sleep(0.02)
    left = list(descendants(driver.pid))
    driver.kill()
    driver.wait()
    finished = set(shards.finished(folder_at(folder))[0])
    assert 0 < len(finished) <= 5
    again = subprocess.run(
        [sys.executable, "-c", script, *on_ray], capture_output=True, text=True, check=True
    )
    assert f"{path}: 70 encodings of k4-halfbit-factored from 5 files." in again.stdout
    with attrstore.open(alone) as store:
        (encoder,) = store.rows("SELECT encoder_id FROM encoders WHERE name = 'k4-halfbit-factored'")[0]
        expected = [[row for row in store.rows(query) if row[0] == encoder] for query in ENCODINGS]
    assert rows(path, *ENCODINGS) == expected
    assert not any(command(process).startswith("ray::Kept") for process in left)
    assert again.stderr == ""


class Here:
    """Does what a crew does, in this process and the last part first; what is sent to workers is pickled."""

    def __init__(self, make: Any) -> None:
        self.kept = pickle.loads(pickle.dumps(make))()

    def first(self, verb: str) -> Any:
        return getattr(self.kept, verb)()

    def each(self, verb: str, parts: list[Any]) -> Iterator[Any]:
        for part in reversed(parts):
            yield pickle.loads(pickle.dumps(getattr(self.kept, verb)(*part)))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def crew(make: Any, n: int | None, device: str = "auto", n_bytes: int = 0) -> Iterator[Here]:
        started = Here(make)
        yield started
        started.kept.close()

    monkeypatch.setattr(cluster, "crew", crew)
    monkeypatch.setattr(scan, "rows_at_once", lambda encoder: 9)  # eight parts


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_ranges_on_a_crew_are_one_process_s(path: Path, model: Path, alone: Path) -> None:
    seen: list[tuple[int, int]] = []
    for state in (None, "none"):
        encode_with_workers(
            path, "gradient", engine="ray", progress=lambda done, total: seen.append((done, total)),
            model=model, optimizer_state=state, **SMALL,
        )  # fmt: skip
    assert seen[:5] == [(6, N), (22, N), (38, N), (54, N), (N, N)]
    assert rows(path, *ENCODINGS) == rows(alone, *ENCODINGS)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("method", METHODS)
def test_parts_of_a_scan_give_the_ranks_of_the_whole(alone: Path, method: str) -> None:
    agree(alone, method, lambda done, total: None)


@pytest.mark.usefixtures("here")
def test_a_store_that_changes_while_it_is_scanned_keeps_nothing(alone: Path) -> None:
    path = Path(shutil.copy(alone, alone.with_name("changed.duckdb")))
    kept = "FROM scorings", "FROM runs"
    before = rows(path, *kept)
    with pytest.MonkeyPatch.context() as patch:
        writing = attrstore.open

        def opened(path: Path, *, writable: bool = False) -> attrstore.Store:
            store = writing(path, writable=writable)
            if writable:
                store.execute(
                    "UPDATE examples SET text = 'b', content_hash = md5_number('b') WHERE example_id = 3"
                )
            return store

        patch.setattr(attrstore, "open", opened)
        with pytest.raises(MismatchError, match="changed while it was scanned, so nothing was kept"):
            score_on_ray(path, "dot")
    assert rows(path, *kept) == before


def test_what_ray_is_not_for_is_refused(path: Path, alone: Path, model: Path) -> None:
    def refused(*arguments: object) -> str:
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code == 2, done.output
        return done.output

    ingest = ["ingest", "gradients", path, "--model", model]
    assert "--workers 0: must be at least 1" in refused(*ingest, "--engine", "ray", "--workers", 0)
    assert "--devices: Ray gives each worker its own" in refused(
        *ingest, "--engine", "ray", "--devices", "cpu"
    )
    assert "--engine processes: say how many, with --workers N" in refused(*ingest, "--engine", "processes")
    on_ray = ["score", alone, "--engine", "ray"]
    assert "'ray' is not one of 'maxscore', 'rank-bm25'" in refused(*on_ray, "bm25")
    for method in ("tracincp", "mirrored"):
        assert "does not scan the encodings of one encoder. Leave it out." in refused(*on_ray, method)
    assert "--group-by source: needs every score in one process" in refused(
        *on_ray, "dot", "--group-by", "source"
    )
    assert "--workers 2: goes with --engine ray" in refused("score", alone, "dot", "--workers", 2)
