"""Ctrl-C: the first ends a job after its batch, the second at once; the next run does the rest."""

from __future__ import annotations

import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pyarrow
import pytest
from click.testing import CliRunner

import attrstore
from attrstore.cli import main
from attrstore.ingest.encode import job
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.stopping import ctrl_c
from attrstore.runs import recorded
from tests import tiny

QUERIES = [("a b c", " d")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model"))


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # the handler runs between two instructions


def test_the_first_is_noted_the_second_stops_and_then_all_is_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ctrl_c() as stopped:
        assert stopped == [False]
        press()
        assert stopped == [True]
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_a_job_and_loses_nothing_committed(path: Path, model: Path) -> None:
    def twice(done: int, total: int) -> None:
        if done > 30:
            press()
            press()
            raise AssertionError("the job went on after a second Ctrl-C")

    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(60), QUERIES)
        with pytest.raises(KeyboardInterrupt):
            ingest_gradients(store, model=model, projection_dim=4, batch_tokens=64, progress=twice)
    with attrstore.open(path, writable=True) as store:
        kept = store.value("SELECT count(*) FROM encodings")
        assert 20 < kept < 60
        assert store.value("SELECT state FROM runs") == "interrupted"
        assert ingest_gradients(store, model=model, projection_dim=4, batch_tokens=64).examples == 60 - kept
        assert store.value("SELECT count(DISTINCT example_id) FROM encodings") == 60


def test_every_shard_of_a_large_corpus_is_encoded(
    path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SHARD", 16)
    seen: list[tuple[int, int]] = []
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(40), QUERIES)
        done = ingest_gradients(
            store, model=model, projection_dim=4, progress=lambda done, total: seen.append((done, total))
        )
        assert (done.examples, done.outcomes) == (40, {"ok": 40})
        assert store.value("SELECT list(example_id ORDER BY example_id) FROM encodings") == list(range(40))
        assert seen == [(16, 40), (32, 40), (40, 40)]
        store.execute("DELETE FROM encodings WHERE example_id IN (3, 35)")
        assert ingest_gradients(store, model=model, projection_dim=4).examples == 2
        # Each example's own encoding, whichever shard it was in.
        sharded = store.rows("SELECT example_id, loss FROM encodings ORDER BY example_id")
    monkeypatch.undo()
    with attrstore.open(path.with_name("whole.duckdb"), create=True) as store:
        tiny.fill(store, tiny.sentences(40), QUERIES)
        ingest_gradients(store, model=model, projection_dim=4)
        whole = store.rows("SELECT example_id, loss FROM encodings ORDER BY example_id")
    assert [example for example, _ in sharded] == [example for example, _ in whole]
    assert [loss for _, loss in sharded] == pytest.approx([loss for _, loss in whole], rel=1e-5)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_ctrl_c_beside_a_half_read_result_is_no_other_error(path: Path, in_transaction: bool) -> None:
    numbers = pyarrow.table({"i": range(100_000)})
    with attrstore.open(path, create=True) as store:
        store.set_meta({"kept": "before"})
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        attrstore.open(path, writable=True) as store,
        recorded(store, "job"),
        store.transaction() if in_transaction else nullcontext(),
        store.registered(numbers=numbers),
    ):
        if in_transaction:
            store.set_meta({"kept": "within"})
        reader = store.sql("SELECT a.i FROM numbers AS a, numbers LIMIT 10_000_000").to_arrow_reader(1000)
        assert reader.read_next_batch().num_rows > 0
        press()
    del reader
    with attrstore.open(path, writable=True) as store:
        assert store.meta("kept") == "before"
        with recorded(store, "another"):
            assert store.value("SELECT state FROM runs WHERE job = 'job'") in ("interrupted", "killed")


def test_a_ctrl_c_that_falls_into_the_end_of_an_object_is_not_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Held:
        def __del__(self) -> None:
            press()

    def opened(*_: object, **__: object) -> None:
        Held()
        time.sleep(0.1)
        raise AssertionError("the command went on")

    monkeypatch.setattr(attrstore, "open", opened)
    ended = CliRunner().invoke(main, ["info", str(path)])
    assert (ended.exit_code, ended.output) == (1, "\nAborted!\n")
