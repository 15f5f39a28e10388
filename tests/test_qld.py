"""QLD: how much more the loss rises without the strongest share of the corpus than without a random one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import Store
from attrstore.cli import main
from attrstore.evaluation.report import tabulate
from attrstore.evaluation.subsets import make_leave_out
from tests.test_intervals import HIGHEST, LOWEST, QUERIES, RESAMPLES, WORLDS
from tests.test_lds import Scores, add_losses, add_scoring, fill, left_out

# Of 20 examples, by query; ten percent are two.
SCORES: Scores = {q: {e: float((7 * e + 3 * q) % 20) for e in range(20)} for q in range(3)}


@pytest.fixture
def planted(store: Store) -> Store:
    """20 examples and 3 queries, the first two of one relation, the third of another."""
    fill(store, 20, 3)
    store.execute(
        "UPDATE queries SET metadata = json_object('relation', CASE WHEN query_id < 2 THEN 'a' ELSE 'b' END)"
    )
    add_scoring(store, "s", SCORES)
    return store


def strongest(scores: dict[int, float], n: int) -> set[int]:
    """Of equal ones those that come first."""
    return set(sorted(scores, key=lambda e: (-scores[e], e))[:n])


@pytest.mark.parametrize(("share", "n"), [(0.1, 2), (0.01, 1), (0.124, 2), (0.126, 3), (0.95, 19)])
def test_the_strongest_share_of_the_corpus_is_left_out_and_at_least_one(
    planted: Store, share: float, n: int
) -> None:
    made = make_leave_out(planted, name="qld", scorings=["s"], share=share, queries=3, count=2)
    assert (made.subsets, made.left_out, made.n_examples) == (1 + 2 + 3, n, 20)
    out = left_out(planted, "qld")
    assert 1 not in out
    assert [len(out[subset]) for subset in (2, 3)] == [n, n]
    assert [out[4 + q] for q in range(3)] == [strongest(SCORES[q], n) for q in range(3)]


def test_a_group_loses_what_is_strongest_in_sum(planted: Store) -> None:
    make_leave_out(planted, name="qld", scorings=["s"], share=0.1, by="relation", count=1)
    kinds = planted.rows(
        "SELECT subset, kind, scoring, query_id, grouped_by, value FROM subsets ORDER BY subset"
    )
    assert kinds == [
        (1, "full", None, None, None, None), (2, "random", None, None, None, None),
        (3, "leave-out", "s", None, "relation", "a"), (4, "leave-out", "s", None, "relation", "b"),
    ]  # fmt: skip
    out = left_out(planted, "qld")
    both = {e: SCORES[0][e] + SCORES[1][e] for e in range(20)}
    assert out[3] == strongest(both, 2) != strongest(SCORES[0], 2)
    assert out[4] == strongest(SCORES[2], 2)
    assert planted.rows("SELECT subset, query_id FROM subset_queries ORDER BY ALL") == [
        (3, 0),
        (3, 1),
        (4, 2),
    ]


def test_ties_at_the_boundary_go_by_the_order_of_the_corpus(store: Store) -> None:
    fill(store, 8, 2)
    store.execute("UPDATE queries SET metadata = json_object('relation', 'a')")
    add_scoring(store, "s", {q: {e: float(e == 6) for e in range(8)} for q in range(2)})  # seven are equal
    for name, by in (("each", None), ("group", "relation")):
        make_leave_out(store, name=name, scorings=["s"], share=0.3, by=by, count=1)
        assert all(left_out(store, name)[subset] == {6, 0} for subset in ((3, 4) if by is None else (3,)))
        assert len(left_out(store, name)[2]) == 2


def losses_by_hand(store: Store) -> None:
    # subsets: 1 full, 2 and 3 random, 4 to 6 without the strongest of queries 0 to 2
    losses = {
        1: (1.0, 2.0, 4.0),
        2: (1.5, 2.0, 4.0),
        3: (1.0, 2.5, 4.5),
        4: (3.0, 9.0, 9.0),
        5: (9.0, 2.5, 9.0),
        6: (9.0, 9.0, 3.0),
    }
    for seed, shift in ((0, 0.0), (1, 4.0)):  # a seed that shifts everything changes no difference
        shifted = {(s, q): x + shift for s, of in losses.items() for q, x in enumerate(of)}
        add_losses(store, shifted, seed=seed, name="qld")


def test_qld_by_hand(planted: Store) -> None:
    make_leave_out(planted, name="qld", scorings=["s"], share=0.1, queries=3, count=2)
    losses_by_hand(planted)
    rows = planted.rows("SELECT query, left_out, share, rise, random_rise, qld FROM qld_query ORDER BY query")
    assert rows == [
        ("q-0", 2, 0.1, 2.0, 0.25, 1.75), ("q-1", 2, 0.1, 0.5, 0.25, 0.25), ("q-2", 2, 0.1, -1.0, 0.25, -1.25),
    ]  # fmt: skip
    table = tabulate(planted, qld=True)
    assert table.columns == (
        "subset_set", "name", "encoder", "model", "left_out", "share", "queries", "rise", "random_rise", "qld",
        "low", "high",
    )  # fmt: skip
    ((*row, low, high),) = table.rows
    assert row == ["qld", "s", None, None, 2, 0.1, 3, 0.5, 0.25, 0.25]
    assert table.notes == ()
    # The bounds are quantiles of the resampled means.
    drawn = planted.rows("SELECT list(w ORDER BY query) FROM drawn(1000) GROUP BY resample")
    means = [np.average([1.75, 0.25, -1.25], weights=w) for (w,) in drawn if sum(w)]
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-8)


def test_qld_of_groups_is_over_their_queries(planted: Store) -> None:
    make_leave_out(planted, name="qld", scorings=["s"], share=0.1, by="relation", count=1)
    # 1 full, 2 random, 3 without the strongest of queries 0 and 1, 4 without those of query 2
    losses = {1: (1.0, 2.0, 4.0), 2: (1.5, 2.0, 4.0), 3: (3.0, 2.5, 9.0), 4: (9.0, 9.0, 5.0)}
    add_losses(planted, {(s, q): x for s, of in losses.items() for q, x in enumerate(of)}, name="qld")
    rows = planted.rows("SELECT query, value, rise, random_rise, qld FROM qld_query ORDER BY query")
    assert rows == [("q-0", "a", 2.0, 0.5, 1.5), ("q-1", "a", 0.5, 0.0, 0.5), ("q-2", "b", 1.0, 0.0, 1.0)]
    assert planted.rows("SELECT queries, qld FROM qld_report()") == [(3, 1.0)]
    assert planted.rows("SELECT name, queries, change FROM leave_out_report()") == [
        ("s", 3, pytest.approx(-3.5 / 3)), ("random", 3, pytest.approx(-0.5 / 3)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "missing", ["subset = 4", "subset IN (2, 3) AND query_id = 0", "subset = 1 AND query_id = 0"]
)
def test_a_query_without_a_loss_is_not_counted_and_said(planted: Store, missing: str) -> None:
    make_leave_out(planted, name="qld", scorings=["s"], share=0.1, queries=3, count=2)
    losses_by_hand(planted)
    planted.execute(f"DELETE FROM subset_losses WHERE {missing}")
    assert planted.rows("SELECT query, qld FROM qld_query ORDER BY query") == [
        ("q-0", None), ("q-1", 0.25), ("q-2", -1.25),
    ]  # fmt: skip
    table = tabulate(planted, qld=True)
    row = table.records()[0]
    assert (row["queries"], row["rise"], row["random_rise"], row["qld"]) == (2, -0.25, 0.25, -0.5)
    assert len(table.notes) == 1
    assert table.notes[0].startswith("qld: QLD of s is over 2 of 3 queries. The others lack a loss")


def test_without_any_loss_the_report_says_what_to_do(planted: Store) -> None:
    assert tabulate(planted, qld=True).notes[0].startswith("No models were trained on subsets yet.")
    make_leave_out(planted, name="qld", scorings=["s"], share=0.1, queries=3, count=2)
    table = tabulate(planted, qld=True)
    assert table.notes[0].startswith("No models were trained on subsets yet.")
    assert [(row["queries"], row["qld"]) for row in table.records()] == [(0, None)]


def test_qld_is_there_for_a_set_of_k_too(planted: Store) -> None:
    make_leave_out(planted, name="qld", scorings=["s"], top=2, queries=3, count=2)
    losses_by_hand(planted)
    assert planted.rows("SELECT left_out, qld FROM qld_report()") == [(2, 0.25)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share 0: must be above 0"),
        ({"share": 1.0}, "share 1: must be below 1"),
        ({"share": 0.99}, "share 0.99: leaves none of 20 examples"),
        ({"share": 0.1, "by": "colour"}, "no query has 'colour' in its metadata. Keys there: relation"),
        ({"share": 0.1, "by": "relation", "scorings": ["cut"]}, "cut lacks some for query 'q-0'.*again with top_k 20"),
        ({"share": 0.1, "by": "relation", "scorings": ["one"]}, "one lacks some for query 'q-1'"),
        ({"share": 0.3, "scorings": ["cut"]}, "share 0.3: 6 examples, and cut ranks only 5 examples for query 'q-0'"),
        ({"scorings": []}, "scorings: none given. Name at least one"),
        ({"share": 0.1, "scorings": ["random"]}, "random: reports call the examples so .*attrstore rename"),
    ],
)  # fmt: skip
def test_what_cannot_be_left_out_is_refused(planted: Store, options: dict[str, Any], message: str) -> None:
    add_scoring(planted, "cut", {q: dict.fromkeys(range(5), 1.0) for q in range(3)}, top_k=5)
    add_scoring(planted, "one", {0: SCORES[0]})
    add_scoring(planted, "random", SCORES)
    with pytest.raises(attrstore.InputError, match=message):
        make_leave_out(planted, **{"scorings": ["s"], "name": "qld", **options})
    assert planted.value("SELECT count(*) FROM subsets") == 0


def test_what_a_retrieval_did_not_find_adds_nothing_to_a_group(planted: Store) -> None:
    found: Scores = {0: {3: 1.0, 4: 2.0}, 1: {}, 2: {5: 1.0, 6: 1.0}}
    add_scoring(planted, "r", found, family="retrieval", top_k=20)
    make_leave_out(planted, name="qld", scorings=["r"], share=0.1, by="relation", count=1)
    assert {subset: out for subset, out in left_out(planted, "qld").items() if subset > 2} == {
        3: {3, 4},
        4: {5, 6},
    }
    with pytest.raises(attrstore.InputError, match="r ranks only 2 examples for relation 'a'"):
        make_leave_out(planted, name="more", scorings=["r"], share=0.2, by="relation")


def test_stale_scorings_are_refused_and_those_made_again_are_marked(planted: Store) -> None:
    make_leave_out(planted, name="qld", scorings=["s"], share=0.1, queries=3, count=2)
    losses_by_hand(planted)
    assert tabulate(planted, qld=True).notes == ()
    planted.execute("UPDATE scorings SET created = now() + INTERVAL 1 SECOND")
    for table in (tabulate(planted, qld=True), tabulate(planted, leave_out=True)):
        (note,) = table.notes
        assert note.startswith("qld: s was scored again since; what was left out is of the scoring before.")
    planted.execute("INSERT INTO scoring_inputs VALUES ('s', 'examples', 19, 0)")
    assert (
        tabulate(planted, qld=True).notes[-1].startswith("Stale: s: made of 19 examples, now there are 20.")
    )
    with pytest.raises(
        attrstore.MismatchError, match=r"s: stale: made of 19 examples, now there are 20\. Score again"
    ):
        make_leave_out(planted, name="other", scorings=["s"], share=0.1)


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_commands_from_subsets_to_qld(planted: Store, path: Path, tmp_path: Path) -> None:
    planted.close()
    made = run("subsets", path, "--share", 0.1, "--scoring", "s", "--by", "relation", "--count", 1)
    assert made.exit_code == 0, made.output
    assert "qld: 4 subsets of 20 examples, each without 2." in made.output
    rows = [
        {"subset": s, "query_id": f"q-{q}", "loss": (s * 3 + q) % 5} for s in range(1, 5) for q in range(3)
    ]
    file = tmp_path / "losses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run("import", "losses", path, file, "--subsets", "qld").exit_code == 0
    shown = json.loads(run("report", path, "--qld", "--format", "json").stdout)
    # Query 0: whole 3, random 1, without the strongest 4: 1 - -2. Query 1: 4, 2, 0: -4 - -2. Query 2: 0, 3, 4: 4 - 3.
    assert [(row["name"], row["queries"], row["qld"]) for row in shown] == [("s", 3, pytest.approx(2 / 3))]
    assert "random rise" in run("report", path, "--qld").stdout
    for wrong, message in (
        (["--share", 0.1], "--leave-out, --share, --by and --queries go with --scoring NAME."),
        (["--scoring", "s"], "--scoring NAME goes with --leave-out K or --share S."),
        (["--scoring", "s", "--share", 0.1, "--leave-out", 2], "both say how many"),
        (["--scoring", "s", "--share", 0.1, "--by", "relation", "--queries", 2], "Give one."),
        (["--scoring", "s", "--share", 1.5], "--share 1.5: must be below 1"),
        (["--scoring", "s", "--share", 0], "--share 0"),
    ):
        refused = run("subsets", path, *wrong)
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output
    assert run("check", path).exit_code == 0
    with attrstore.open(path, writable=True) as store:
        assert store.subsets(scorings=["s"], share=0.05, name="again").left_out == 1
        assert store.report(qld=True).columns[-3:] == ["qld", "low", "high"]


# Over many worlds


@pytest.fixture
def worlds(store: Store) -> float:
    """Each world a scoring with a set of its own, whose losses are drawn; returns the true QLD."""
    draw = np.random.default_rng(3)
    lost = {
        1: draw.normal(5, 1, (WORLDS, QUERIES)),
        2: draw.normal(5.1, 0.5, (WORLDS, QUERIES)),
        3: draw.exponential(0.4, (WORLDS, QUERIES)),  # how much more than 5.1: skewed, as such rises are
    }
    lost[3] += 5.1
    world, query = (part.ravel() for part in np.indices((WORLDS, QUERIES)))
    with store.transaction():
        for statement in (
            "INSERT INTO queries SELECT i, 'q' || i, 'p', 't', json_object('g', 1), 0 FROM range($queries) t(i)",
            "INSERT INTO examples SELECT i, 'e' || i, 't', NULL, NULL, 0 FROM range(2) t(i)",
            (
                "INSERT INTO scorings SELECT 's' || i, 's' || i, 'influence', 'dot', json_object('top_k', 2), NULL, "
                "2, now(), '0' FROM range($worlds) t(i)"
            ),
            (
                "INSERT INTO subsets SELECT 's' || i, k + 1, (['full', 'random', 'leave-out'])[k + 1], 2, 0, "
                "CASE k WHEN 2 THEN 's' || i END, NULL, CASE k WHEN 2 THEN 'g' END, CASE k WHEN 2 THEN '1' END "
                "FROM range($worlds) t(i), range(3) u(k)"
            ),
            "INSERT INTO subset_examples SELECT 's' || i, k + 1, 0 FROM range($worlds) t(i), range(1, 3) u(k)",
        ):
            given = {"queries": QUERIES, "worlds": WORLDS}
            store.execute(
                statement, {name: value for name, value in given.items() if f"${name}" in statement}
            )
        for subset, losses in lost.items():
            drawn = pyarrow.table({"world": world, "query": query, "loss": losses.ravel()})
            with store.registered(drawn=drawn):
                store.execute(
                    "INSERT INTO subset_losses SELECT 's' || world, $subset, query, 0, loss, 'test' FROM drawn",
                    {"subset": subset},
                )
    return 0.4


def test_intervals_of_qld_cover_95_percent(store: Store, worlds: float) -> None:
    rows = store.rows(f"SELECT queries, low <= $truth AND $truth <= high FROM qld_report(resamples := {RESAMPLES})",
                      {"truth": worlds})  # fmt: skip
    assert [n for n, _ in rows] == [QUERIES] * WORLDS
    assert LOWEST < sum(inside for _, inside in rows) / WORLDS < HIGHEST
