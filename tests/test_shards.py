"""A sharded ingest: workers beside readers, files that are whole or named, and the same rows in the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import attrstore
from attrstore import shards
from attrstore.cli import main
from attrstore.errors import InputError, MismatchError
from attrstore.folders import folder_at
from attrstore.ingest.encode import job, processes, workers
from attrstore.ingest.encode.embeddings import ingest_embeddings
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.representations import ingest_representations
from attrstore.ingest.encode.sharded import write_shards
from attrstore.ingest.encode.worker import Worker, chosen
from attrstore.progress import silent
from attrstore.scoring import score
from tests import tiny

QUERIES = [("a b c", " d"), ("north of the", " river")]
N = 70  # examples, in five ranges
SMALL: dict[str, Any] = {"projection_dim": 4, "batch_tokens": 64}
TABLES = (
    "FROM encodings ORDER BY encoder_id, example_id",
    "FROM query_encodings ORDER BY ALL",
    "FROM projections ORDER BY ALL",
    "SELECT query_id, example_id, rank, score FROM scores ORDER BY ALL",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.checkpoint(tmp_path_factory.mktemp("model"))
    tiny.adam_state(folder)
    return folder


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SHARD", 16)
    monkeypatch.setattr(processes, "START", "fork")  # which inherits the line above, and what is imported


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with attrstore.open(tmp_path / "store.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES)
    return tmp_path / "store.duckdb"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, model: Path) -> list[list[tuple[Any, ...]]]:
    """The tables that a single process makes."""
    path = tmp_path_factory.mktemp("alone") / "store.duckdb"
    with pytest.MonkeyPatch.context() as patch, attrstore.open(path, create=True) as store:
        patch.setattr(job, "SHARD", 16)
        tiny.fill(store, tiny.sentences(N), QUERIES)
        ingest_gradients(store, model=model, kronecker_factors=True, **SMALL)
        score(store, "cosine-block")
        return [store.rows(query) for query in TABLES]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A store whose shards are finished and not attached."""
    path = tmp_path_factory.mktemp("made") / "store.duckdb"
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SHARD", 16)
        gradients(path, model)
    return path


@pytest.fixture
def made(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished.parent, tmp_path / "made")
    return tmp_path / "made" / finished.name


def gradients(path: Path, model: Path, rank: int = 0, size: int = 1, **options: Any) -> Any:
    options = {"kronecker_factors": True, **SMALL, **options}
    return write_shards(path, "gradient", path.parent / "shards", Worker(rank, size), model=model, **options)


def attached(path: Path) -> shards.Attached:
    with attrstore.open(path, writable=True) as store:
        return store.attach(path.parent / "shards")


def tables(path: Path) -> list[list[tuple[Any, ...]]]:
    with attrstore.open(path, writable=True) as store:
        score(store, "cosine-block")
        return [store.rows(query) for query in TABLES]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_number_of_workers_gives_the_rows_of_one_process(
    path: Path, model: Path, alone: list[Any], size: int
) -> None:
    written = [gradients(path, model, rank, size) for rank in reversed(range(size))]
    assert sorted(w.shards for w in written) == {1: [5], 2: [2, 3], 4: [1, 1, 1, 2]}[size]
    assert sum(w.rows for w in written) == N
    done = attached(path)
    assert (done.shards, done.rows, done.known, done.other_texts, done.missing) == (5, N, 0, 0, 0)
    assert tables(path) == alone
    again = attached(path)  # changes nothing
    assert (again.rows, again.known) == (0, N)
    assert gradients(path, model, 0, 1).rows == 0


def test_principal_directions_are_fitted_once_for_all_workers(
    path: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs: dict[str, Any] = {
        "rank": 1,
        "projection_dim": 8,
        "code": "1bit",
        "principal": True,
        "batch_tokens": 64,
    }
    monkeypatch.setattr(job, "SHARD", 16)
    with attrstore.open(tmp_path / "alone.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES)
        ingest_gradients(store, model=model, **pairs)
        score(store, "damped-block")
        expected = [store.rows(query) for query in TABLES]
    for rank in (1, 0):
        write_shards(path, "gradient", path.parent / "shards", Worker(rank, 2), model=model, **pairs)
    attached(path)
    with attrstore.open(path, writable=True) as store:
        score(store, "damped-block")
        assert [store.rows(query) for query in TABLES] == expected


def test_a_finished_file_is_not_done_again_and_what_is_new_is(made: Path, model: Path) -> None:
    path = made
    files = {file: file.stat().st_mtime_ns for file in (path.parent / "shards").iterdir()}
    assert gradients(path, model).shards == 0
    with attrstore.open(path, writable=True) as store:
        tiny.fill(store, tiny.sentences(3, seed=5), [])
        store.execute(
            "UPDATE examples SET text = 'a b c', content_hash = md5_number('a b c') WHERE example_id = 20"
        )
    assert gradients(path, model).rows == 4
    assert {file: file.stat().st_mtime_ns for file in files} == files
    done = attached(path)
    assert (done.rows, done.other_texts, done.missing) == (N + 3, 1, 0)
    with attrstore.open(path) as store:
        assert store.value("SELECT count(DISTINCT example_id) FROM encodings") == N + 3
        changed = "SELECT n_tokens FROM encodings WHERE example_id = 20"
        assert store.value(changed) == 3


def test_a_rank_that_never_starts_is_missed_and_made_up_for(
    path: Path, model: Path, alone: list[Any]
) -> None:
    gradients(path, model, 1, 2)
    with attrstore.open(path) as store:
        (fault,) = shards.faults(store, folder_at(path.parent / "shards"))
    assert "38 examples have no encoding" in fault
    assert "for one e-0. Run the same attrstore ingest" in fault
    assert attached(path).missing == 38
    assert gradients(path, model, 0, 1).rows == 38
    assert attached(path).rows == 38
    assert tables(path) == alone


def kill_at(path: Path, model: Path, batch: int) -> None:
    """Start the only worker, and kill it when it has encoded so many batches."""
    reached = path.parent / "reached"
    process = os.fork()
    if not process:
        try:
            gradients(path, model, progress=Stand(batch, reached))
        finally:
            os._exit(1)
    while not reached.exists():
        assert os.waitpid(process, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    reached.unlink()


def test_kill_9_in_mid_shard_costs_that_file_and_no_more(path: Path, model: Path, alone: list[Any]) -> None:
    folder = path.parent / "shards"
    kept = 0
    for batch in (2, 7, 3):
        kill_at(path, model, batch)
        found, wrong = shards.finished(folder_at(folder))
        assert wrong == []
        assert len(found) >= kept
        kept = len(found)
    assert 0 < kept < 5
    assert gradients(path, model).shards == 5 - kept
    attached(path)
    assert tables(path) == alone


@pytest.mark.slow
def test_fifty_kills(path: Path, model: Path, alone: list[Any]) -> None:
    draw = random.Random(0)
    for number in range(50):
        if number % 10 == 0:
            shutil.rmtree(path.parent / "shards", ignore_errors=True)
        kill_at(path, model, draw.choice((1, 1, 1, 2)) if number % 10 > 2 else draw.randint(1, 3))
        assert shards.finished(folder_at(path.parent / "shards"))[1] == []
    assert len(shards.finished(folder_at(path.parent / "shards"))[0]) < 5
    gradients(path, model)
    attached(path)
    assert tables(path) == alone


class Stand:
    """Stops for ever at one batch, and says so in a file."""

    def __init__(self, batch: int, reached: Path) -> None:
        self.left, self.reached = batch, reached

    def __call__(self, done: int, total: int) -> None:
        self.left -= 1
        if not self.left:
            self.reached.touch()
            time.sleep(60)


@pytest.mark.slow
def test_a_reader_reports_while_workers_run(path: Path, model: Path, alone: list[Any]) -> None:
    assert gradients(path, model, 5, 6).shards == 0  # records the encoder, and no range is its own
    script = (
        f"import sys, attrstore\nwith attrstore.open({str(path)!r}) as store:\n"
        "    for line in sys.stdin:\n        print(len(store.report()), flush=True)\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert reader.stdin is not None
    assert reader.stdout is not None

    def ask() -> str:
        reader.stdin.write("report\n")  # type: ignore[union-attr]
        return str(reader.stdout.readline())  # type: ignore[union-attr]

    answers = [ask()]
    for rank in (0, 1):
        gradients(
            path, model, rank, 2, progress=lambda done, total: answers.append(ask()) if done > 30 else None
        )
    reader.stdin.close()
    assert reader.wait() == 0
    assert len(answers) > 3
    assert set(answers) == {answers[0]}
    attached(path)
    assert tables(path) == alone


@pytest.mark.slow
def test_the_page_and_the_report_go_on_through_a_whole_sharded_ingest(
    path: Path, model: Path, alone: list[Any]
) -> None:
    """Beside the workers; not while the first of them records the encoder, nor while the files are attached."""
    with attrstore.open(path, writable=True) as store:
        store.index_lexical()
        store.score("bm25")
    serve = [sys.executable, "-m", "attrstore", "serve", str(path), "--port", "0"]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        pages: list[str] = []
        reports: list[str] = []

        def look(done: int, total: int) -> None:
            pages.append(browser.open(address).read().decode())
            if len(reports) < 3:
                report = [sys.executable, "-m", "attrstore", "report", str(path)]
                reports.append(subprocess.run(report, capture_output=True, text=True, check=True).stdout)

        while not pages:  # the address is said before anybody listens there
            with suppress(urllib.error.URLError):
                look(0, 0)
        time.sleep(0.5)  # the page lets go of the store
        for rank in (1, 0):
            gradients(path, model, rank, 2, progress=look)
        time.sleep(0.5)
        attached(path)
        look(1, 1)
    finally:
        server.kill()
        server.communicate()
    assert len(pages) > 10
    assert all("q-0" in page for page in pages)
    assert len(reports) == 3
    assert set(reports) == {reports[0]}
    assert "bm25" in reports[0]
    with attrstore.open(path, writable=True) as store:
        store.execute("DELETE FROM scores")
    assert tables(path) == alone


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def claim(file: Path) -> None:
    manifest = file.with_suffix(".json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"encoder": "f" * 16}))


def garble(file: Path) -> None:
    file.with_suffix(".json").write_text('{"rows": 3}')


HARMS: dict[Any, str] = {
    flip: "altered: its sha256 is ",
    cut: "torn: ",
    Path.unlink: "gone, and its manifest is there",
    claim: "a shard of the encoder k4-halfbit-factored-kronecker (ffffffffffffffff)",
    garble: "not the manifest of a shard",
}


def test_all_that_is_wrong_is_named_and_the_store_stays(made: Path, model: Path, alone: list[Any]) -> None:
    files = sorted((made.parent / "shards").glob("*.parquet"))
    for harm, file in zip(HARMS, files, strict=True):
        harm(file)
    with attrstore.open(made) as store:
        faults = list(shards.faults(store, folder_at(made.parent / "shards")))
    with pytest.raises(MismatchError) as at_attach:
        attached(made)
    with pytest.raises(MismatchError) as at_ingest:
        gradients(made, model)
    for (harm, said), file in zip(HARMS.items(), files, strict=True):
        for lines in (faults, str(at_attach.value).splitlines(), str(at_ingest.value).splitlines()):
            named = [line for line in lines if line.startswith(str(file.with_suffix("")))]
            if harm is flip and lines is not faults and "this one is" in str(lines):
                assert named == []  # that every byte is as it was is looked at when all of them are read
            else:
                assert [said in line for line in named] == [True]
    with attrstore.open(made) as store:
        assert store.value("SELECT count(*) FROM encodings") == 0
    shutil.rmtree(made.parent / "shards")
    assert gradients(made, model).shards == 5
    assert attached(made).missing == 0
    assert tables(made) == alone


def test_a_file_without_a_manifest_is_made_again(made: Path, model: Path) -> None:
    path = made
    file = sorted((path.parent / "shards").glob("*.parquet"))[0]
    file.with_suffix(".json").unlink()
    cut(file)
    with attrstore.open(path) as store:
        faults = list(shards.faults(store, folder_at(file.parent)))
    assert faults[0].startswith(f"{file}: has no manifest, so it is unfinished.")
    assert "16 examples have no encoding" in faults[1]
    assert gradients(path, model).shards == 1
    assert attached(path).rows == N


def test_a_folder_is_of_one_encoder(made: Path, model: Path) -> None:
    path = made
    with pytest.raises(
        MismatchError, match=r"a shard of the encoder k4-halfbit-factored-kronecker .* Use another folder"
    ):
        gradients(path, model, kronecker_factors=False)
    other = path.with_name("other.duckdb")
    with attrstore.open(other, create=True) as store:
        with pytest.raises(MismatchError, match=r"which .*other\.duckdb does not have"):
            shards.attach(store, folder_at(path.parent / "shards"), silent)
        assert store.value("SELECT count(*) FROM runs") == 0
        (path.parent / "empty").mkdir()
        for folder, said in (("empty", "no finished shard"), ("nothing", "no such folder")):
            with pytest.raises(InputError, match=said):
                shards.attach(store, folder_at(path.parent / folder), silent)


@pytest.mark.parametrize(
    ("kind", "ingest"), [("representation", ingest_representations), ("embedding", ingest_embeddings)]
)
def test_the_other_encoders_are_sharded_too(path: Path, model: Path, kind: str, ingest: Any) -> None:
    whole = shutil.copy(path, path.with_name("whole.duckdb"))
    with attrstore.open(whole, writable=True) as store:
        ingest(store, model=model)
        expected = [store.rows(query) for query in TABLES]
    for rank in (0, 1):
        write_shards(path, kind, path.parent / "shards", Worker(rank, 2), model=model)
    assert attached(path).rows == N
    with attrstore.open(path) as store:
        assert [store.rows(query) for query in TABLES] == expected


def test_workers_of_one_machine(path: Path, model: Path, alone: list[Any]) -> None:
    options = ["--model", model, "--projection-dim", 4, "--batch-tokens", 64, "--kronecker"]
    arguments = ["ingest", "gradients", path, *options, "--devices", "cpu,cpu"]
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    assert f"{path}: 70 encodings of k4-halfbit-factored-kronecker from 5 files.\nNext: " in done.stdout
    assert tables(path) == alone
    assert not path.with_name("store.duckdb.shards").exists()


def test_a_worker_that_fails_is_named(path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        if arguments[3].rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError("no such thing.")

    monkeypatch.setattr(processes, "write_shards", fail)
    with pytest.raises(attrstore.errors.AttrstoreError) as error:
        workers.encode_with_workers(path, "gradient", 2, model=model)
    assert str(error.value).splitlines() == [
        "worker 0 of 2: no such thing.",
        "worker 1 of 2: ended with exit code -9",
        f"Every finished file is in {path}.shards. Run the same command again to go on.",
    ]


def test_the_commands(path: Path, model: Path) -> None:
    folder = path.parent / "shards"

    def run(*arguments: object, code: int = 0) -> str:
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    ingest = ["ingest", "gradients", path, "--model", model, "--projection-dim", 4]
    said = run(*ingest, "--shards", folder, "--shard-rank", 1, "--world-size", 2)
    assert said == (
        f"k4-halfbit-factored: worker 1 of 2 encoded 32 examples; 2 files written in {folder}.\n"
        f"Next, when all workers are done: attrstore attach {path} {folder}\n"
    )
    assert "WRONG  shards are whole" in run("check", path, "--shards", folder, code=1)
    run(*ingest, "--shards", folder)
    assert "ok     shards are whole" in run("check", path, "--shards", folder)
    assert run("attach", path, folder) == f"{path}: 70 encodings of k4-halfbit-factored from 5 files.\n"
    assert "need --shards FOLDER" in run(*ingest, "--shard-rank", 0, code=2)
    assert "leave --shard-rank and --world-size out" in run(
        *ingest, "--workers", 2, "--shard-rank", 0, "--world-size", 2, code=2
    )
    assert "shards are of one model" in run(*ingest[:3], "--run", model, "--shards", folder, code=2)
    assert "--workers 0: must be at least 1" in run(*ingest, "--workers", 0, code=2)


@pytest.mark.parametrize(
    ("rank", "size", "environment", "expected"),
    [
        (None, None, {}, (0, 1)),
        (1, 4, {"RANK": "0", "WORLD_SIZE": "2"}, (1, 4)),
        (None, None, {"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        (None, None, {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (3, 8)),
        (None, None, {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1"}, (0, 8)),
        (None, None, {"JOB_COMPLETION_INDEX": "2", "WORLD_SIZE": "3"}, (2, 3)),
        (None, None, {"JOB_COMPLETION_INDEX": "2"}, "WORLD_SIZE is not"),
        (None, None, {"RANK": "x", "WORLD_SIZE": "2"}, "RANK x: must be a whole number"),
        (None, None, {"RANK": "2", "WORLD_SIZE": "2"}, "must be between 0 and 1"),
        (0, None, {}, "give both"),
        (0, 0, {}, "must be at least 1"),
    ],
)  # fmt: skip
def test_rank_and_size(rank: Any, size: Any, environment: dict[str, str], expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            chosen(rank, size, environment)
        return
    worker = chosen(rank, size, environment)
    assert (worker.rank, worker.size) == expected
