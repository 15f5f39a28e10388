"""Re-ranking against gradients that torch.func computed in float64, and everything around it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner

from attrstore.check import check
from attrstore.cli import main
from attrstore.errors import InputError, Interrupted, MismatchError
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.measure import rerank as job
from attrstore.ingest.measure.options import Source
from attrstore.ingest.measure.rerank import rerank
from attrstore.ingest.model import linear, optimizer, sequences
from attrstore.scoring import score
from tests import tiny
from tests.test_gradient_math import reference_gradients

if TYPE_CHECKING:
    from attrstore import Store

TEXTS = tiny.sentences(9, seed=3)
QUERIES = [("a b c", " d"), ("g h i", " j k"), ("p", " q r s")]
METHODS = ("dot", "cosine", "cosine-block")


def scores_by_hand(
    folder: Path,
    method: str,
    modules: str | None = None,
    state: Path | None = None,
    correction: str = "factored",
) -> torch.Tensor:
    """[queries, texts] from whole float64 gradients."""
    model, tokenizer = tiny.model(), tiny.tokenizer()
    maps = linear.find(model, modules)
    moments = {} if state is None else optimizer.second_moments(state, model, maps, correction)

    def vectors(items: list[Any]) -> list[list[torch.Tensor]]:
        return [
            [(g / root(moments, name)).flatten() for name, g in one.items()]
            for one in (reference_gradients(model, maps, i.windows[0], i.first_target) for i in items)
        ]

    asked = vectors(sequences.queries([(i, p, t) for i, (p, t) in enumerate(QUERIES)], tokenizer, 32))
    own = vectors(sequences.examples(enumerate(TEXTS), tokenizer, 32, "truncate"))
    return torch.tensor([[of_pair(method, q, z) for z in own] for q in asked], dtype=torch.float64)


def root(moments: Any, name: str) -> Any:
    moment = moments.get(name)
    if moment is None:
        return 1.0
    if isinstance(moment, optimizer.Full):
        return moment.values.double().sqrt() + moment.epsilon
    row, column = moment.row.double(), moment.column.double()
    return (torch.outer(row, column) / row.mean()).sqrt()


def of_pair(method: str, q: list[torch.Tensor], z: list[torch.Tensor]) -> float:
    one, other = torch.cat(q), torch.cat(z)
    if method == "cosine-block":
        # A text of two tokens has no gradient in queries and keys: there is one key to attend to.
        blocks = [
            (a, b)
            for a, b in zip(q, z, strict=True)
            if a.norm() > 1e-7 * one.norm() and b.norm() > 1e-7 * other.norm()
        ]
        return sum(float(a @ b / (a.norm() * b.norm())) for a, b in blocks) / len(q)
    return float(one @ other / (1 if method == "dot" else one.norm() * other.norm()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint_and_state(tmp_path_factory.mktemp("model"))


@pytest.fixture
def encoded(store: Store, folder: Path) -> Store:
    tiny.fill(store, TEXTS, QUERIES, [(0, 1), (1, 2)])
    ingest_gradients(store, model=folder, projection_dim=4, code="fp16")
    score(store, "cosine-block")
    return store


def kept(store: Store, name: str) -> dict[int, list[tuple[int, int, float]]]:
    """Query: (rank, example, score), strongest first."""
    rows = store.rows(
        "SELECT query_id, rank, example_id, score FROM scores JOIN scorings USING (scoring_id) WHERE name = $name "
        "ORDER BY query_id, rank",
        {"name": name},
    )
    found: dict[int, list[tuple[int, int, float]]] = {}
    for query, *rest in rows:
        found.setdefault(query, []).append(tuple(rest))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_all_candidates_have_the_scores_of_whole_gradients(encoded: Store, folder: Path, method: str) -> None:
    expected = scores_by_hand(folder, method)
    rerank(encoded, "cosine-block", top=9, method=method, name="exact", source=Source(batch_tokens=40))
    for query, rows in kept(encoded, "exact").items():
        assert [rank for rank, _, _ in rows] == list(range(1, 10))
        assert [e for _, e, _ in rows] == expected[query].argsort(descending=True).tolist()
        found = torch.tensor([s for _, _, s in sorted(rows, key=lambda row: row[1])], dtype=torch.float64)
        assert torch.allclose(found, expected[query], rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("correction", ["factored", "full"])
@pytest.mark.parametrize("modules", [None, "."])
def test_the_optimizer_corrects_whole_gradients(
    encoded: Store, folder: Path, correction: str, modules: str | None
) -> None:
    state = folder / "adam.pt"
    ingest_gradients(
        encoded, model=folder, projection_dim=3, code="fp16", modules=modules, optimizer_state=state,
        correction=correction, name="corrected",
    )  # fmt: skip
    expected = scores_by_hand(folder, "cosine-block", modules, state, correction)
    rerank(
        encoded,
        "cosine-block",
        top=9,
        name="exact",
        source=Source(encoder="corrected", optimizer_state=state),
    )
    for query, rows in kept(encoded, "exact").items():
        found = torch.tensor([s for _, _, s in sorted(rows, key=lambda row: row[1])], dtype=torch.float64)
        # The store keeps the factored scales in float16.
        assert torch.allclose(found, expected[query], rtol=2e-3, atol=2e-3 * float(expected.abs().max()))


def test_only_candidates_are_ranked_and_the_first_scoring_stays(encoded: Store, folder: Path) -> None:
    expected = scores_by_hand(folder, "cosine-block")
    before = kept(encoded, "cosine-block")
    made = rerank(encoded, "cosine-block", top=4)
    assert made.name == "cosine-block exact, 4 of cosine-block"
    assert kept(encoded, "cosine-block") == before
    for query, rows in kept(encoded, made.name).items():
        candidates = {e for rank, e, _ in before[query] if 1 <= rank <= 4}
        assert [e for _, e, _ in rows] == sorted(candidates, key=lambda e: -expected[query, e])
    assert made.spec["candidates"] == 4
    assert made.spec["candidates_of"] == "cosine-block"
    found = {finding.check.name: finding.ok for finding in check(encoded)}
    assert all(found[name] for name in ("scorings", "scores", "scoring_queries", "ranks"))


def test_several_scorings_take_turns(encoded: Store, folder: Path) -> None:
    expected = scores_by_hand(folder, "cosine-block")
    ingest_lexical(encoded)
    score(encoded, "bm25")
    made = rerank(encoded, ["cosine-block", "bm25"], top=5)
    assert made.name == "cosine-block exact, 5 of cosine-block and bm25"
    assert made.spec["candidates_of"] == ["cosine-block", "bm25"]
    ranked = {name: kept(encoded, name) for name in ("cosine-block", "bm25", made.name)}
    assert any(len(rows) < 5 for rows in ranked["bm25"].values())  # then the other fills up
    for query, rows in ranked[made.name].items():
        turns: list[int] = []
        for rank in range(1, 10):
            turns += [
                e for name in ("cosine-block", "bm25") for r, e, _ in ranked[name].get(query, []) if r == rank
            ]
        candidates = list(dict.fromkeys(turns))[:5]
        assert [e for _, e, _ in rows] == sorted(candidates, key=lambda e: -expected[query, e])
    score(encoded, "bm25", name="few", where="example_id < 5")
    with pytest.raises(InputError, match=r"few: ranks 5 examples .*and cosine-block ranks 9"):
        rerank(encoded, ["cosine-block", "few"], top=5)


def test_a_labelled_example_outside_the_candidates_counts_nothing(encoded: Store) -> None:
    strongest = {q: rows[0][1] for q, rows in kept(encoded, "cosine-block").items()}
    encoded.execute("DELETE FROM labels")
    for query, label in ((0, strongest[0]), (1, next(e for e in range(9) if e != strongest[1]))):
        encoded.execute("INSERT INTO labels VALUES ($q, $e, 1, NULL)", {"q": query, "e": label})
    made = rerank(encoded, "cosine-block", top=1)
    assert encoded.value("SELECT mrr FROM method_report WHERE name = $n", {"n": made.name}) == 0.5


def test_a_second_method_and_more_candidates_compute_only_what_is_missing(
    encoded: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rerank(encoded, "cosine-block", top=3, queries=2)
    assert encoded.value("SELECT count(*) FROM exact_scores") == 6
    rerank(encoded, "cosine-block", top=5)
    assert encoded.rows("SELECT rows FROM runs WHERE job = 'rerank' ORDER BY run_id") == [(6,), (9,)]
    monkeypatch.setattr(job.Job, "_group", lambda *_: pytest.fail("computed again"))
    monkeypatch.undo()
    rerank(encoded, "cosine-block", top=5, method="dot")
    assert encoded.value("SELECT rows FROM runs ORDER BY run_id DESC LIMIT 1") == 0


def test_queries_in_several_groups_and_batches_of_any_size_agree(
    encoded: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rerank(encoded, "cosine-block", top=9, name="one")
    encoded.execute("DELETE FROM exact_scores")
    monkeypatch.setattr(job, "HELD_BYTES", 1)
    rerank(encoded, "cosine-block", top=9, name="other", source=Source(batch_tokens=1))
    for query, rows in kept(encoded, "one").items():
        other = {e: s for _, e, s in kept(encoded, "other")[query]}
        assert all(s == pytest.approx(other[e], rel=1e-5, abs=1e-7) for _, e, s in rows)


def test_split_examples_are_one_gradient(store: Store, folder: Path) -> None:
    text = " ".join("abcdefghijklmnopqrstuvwxyz" * 2)  # 52 words, 32 fit
    tiny.fill(store, [text, "a b c"], QUERIES[:1])
    ingest_gradients(store, model=folder, projection_dim=3, code="fp16", long="split")
    score(store, "dot")
    rerank(store, "dot", top=2, name="exact")
    model, tokenizer = tiny.model(), tiny.tokenizer()
    maps = linear.find(model)
    (asked,) = sequences.queries([(0, *QUERIES[0])], tokenizer, 32)
    (item,) = sequences.examples([(0, text)], tokenizer, 32, "split")
    assert len(item.windows) == 2
    query = reference_gradients(model, maps, asked.windows[0], asked.first_target)
    parts = [reference_gradients(model, maps, window, 1) for window in item.windows]
    expected = sum(float((query[m.name] * part[m.name]).sum()) for part in parts for m in maps)
    found = {e: s for _, e, s in kept(store, "exact")[0]}
    assert found[0] == pytest.approx(expected, rel=1e-4)


def test_ctrl_c_keeps_what_was_computed(encoded: Store) -> None:
    def interrupt(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="all committed"):
        rerank(encoded, "cosine-block", top=9, source=Source(batch_tokens=30), progress=interrupt)
    done = encoded.value("SELECT count(*) FROM exact_scores")
    assert 0 < done < 27
    assert not kept(encoded, "cosine-block exact, 9 of cosine-block")
    rerank(encoded, "cosine-block", top=9)
    assert encoded.value("SELECT rows FROM runs ORDER BY run_id DESC LIMIT 1") == 27 - done


def test_what_cannot_be_done_is_refused_by_name(encoded: Store, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scoring is called none; there are cosine-block"):
        rerank(encoded, "none")
    with pytest.raises(InputError, match="top 0: must be at least 1"):
        rerank(encoded, "cosine-block", top=0)
    with pytest.raises(InputError, match=r"^method trak: cannot be computed from whole gradients"):
        rerank(encoded, "cosine-block", method="trak")
    score(encoded, "cosine", top_k=2)
    with pytest.raises(InputError, match=r"keeps 2 proponents.*Score again with top_k 5"):
        rerank(encoded, "cosine", top=5)
    with pytest.raises(MismatchError, match="fingerprint"):
        rerank(encoded, "cosine-block", source=Source(model=tiny.checkpoint(tmp_path / "other", seed=5)))
    ingest_gradients(encoded, model=folder, projection_dim=3, kronecker_factors=True, name="white")
    with pytest.raises(InputError, match="white: made with kronecker_factors"):
        rerank(encoded, "cosine-block", source=Source(encoder="white"))
    assert encoded.value("SELECT count(*) FROM exact_scores") == 0


def test_the_command_prints_what_it_did(encoded: Store) -> None:
    encoded.close()
    found = CliRunner().invoke(
        main, ["rerank", str(encoded.path), "cosine-block", "--top", "2", "--name", "e"]
    )
    assert found.exit_code == 0, found.output
    assert found.output == (
        f"e: 6 pairs scored from whole gradients.\nNext: attrstore report {encoded.path}\n"
    )


def test_as_many_as_each_scoring_keeps_are_taken_where_nothing_is_said(encoded: Store) -> None:
    score(encoded, "cosine", top_k=4)
    made = rerank(encoded, ["cosine-block", "cosine"], name="both")
    assert made.spec["candidates"] == 4
    assert {len(rows) for rows in kept(encoded, "both").values()} == {4}
    score(encoded, "dot", top_k=500)
    assert rerank(encoded, "dot", name="one").spec["candidates"] == 200
