"""The ingest job on a real store: resume, append, statuses, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import attrstore
from attrstore import Store
from attrstore.errors import InputError, Interrupted, MismatchError
from attrstore.ingest.encode.gradients import ingest_gradients, reopen
from attrstore.vectors import encoders, stored
from tests import tiny

QUERIES = [("a b c", " d"), ("north of the", " river"), ("e f", " stone b")]
TABLE = "SELECT example_id, code, scales, n_tokens, loss, status FROM encodings ORDER BY example_id"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint_and_state(tmp_path_factory.mktemp("model"))


def small(store: Store, model: Path, **options: Any) -> Any:
    return ingest_gradients(store, **{"model": model, "projection_dim": 4, "batch_tokens": 64, **options})


def test_everything_is_encoded_once(store: Store, model: Path) -> None:
    tiny.fill(store, tiny.sentences(40), QUERIES)
    counts = small(store, model)
    assert (counts.examples, counts.queries) == (40, 3)
    assert (counts.outcomes, counts.query_outcomes) == ({"ok": 40}, {"ok": 3})
    before = store.rows(TABLE)
    again = small(store, model)
    assert (again.examples, again.queries) == (0, 0)
    tiny.fill(store, tiny.sentences(10, seed=9), [])
    assert small(store, model).examples == 10
    assert store.rows(TABLE)[:40] == before
    assert store.value("SELECT count(*) FROM encoders") == 1


@pytest.mark.parametrize("options", [{}, {"kronecker_factors": True},
                                     {"optimizer_state": "adam.pt", "code": "1bit"},
    {"optimizer_state": "adam.pt", "kronecker_factors": True}])  # fmt: skip
def test_a_job_stopped_at_any_batch_ends_as_an_uninterrupted_one(
    tmp_path: Path, model: Path, options: dict[str, Any]
) -> None:
    options = {k: model / v if k == "optimizer_state" else v for k, v in options.items()}
    tables = []
    for stops in ([], [1], [3, 2, 1]):
        with attrstore.open(tmp_path / f"{len(stops)}.duckdb", create=True) as store:
            tiny.fill(store, tiny.sentences(60), QUERIES)
            for batches in stops:
                with pytest.raises(Interrupted, match="Run the same command again"):
                    small(store, model, progress=_stop_after(batches), **options)
            small(store, model, **options)
            tables.append(store.rows(TABLE))
    assert tables[0] == tables[1] == tables[2]


def _stop_after(batches: int) -> Any:
    seen = [0]

    def progress(done: int, total: int) -> None:
        seen[0] += 1
        if seen[0] == batches:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.slow
def test_kill_9_loses_at_most_the_open_batch(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "killed.duckdb"
    texts = tiny.sentences(300)
    for where in (path, tmp_path / "whole.duckdb"):
        with attrstore.open(where, create=True) as store:
            tiny.fill(store, texts, QUERIES)
    script = (
        "import sys, attrstore\n"
        f"attrstore.__path__.append({str(Path(__file__).parents[1])!r})\n"
        "from attrstore.ingest.encode.gradients import ingest_gradients\n"
        f"with attrstore.open({str(path)!r}, writable=True) as store:\n"
        f"    ingest_gradients(store, model={str(model)!r}, projection_dim=4, batch_tokens=64,\n"
        "        progress=lambda done, total: print(done, flush=True))\n"
    )
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    seen = [int(job.stdout.readline()) for _ in range(4)]
    job.send_signal(signal.SIGKILL)
    job.wait()
    with attrstore.open(path, writable=True) as store:
        kept = store.value("SELECT count(*) FROM encodings")
        assert seen[-2] <= kept < 300
        assert small(store, model).examples == 300 - kept
        finished = store.rows(TABLE)
        assert [s for (s,) in store.rows("SELECT state FROM runs ORDER BY run_id")] == ["killed", "finished"]
    with attrstore.open(tmp_path / "whole.duckdb", writable=True) as store:
        small(store, model)
        assert store.rows(TABLE) == finished


def test_statuses_say_what_was_not_encoded_whole(tmp_path: Path, model: Path) -> None:
    texts = ["a", " ".join("abcdefghij" * 4), "a b c"]
    expected = {
        "truncate": ["skipped: no token to predict", "truncated: kept 32 of 40 tokens", "ok"],
        "split": ["skipped: no token to predict", "split: 2 windows of at most 32 tokens", "ok"],
        "skip": ["skipped: no token to predict", "skipped: 40 tokens, context 32", "ok"],
    }
    for long, statuses in expected.items():
        with attrstore.open(tmp_path / f"{long}.duckdb", create=True) as store:
            tiny.fill(store, texts, [("a b", " c"), ("a b", ""), ("a b", "c " * 40)])
            counts = small(store, model, long=long)
            assert counts.query_outcomes == {"ok": 1, "skipped": 2}
            rows = store.rows(TABLE)
            assert [row[-1] for row in rows] == statuses
            assert [row[1] is None for row in rows] == [s.startswith("skipped") for s in statuses]
            found = [s for (s,) in store.rows("SELECT status FROM query_encodings ORDER BY query_id")]
            assert found[1:] == [
                "skipped: the target has no tokens",
                "skipped: the target has 40 tokens, context 32",
            ]


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_a_gradient_that_is_not_finite_is_marked_and_the_job_goes_on(
    tmp_path: Path, store: Store, rank: int | None
) -> None:
    broken = tiny.model()
    with torch.no_grad():
        broken.get_input_embeddings().weight[tiny.WORDS.index("stone")] = float("nan")
    broken.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    tiny.fill(store, ["a b c", "a stone b", "d e f"], QUERIES[:1])
    counts = small(store, tmp_path / "model", rank=rank)
    assert counts.outcomes == {"ok": 2, "skipped": 1}
    assert store.rows("SELECT status, code IS NULL FROM encodings ORDER BY example_id") == [
        ("ok", False), ("skipped: gradient is not finite", True), ("ok", False)]  # fmt: skip


def test_another_recipe_under_the_same_name_is_refused_with_both_values(
    tmp_path: Path, store: Store, model: Path
) -> None:
    tiny.fill(store, tiny.sentences(5), QUERIES)
    small(store, model)
    before = store.rows(TABLE)
    other = tiny.checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(MismatchError, match=r"model [0-9a-f]{16} there and [0-9a-f]{16} now"):
        small(store, other)
    with pytest.raises(MismatchError, match="seed 0 there and 5 now"):
        small(store, model, seed=5)
    assert store.rows(TABLE) == before
    assert small(store, model, seed=5, name="second").examples == 5
    # The other way round: a recipe has one name, and goes on under it where none is asked for.
    with pytest.raises(MismatchError, match="this recipe is the encoder second already, and third would be"):
        small(store, model, seed=5, name="third")
    tiny.fill(store, tiny.sentences(2, seed=9), [])
    goes_on = small(store, model, seed=5)
    assert (goes_on.encoder, goes_on.examples) == ("second", 2)


def test_unusable_models_and_states_are_named(tmp_path: Path, store: Store, model: Path) -> None:
    with pytest.raises(InputError, match="no examples yet"):
        small(store, model)
    tiny.fill(store, tiny.sentences(3), QUERIES)
    with pytest.raises(InputError, match=r"no config\.json"):
        small(store, tmp_path)
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    with pytest.raises(InputError, match="no weights"):
        small(store, tmp_path)
    with pytest.raises(InputError, match="no such file"):
        small(store, model, optimizer_state=tmp_path / "none.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(InputError, match="not a file of tensors"):
        small(store, model, optimizer_state=tmp_path / "junk.pt")
    state = torch.load(model / "adam.pt", weights_only=True)
    state["state"][1]["exp_avg_sq"] = state["state"][1]["exp_avg"] = torch.zeros(3, 5)
    torch.save(state, tmp_path / "misfit.pt")
    with pytest.raises(
        InputError, match=r"parameter 1 is \(3, 5\) and model\.layers\.0\.self_attn\.q_proj\.weight is"
    ):
        small(store, model, optimizer_state=tmp_path / "misfit.pt")
    assert store.value("SELECT count(*) FROM encodings") == 0
    assert store.value("SELECT count(*) FROM encoders") == 0


@pytest.mark.slow
def test_a_full_disk_stops_the_job_and_keeps_what_was_committed(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "full.duckdb"
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(3000, longest=30), QUERIES)
    # A limit on the size of a file stands for the disk: the write fails in the same place.
    script = (
        "import resource, signal, sys, attrstore\n"
        f"attrstore.__path__.append({str(Path(__file__).parents[1])!r})\n"
        "from attrstore.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))\n"
        f"main(['ingest', 'gradients', {str(path)!r}, '--model', {str(model)!r}, '--code', 'fp16',"
        " '--batch-tokens', '2000'])\n"
    )
    job = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert job.returncode == 1, job.stderr
    assert "no space left on the disk" in job.stderr
    assert "run the same command again" in job.stderr
    with attrstore.open(path, writable=True) as store:
        kept = store.value("SELECT count(*) FROM encodings")
        assert 0 < kept < 3000
        counts = ingest_gradients(store, model=model, code="fp16", batch_tokens=2000)
        assert counts.examples == 3000 - kept


def test_chosen_modules_are_encoded_as_they_are_among_all(store: Store, model: Path) -> None:
    tiny.fill(store, tiny.sentences(4), QUERIES)
    small(store, model)
    small(store, model, modules=r"[qk]_proj$")
    whole, chosen = (
        encoders.choose(store, "gradient", name) for name in ("k4-halfbit", "k4-halfbit-qk-_proj")
    )
    assert [block.name for block in chosen.blocks] == [
        block.name for block in whole.blocks if block.name.endswith(("q_proj", "k_proj"))
    ]
    vectors = {encoder.name: stored.query_vectors(store, encoder)[1] for encoder in (whole, chosen)}
    for block in chosen.blocks:
        among = next(other for other in whole.blocks if other.name == block.name)
        alone = vectors[chosen.name][:, block.offset : block.offset + block.length]
        torch.testing.assert_close(
            alone, vectors[whole.name][:, among.offset : among.offset + among.length], rtol=1e-4, atol=1e-6
        )
    assert reopen(store, chosen)[1].blocks == chosen.blocks
    small(store, model, modules=".")
    everything = encoders.choose(store, "gradient", "k4-halfbit-all").blocks
    assert [block.name for block in everything[:1]] == ["model.embed_tokens"]
    assert [block.name for block in everything[1:]] == [*(block.name for block in whole.blocks), "lm_head"]


@pytest.mark.parametrize("pattern, message", [("(", "not a regular expression"), ("conv", "found in none")])
def test_a_pattern_that_finds_no_module_is_refused(
    store: Store, model: Path, pattern: str, message: str
) -> None:
    tiny.fill(store, tiny.sentences(4), QUERIES)
    with pytest.raises(InputError, match=message):
        small(store, model, modules=pattern)
    assert store.value("SELECT count(*) FROM encoders") == 0
