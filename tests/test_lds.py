"""Subsets, LDS and leave-k-out: from the tables to the demo's retraining."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

import attrstore
from attrstore import Store
from attrstore.cli import main
from attrstore.demo import retrain as retraining
from attrstore.demo import train
from attrstore.demo.retrain import retrain
from attrstore.demo.world import generate
from attrstore.evaluation.report import tabulate
from attrstore.evaluation.subsets import make_leave_out, make_subsets
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.losses import import_losses
from attrstore.ingest.files.queries import ingest_queries
from tests import tiny

Scores = dict[int, dict[int, float]]  # query -> example -> score


def fill(store: Store, n_examples: int, n_queries: int) -> None:
    tiny.fill(
        store, [f"text {i}" for i in range(n_examples)], [(f"p {i}", f" t {i}") for i in range(n_queries)]
    )


def add_scoring(store: Store, name: str, scores: Scores, *, family: str = "influence", **spec: Any) -> None:
    """A scoring that has exactly these pairs; ranked over all examples unless the spec says otherwise."""
    n = spec.pop("n_examples", None) or store.value("SELECT count(*) FROM examples")
    store.execute(
        "INSERT INTO scorings VALUES ($n, $n, $family, $n, $spec, NULL, $n_examples, now(), '0')",
        {"n": name, "family": family, "spec": json.dumps({"top_k": n, **spec}), "n_examples": n},
    )
    rows = []
    store.connection.executemany(
        "INSERT INTO scoring_queries VALUES (?, ?)", [(name, query) for query in scores]
    )
    for query, of_query in scores.items():
        strongest = sorted(of_query, key=lambda example: -of_query[example])
        rows += [(name, query, e, rank, of_query[e]) for rank, e in enumerate(strongest, 1)]
    store.connection.executemany("INSERT INTO scores VALUES (?, ?, ?, ?, ?)", rows)


def add_losses(
    store: Store, losses: dict[tuple[int, int], float], *, seed: int = 0, name: str = "lds"
) -> None:
    """(subset, query) -> loss."""
    store.connection.executemany(
        "INSERT INTO subset_losses VALUES (?, ?, ?, ?, ?, 'test')",
        [(name, subset, query, seed, loss) for (subset, query), loss in losses.items()],
    )


def left_out(store: Store, name: str = "lds") -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for subset, example in store.rows(
        "SELECT subset, example_id FROM subset_examples WHERE subset_set = $n", {"n": name}
    ):
        found.setdefault(subset, set()).add(example)
    return found


def lds_of(store: Store, name: str) -> dict[str, float | None]:
    return dict(store.rows("SELECT query, lds FROM lds_query WHERE name = $n ORDER BY query", {"n": name}))


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's correlation of ranks, a tie at the mean of its places."""
    return float(stats.spearmanr(xs, ys).statistic)


# Subsets


def test_subsets_keep_their_share_and_depend_on_seed_and_ids_only(store: Store, tmp_path: Path) -> None:
    fill(store, 21, 1)
    made = make_subsets(store, count=5, fraction=0.7, seed=3)
    assert (made.subsets, made.left_out, made.n_examples) == (5, 6, 21)
    first = left_out(store)
    assert [len(first[subset]) for subset in range(1, 6)] == [6] * 5
    assert len({frozenset(of_subset) for of_subset in first.values()}) == 5
    kept = store.rows("SELECT subset, example, text FROM subset_texts WHERE subset_set = 'lds'")
    assert {(s, e, t) for s, e, t in kept} == {
        (s, f"e-{i}", f"text {i}") for s in range(1, 6) for i in range(21) if i not in first[s]
    }
    make_subsets(store, name="other seed", count=5, fraction=0.7, seed=4)
    assert left_out(store, "other seed") != first
    with attrstore.open(tmp_path / "reversed.duckdb", create=True) as other:  # the same ids in another order
        for i in range(21):
            other.execute(
                "INSERT INTO examples VALUES ($i, $id, 'text', NULL, NULL, 0)", {"i": i, "id": f"e-{20 - i}"}
            )
        make_subsets(other, count=5, fraction=0.7, seed=3)
        assert left_out(other) == {s: {20 - i for i in examples} for s, examples in first.items()}


def test_a_set_is_replaced_only_on_request_and_with_its_losses(store: Store) -> None:
    fill(store, 6, 1)
    make_subsets(store, count=3)
    add_losses(store, {(1, 0): 1.0})
    with pytest.raises(attrstore.InputError, match="replace drops them and their losses"):
        make_subsets(store, count=4)
    assert store.value("SELECT count(*) FROM subsets") == 3
    make_subsets(store, count=4, replace=True)
    assert store.value("SELECT count(*) FROM subsets") == 4
    assert store.value("SELECT count(*) FROM subset_losses") == 0
    assert len(left_out(store)) == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"count": 2}, "count 2: .*at least 3"),
        ({"fraction": 1.0}, "fraction 1.0: must be between 0 and 1"),
        ({"fraction": 0.99}, "fraction 0.99: keeps all of 6 examples"),
    ],
)
def test_impossible_subsets_are_refused(store: Store, options: dict[str, Any], message: str) -> None:
    fill(store, 6, 1)
    with pytest.raises(attrstore.InputError, match=message):
        make_subsets(store, **options)
    assert store.value("SELECT count(*) FROM subsets") == 0


# LDS


def test_lds_of_three_subsets_by_hand(store: Store) -> None:
    fill(store, 3, 1)
    make_subsets(store, count=3, fraction=0.67)
    store.execute("DELETE FROM subset_examples")
    store.execute("INSERT INTO subset_examples VALUES ('lds', 1, 0), ('lds', 2, 1), ('lds', 3, 2)")
    add_scoring(store, "a", {0: {0: 3.0, 1: 2.0, 2: 1.0}})
    # Kept: 3, 4 and 5, ranks 1, 2, 3. Log-probabilities -5, -1, -3: ranks 1, 3, 2. 1 - 6 * 2 / (3 * 8) = 1/2.
    add_losses(store, {(1, 0): 5.0, (2, 0): 1.0, (3, 0): 3.0})
    assert store.rows("SELECT query, subsets, lds, every_score FROM lds_query") == [("q-0", 3, 0.5, True)]
    ((*row, low, high),) = store.rows("SELECT name, queries, subsets, lds, low, high FROM lds_report()")
    assert row == ["a", 1, 3, 0.5]
    assert low == high == 0.5


def test_lds_equals_spearman_with_ties(store: Store) -> None:
    rng = np.random.default_rng(0)
    fill(store, 12, 5)
    make_subsets(store, count=9)
    scores = {q: {e: float(rng.integers(-1, 2)) / 8 for e in range(12)} for q in range(5)}
    losses = {(s, q): float(rng.integers(0, 4)) for s in range(1, 10) for q in range(5)}
    add_scoring(store, "a", scores)
    add_losses(store, losses)
    out = left_out(store)
    expected = {}
    for q in range(5):
        foretold = [sum(scores[q][e] for e in range(12) if e not in out[s]) for s in range(1, 10)]
        assert len(set(foretold)) < 9  # there are ties
        expected[f"q-{q}"] = spearman(foretold, [-losses[s, q] for s in range(1, 10)])
    assert lds_of(store, "a") == pytest.approx(expected, abs=1e-12)


def linear(store: Store, n: int = 20, queries: int = 4, count: int = 8) -> Scores:
    """Models that are exactly linear in what they were trained on: loss = 50 - sum of the kept weights."""
    rng = np.random.default_rng(1)
    fill(store, n, queries)
    make_subsets(store, count=count)
    weights = {q: {e: float(rng.normal()) for e in range(n)} for q in range(queries)}
    out = left_out(store)
    add_losses(
        store,
        {
            (s, q): 50 - sum(w for e, w in weights[q].items() if e not in out[s])
            for s in range(1, count + 1)
            for q in range(queries)
        },
    )
    return weights


def test_the_true_datamodel_has_lds_one_and_its_opposite_minus_one(store: Store) -> None:
    weights = linear(store)
    add_scoring(store, "true", weights)
    add_scoring(store, "opposite", {q: {e: -w for e, w in of.items()} for q, of in weights.items()})
    rows = store.rows("SELECT name, queries, subsets, lds, low, high FROM lds_report() ORDER BY lds DESC")
    assert [row[:3] for row in rows] == [("true", 4, 8), ("opposite", 4, 8)]
    assert [row[3:] for row in rows] == [pytest.approx((1, 1, 1)), pytest.approx((-1, -1, -1))]


def test_retrainings_of_a_subset_are_averaged(store: Store) -> None:
    add_scoring(store, "true", linear(store))
    noise = store.rows("SELECT subset, query_id, 20 * ((subset * 7 + query_id) % 5) FROM subset_losses")
    for seed, sign in ((1, 1), (2, -1)):  # two more retrainings, far off in opposite directions
        store.connection.executemany(
            "INSERT INTO subset_losses SELECT subset_set, subset, query_id, ?, loss + ?, origin "
            "FROM subset_losses WHERE seed = 0 AND subset = ? AND query_id = ?",
            [(seed, sign * by, subset, query) for subset, query, by in noise],
        )
        one_sided = store.value("SELECT avg(lds) FROM lds_query")
        assert (one_sided > 0.999) == (seed == 2)


def test_a_scoring_without_every_score_gets_none(store: Store) -> None:
    weights = linear(store)
    add_scoring(store, "whole", weights)
    strongest = {q: dict(sorted(of.items(), key=lambda pair: -pair[1])[:19]) for q, of in weights.items()}
    add_scoring(store, "cut", strongest, top_k=10)
    add_scoring(store, "some", {q: {e: of[e] for e in range(15)} for q, of in weights.items()}, n_examples=15,
                where="example_id < 15")  # fmt: skip
    one_short = {**weights, 3: strongest[3]}  # one query lacks one score
    add_scoring(store, "one short", one_short)
    found = {row[0]: row[1:] for row in store.rows("SELECT name, lds, every_score FROM lds_report()")}
    assert found["whole"] == (pytest.approx(1), True)
    assert found["cut"] == found["some"] == found["one short"] == (None, False)
    assert lds_of(store, "one short") == {"q-0": pytest.approx(1), "q-1": pytest.approx(1),
                                          "q-2": pytest.approx(1), "q-3": None}  # fmt: skip
    table = tabulate(store, lds=True)
    assert [note.split(":")[0] for note in table.notes][:3] == ["cut", "one short", "some"]
    assert table.notes[3].startswith("Partial")  # one of them was made for a selection
    assert "top_k 20" in table.notes[0]
    assert table.columns[-3:] == ("lds", "low", "high")


def test_what_an_uncut_retrieval_did_not_find_scores_zero(store: Store) -> None:
    weights = {0: {e: float(e % 3) for e in range(10)}}
    fill(store, 10, 1)
    make_subsets(store, count=7)
    rng = np.random.default_rng(2)
    losses = {(s, 0): float(rng.random()) for s in range(1, 8)}
    add_losses(store, losses)
    positive = {0: {e: w for e, w in weights[0].items() if w > 0}}  # six of ten
    add_scoring(store, "uncut", positive, family="retrieval")
    add_scoring(store, "cut", positive, family="retrieval", top_k=6)
    out = left_out(store)
    foretold = [sum(weights[0][e] for e in range(10) if e not in out[s]) for s in range(1, 8)]
    assert lds_of(store, "uncut")["q-0"] == pytest.approx(spearman(foretold, [-x for x in losses.values()]))
    assert lds_of(store, "cut") == {"q-0": None}


def test_a_scoring_that_cannot_tell_subsets_apart_has_no_lds(store: Store) -> None:
    linear(store)
    add_scoring(store, "zero", {q: dict.fromkeys(range(20), 0.0) for q in range(4)})
    add_scoring(store, "one", {q: dict.fromkeys(range(20), 1.0) for q in range(4)})
    assert store.rows("SELECT name, queries, lds, every_score FROM lds_report() ORDER BY name") == [
        ("one", 0, None, True),
        ("zero", 0, None, True),
    ]


def test_the_interval_is_that_of_the_resampled_queries(store: Store) -> None:
    rng = np.random.default_rng(3)
    weights = linear(store, queries=6)
    noisy = {q: {e: w + 2 * float(rng.normal()) for e, w in of.items()} for q, of in weights.items()}
    add_scoring(store, "noisy", noisy)
    lds = np.array([value for _, value in sorted(lds_of(store, "noisy").items())], dtype=float)
    draws = store.rows(
        "SELECT list(times_drawn(range, query) ORDER BY query) FROM range(200), "
        "(SELECT external_id AS query FROM queries) GROUP BY range"
    )
    means = [float(np.average(lds, weights=w)) for (w,) in draws if sum(w)]
    ((mean, low, high),) = store.rows("SELECT lds, low, high FROM lds_report(resamples := 200)")
    assert mean == pytest.approx(lds.mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-8)
    assert low < mean < high


def test_views_need_no_python(store: Store, path: Path) -> None:
    add_scoring(store, "true", linear(store))
    store.close()
    with duckdb.connect(path, read_only=True) as plain:
        assert plain.sql("SELECT round(lds, 6) FROM lds_report()").fetchall() == [(1,)]
        assert plain.sql("FROM leave_out_report()").fetchall() == []


# Leave-k-out


def leave_out_store(store: Store) -> None:
    fill(store, 8, 3)
    add_scoring(store, "a", {q: {e: float((e + q) % 8) for e in range(8)} for q in range(3)})
    add_scoring(store, "b", {q: {e: float(-e) for e in range(8)} for q in range(3)})


def test_leave_out_sets_hold_the_whole_corpus_random_ones_and_each_querys_proponents(store: Store) -> None:
    leave_out_store(store)
    made = make_leave_out(store, scorings=["a", "b"], top=2, queries=2, count=3)
    assert (made.subsets, made.left_out) == (1 + 3 + 4, 2)
    kinds = store.rows("SELECT subset, kind, scoring, query_id FROM subsets ORDER BY subset")
    assert kinds == [
        (1, "full", None, None), *((i, "random", None, None) for i in (2, 3, 4)),
        (5, "leave-out", "a", 0), (6, "leave-out", "b", 0), (7, "leave-out", "a", 1), (8, "leave-out", "b", 1),
    ]  # fmt: skip
    out = left_out(store, "leave-out")
    assert {s: out[s] for s in (5, 6, 7, 8)} == {5: {7, 6}, 6: {0, 1}, 7: {6, 5}, 8: {0, 1}}
    assert [len(out[s]) for s in (2, 3, 4)] == [2, 2, 2]
    assert 1 not in out


def test_leave_out_report_by_hand(store: Store) -> None:
    leave_out_store(store)
    make_leave_out(store, scorings=["a"], top=2, queries=2, count=2)
    # subsets: 1 full, 2 and 3 random, 4 and 5 without the proponents of queries 0 and 1; query 2 is not asked
    losses = {
        1: (1.0, 2.0, 9.0),
        2: (1.5, 2.0, 9.0),
        3: (1.0, 2.5, 0.0),
        4: (3.0, 7.0, 0.0),
        5: (0.0, 2.5, 0.0),
    }
    for seed, shift in ((0, 0.0), (1, 4.0)):  # a seed that shifts everything changes no difference
        shifted = {(s, q): x + shift for s, of in losses.items() for q, x in enumerate(of)}
        add_losses(store, shifted, seed=seed, name="leave-out")
    rows = store.rows("SELECT name, query, left_out, logprob, change FROM leave_out_query ORDER BY ALL")
    assert rows == [
        ("a", "q-0", 2, -3.0, -2.0), ("a", "q-1", 2, -4.0, -0.5),
        ("random", "q-0", 2, -3.0, -0.25), ("random", "q-1", 2, -4.0, -0.25),
    ]  # fmt: skip
    table = tabulate(store, leave_out=True)
    assert table.columns == (
        "subset_set", "name", "encoder", "model", "left_out", "queries", "change", "low", "high",
    )  # fmt: skip
    rows = [(row[1], *row[4:7]) for row in table.rows]
    assert rows == [("a", 2, 2, -1.25), ("random", 2, 2, -0.25)]
    assert table.rows[0][7:] == (-2.0, -0.5)


def test_leaving_out_more_than_is_ranked_is_refused(store: Store) -> None:
    leave_out_store(store)
    add_scoring(store, "short", {q: dict.fromkeys(range(3), 1.0) for q in range(3)}, family="retrieval")
    with pytest.raises(attrstore.InputError, match="short ranks only 3 examples for query 'q-0'"):
        make_leave_out(store, scorings=["a", "short"], top=4, queries=2)
    with pytest.raises(attrstore.InputError, match="no scoring is called c; there are"):
        make_leave_out(store, scorings=["c"], top=2)
    assert store.value("SELECT count(*) FROM subsets") == 0


# Imported losses


def imported(store: Store, tmp_path: Path, text: str, **options: Any) -> Any:
    file = tmp_path / "losses.csv"
    file.write_text("subset,query_id,loss\n" + text, encoding="utf-8")
    return import_losses(store, [file], **{"subsets": "lds", **options})


def test_imported_losses(store: Store, tmp_path: Path) -> None:
    fill(store, 6, 2)
    make_subsets(store, count=3)
    assert imported(store, tmp_path, "1,q-0,2.5\n2,q-1,0\n").added == 2
    assert imported(store, tmp_path, "1,q-0,2.5\n3,q-1,1\n", seed=0).unchanged == 1
    assert imported(store, tmp_path, "1,q-0,4\n", seed=1).added == 1
    with pytest.raises(attrstore.InputError, match=r"line 2|row 2.*the loss of '1, q-0' differs"):
        imported(store, tmp_path, "1,q-0,3\n")
    assert imported(store, tmp_path, "1,q-0,3\n", replace=True).replaced == 1
    assert store.rows("SELECT subset, query_id, seed, loss, origin FROM subset_losses ORDER BY ALL") == [
        (1, 0, 0, 3.0, "losses.csv"), (1, 0, 1, 4.0, "losses.csv"),
        (2, 1, 0, 0.0, "losses.csv"), (3, 1, 0, 1.0, "losses.csv"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "bad, message",
    [
        ("4,q-0,1", "row 3: no subset '4'"),
        ("one,q-0,1", "row 3: no subset 'one'"),
        ("1.5,q-0,1", "row 3: no subset '1.5'"),
        ("1,q-9,1", "row 3: no query 'q-9'"),
        ("1,q-0,nan", "row 3: the loss 'nan' is not a number of nats"),
        ("1,q-0,inf", "row 3: the loss 'inf' is not a number of nats"),
        ("1,q-0,-0.5", "row 3: the loss '-0.5' is not a number of nats, 0 or more"),
        ("1,q-0,high", "row 3: the loss 'high' is not a number of nats"),
        ("1,q-0,", "row 3: no 'loss'"),
        ("2,q-1,3", "subset 2, query 'q-1' twice: .*row 2 and .*row 3"),
    ],
)
def test_bad_losses_are_refused_and_nothing_is_written(
    store: Store, tmp_path: Path, bad: str, message: str
) -> None:
    fill(store, 6, 2)
    make_subsets(store, count=3)
    with pytest.raises(attrstore.InputError, match=message):
        imported(store, tmp_path, f"2,q-1,1\n{bad}\n")
    assert store.value("SELECT count(*) FROM subset_losses") == 0


def test_losses_of_an_unknown_set_or_a_corpus_that_grew_are_refused(store: Store, tmp_path: Path) -> None:
    fill(store, 6, 2)
    with pytest.raises(attrstore.InputError, match="no set of subsets called so; there are none yet"):
        imported(store, tmp_path, "1,q-0,1\n")
    make_subsets(store, count=3)
    with pytest.raises(attrstore.InputError, match=r"no set of subsets called so; there are lds\."):
        imported(store, tmp_path, "1,q-0,1\n", subsets="other")
    tiny.fill(store, ["one more"], [])
    with pytest.raises(attrstore.MismatchError, match="made of 6 examples, and there are 7 now"):
        imported(store, tmp_path, "1,q-0,1\n")


# The demo, trained again

RECIPE = train.Training(steps=6, batch=32, dim=32, layers=1, vocabulary=400)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corner of the demo: 120 sentences, 10 queries, a model that saw them for a few steps."""
    folder = tmp_path_factory.mktemp("demo")
    generate(0).write(folder)
    for name, kept in (("corpus.jsonl", 120), ("queries.jsonl", 10)):
        lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:kept]), encoding="utf-8")
    train.train(folder / "corpus.jsonl", folder / "queries.jsonl", folder / "model", recipe=RECIPE)
    return folder


@pytest.fixture
def demo(world: Path) -> Path:
    store_path = world / "demo.duckdb"
    store_path.unlink(missing_ok=True)
    with attrstore.open(store_path, create=True) as store:
        ingest_corpus(store, [world / "corpus.jsonl"])
        ingest_queries(store, [world / "queries.jsonl"])
    return world


def losses_of(demo: Path) -> dict[tuple[int, int, int], float]:
    with attrstore.open(demo / "demo.duckdb") as store:
        return {
            (subset, seed, query): loss
            for subset, seed, query, loss in store.rows(
                "SELECT subset, seed, query_id, loss FROM subset_losses"
            )
        }


def test_training_on_the_whole_corpus_again_gives_the_demos_own_model(demo: Path) -> None:
    with attrstore.open(demo / "demo.duckdb", writable=True) as store:
        make_subsets(store, count=3)
        store.execute("DELETE FROM subset_examples")  # nothing is left out
        queries = store.rows("SELECT query_id, prompt, target FROM queries")
    assert retrain(demo, recipe=RECIPE).models == 3
    losses = losses_of(demo)
    model = AutoModelForCausalLM.from_pretrained(demo / "model").double()
    tokenizer = AutoTokenizer.from_pretrained(demo / "model")
    for query, prompt, target in queries:
        tokens, n = tokenizer(prompt + target)["input_ids"], len(tokenizer(target)["input_ids"])
        with torch.no_grad():
            logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        expected = -sum(float(logprobs[i - 1, tokens[i]]) for i in range(len(tokens) - n, len(tokens)))
        for subset in (1, 2, 3):
            assert losses[subset, 0, query] == pytest.approx(expected, rel=1e-5)


def test_a_model_of_which_nothing_is_measured_is_work_to_do(store: Store) -> None:
    fill(store, 6, 2)
    make_subsets(store, count=3)
    asked = {"set": "lds", "retrainings": 1, "queries": [1]}
    assert store.named("subsets", "pending", asked).fetchall() == [(1, 0), (2, 0), (3, 0)]
    store.execute("INSERT INTO subset_losses SELECT 'lds', 2, 1, 0, 0.5, 'x'")
    assert store.named("subsets", "pending", asked).fetchall() == [(1, 0), (3, 0)]


def test_a_killed_retraining_goes_on_with_what_is_missing(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attrstore.open(demo / "demo.duckdb", writable=True) as store:
        make_subsets(store, count=3)
    trained: list[tuple[int, int]] = []
    own: Callable[..., dict[int, float]] = retraining.Job.train

    def watched(job: retraining.Job, subset: int, seed: int) -> dict[int, float]:
        if len(trained) == 2 and not losses_of_first:
            raise RuntimeError("killed")
        trained.append((subset, seed))
        return own(job, subset, seed)

    losses_of_first: dict[tuple[int, int, int], float] = {}
    monkeypatch.setattr(retraining.Job, "train", watched)
    with pytest.raises(RuntimeError, match="killed"):
        retrain(demo, recipe=RECIPE)
    losses_of_first = losses_of(demo)
    assert {key[:2] for key in losses_of_first} == {(1, 0), (2, 0)}
    assert len(losses_of_first) == 20
    assert retrain(demo, recipe=RECIPE).models == 1
    assert trained == [(1, 0), (2, 0), (3, 0)]
    assert retrain(demo, recipe=RECIPE, seeds=2).models == 3
    assert trained[3:] == [(1, 1), (2, 1), (3, 1)]
    losses = losses_of(demo)
    assert {key: losses[key] for key in losses_of_first} == losses_of_first
    assert len(losses) == 60
    assert len({round(losses[subset, seed, 1], 9) for subset in (1, 2, 3) for seed in (0, 1)}) == 6
    with pytest.raises(
        attrstore.MismatchError, match=r"has losses of 'demo: 6 steps .*and this is 'demo: 4 steps"
    ):
        retrain(demo, recipe=RECIPE, steps=4)
    with attrstore.open(
        demo / "demo.duckdb", writable=True
    ) as store:  # a kill that left no trace but the missing
        store.execute("DELETE FROM subset_losses WHERE subset = 2 AND seed = 1 AND query_id = 3")
    assert retrain(demo, recipe=RECIPE, seeds=2).models == 1
    assert losses_of(demo) == losses


def test_half_of_the_corpus_takes_half_of_the_steps(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with attrstore.open(demo / "demo.duckdb", writable=True) as store:
        make_subsets(store, count=3)
        out = left_out(store)
        texts = dict(store.rows("SELECT example_id, text FROM examples"))
    seen: list[tuple[int, list[list[int]]]] = []
    own = train.fit

    def watched(config: Any, encoded: Any, recipe: train.Training, **options: Any) -> Any:
        seen.append((recipe.steps, encoded))
        return own(config, encoded, recipe, **options)

    monkeypatch.setattr(train, "fit", watched)
    retrain(demo, recipe=RECIPE)
    tokenizer = AutoTokenizer.from_pretrained(demo / "model")
    for subset, (steps, encoded) in enumerate(seen, 1):
        assert steps == 3
        kept = [tokenizer(text)["input_ids"] for e, text in sorted(texts.items()) if e not in out[subset]]
        assert encoded == kept


# Commands


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_commands_from_subsets_to_the_report(store: Store, path: Path, tmp_path: Path) -> None:
    fill(store, 12, 2)
    add_scoring(store, "whole", {q: {e: float(e * (q + 1) % 5) for e in range(12)} for q in range(2)})
    add_scoring(store, "cut", {q: dict.fromkeys(range(4), 1.0) for q in range(2)}, top_k=2)
    store.close()
    made = run("subsets", path, "--count", 4, "--fraction", 0.5)
    assert made.exit_code == 0, made.output
    assert "lds: 4 subsets of 12 examples, each without 6." in made.output
    assert run("report", path, "--lds").output.startswith("No models were trained on subsets yet.")
    rows = [
        {"subset": s, "query_id": f"q-{q}", "loss": math.sqrt(s + q)} for s in (1, 2, 3, 4) for q in (0, 1)
    ]
    file = tmp_path / "losses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    brought = run("import", "losses", path, file, "--subsets", "lds")
    assert brought.exit_code == 0, brought.output
    assert "8 losses added" in brought.output
    shown = CliRunner().invoke(main, ["report", str(path), "--lds", "--format", "json"])
    found = {row["name"]: row for row in json.loads(shown.stdout)}
    assert found["whole"]["subsets"] == 4
    assert -1 <= found["whole"]["lds"] <= 1
    assert found["cut"]["lds"] is None
    assert "cut: no LDS." in shown.stderr
    out = tmp_path / "1.jsonl"
    assert (
        run("export", path, "FROM subset_texts WHERE subset_set = 'lds' AND subset = 1", out).exit_code == 0
    )
    assert len(out.read_text(encoding="utf-8").splitlines()) == 6
    leave = run("subsets", path, "--leave-out", 2, "--scoring", "whole", "--queries", 1, "--count", 1)
    assert "leave-out: 3 subsets of 12 examples, each without 2." in leave.output
    assert run("subsets", path, "--scoring", "whole").exit_code == 2
    assert run("subsets", path, "--leave-out", 2).exit_code == 2
    assert run("check", path).exit_code == 0
    assert run("retrain", tmp_path / "nowhere").exit_code == 2


@pytest.mark.slow
def test_retrain_prints_the_table_of_its_set(demo: Path) -> None:
    path = demo / "demo.duckdb"
    with attrstore.open(path, writable=True) as store:
        ids = [row[0] for row in store.rows("SELECT example_id FROM examples")]
        queries = [row[0] for row in store.rows("SELECT query_id FROM queries")]
        add_scoring(store, "whole", {q: {e: float(e * q % 7) for e in ids} for q in queries})
    assert run("subsets", path, "--count", 3).exit_code == 0
    leave_out = run("subsets", path, "--leave-out", 2, "--scoring", "whole", "--queries", 1, "--count", 1)
    assert leave_out.exit_code == 0, leave_out.output
    shown = run("retrain", demo, "--steps", 2)
    assert shown.exit_code == 0, shown.output
    assert "lds: 3 models trained." in shown.stderr
    row = [cell for line in shown.stdout.splitlines() if "whole" in line for cell in line.split()]
    with attrstore.open(path) as store:
        (expected,) = store.rows("SELECT queries, subsets, lds FROM lds_report()")
    assert {"whole", "influence", str(expected[0]), "3", f"{expected[2]:.4f}"} <= set(row)
    shown = run("retrain", demo, "--steps", 2, "--subsets", "leave-out")
    assert "leave-out: 3 models trained." in shown.stderr
    with attrstore.open(path) as store:
        left = store.rows("SELECT name, left_out, queries FROM leave_out_report() ORDER BY name")
        store_random = -store.value("SELECT change FROM leave_out_report() WHERE name = 'random'")
    assert left == [("random", 2, 1), ("whole", 2, 1)]
    assert all(name in shown.stdout for name, _, _ in left)
    with attrstore.open(path) as store:
        ((rise, qld),) = store.rows("SELECT rise, qld FROM qld_report()")
    assert qld == pytest.approx(rise - store_random, abs=1e-12)
    assert all(f"{value:.4f}" in shown.stdout for value in (rise, qld))
