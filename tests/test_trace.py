"""Fact tracing in one call: every method is a row or is named with what it needs, and nothing is done twice."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner

import attrstore
from attrstore import Store
from attrstore.cli import main
from attrstore.errors import InputError
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.representations import ingest_representations
from attrstore.ingest.lexical import ingest_lexical
from attrstore.methods import METHODS
from attrstore.scoring import score
from attrstore.workflows.trace import trace
from tests import tiny

QUERIES = [("a b", " c"), ("d e f", " g"), ("river", " stone")]
LABELS = [(0, 3), (0, 7), (1, 11), (2, 2)]


def fill(store: Store, folder: Path, *, plain: bool = True, corrected: bool = True) -> Path:
    """Texts, labels, lexical index, representations and gradients of a tiny model."""
    tiny.fill(store, tiny.sentences(24), QUERIES, LABELS)
    model = tiny.checkpoint(folder / "model")
    state = tiny.adam_state(model)
    ingest_lexical(store)
    ingest_representations(store, model=model)
    if corrected:
        ingest_gradients(store, model=model, optimizer_state=state, projection_dim=4, name="corrected")
    if plain:
        ingest_gradients(store, model=model, optimizer_state="none", projection_dim=4, name="plain")
    return model


def scoring_ids(store: Store) -> dict[str, str]:
    return dict(store.rows("SELECT name, scoring_id FROM scorings"))


def test_every_method_is_a_row_or_is_left_out_with_its_need(store: Store, tmp_path: Path) -> None:
    fill(store, tmp_path)
    traced = trace(store, queries=2)
    rows = {row["name"]: row for row in traced.table.records()}
    assert rows.keys() | traced.left_out.keys() == METHODS.keys()
    assert traced.left_out.keys() == {"tracincp", "mirrored", "dense"}
    assert "attrstore ingest embeddings" in traced.left_out["dense"]
    assert "attrstore ingest gradients" in traced.left_out["tracincp"]
    assert "mirrored 10" in traced.left_out["mirrored"]
    assert {name: row["encoder"] for name, row in rows.items()} == {
        **dict.fromkeys(rows, "plain"),
        **dict.fromkeys(("trackstar", "trackstar-block", "cosine-block", "damped-block", "less"), "corrected"),
        "repsim": "layer2-last", "bm25": None,
    }  # fmt: skip
    # bm25 found nothing for a query whose words no example has; the others rank all three and measure the first two.
    for name in rows.keys() - {"bm25"}:
        assert (rows[name]["queries"], rows[name]["tail_patch_measured"]) == (3, 2), name
    assert not store.value("SELECT count(*) FROM runs WHERE state <> 'finished'")


def test_the_metrics_are_those_of_the_stored_ranks(store: Store, tmp_path: Path) -> None:
    fill(store, tmp_path)
    rows = trace(store, methods=["cosine", "bm25", "trackstar"], queries=3).table.records()
    n, labelled = 24, set(LABELS)
    for row in rows:
        ranks: dict[int, list[int]] = defaultdict(list)
        for query, example, rank in store.rows(
            "SELECT query_id, example_id, rank FROM scores JOIN scorings USING (scoring_id) WHERE name = $n",
            {"n": row["name"]},
        ):
            if (query, example) in labelled:
                ranks[query].append(rank if rank > 0 else n + 1 + rank)
        best = [min(ranks[query], default=None) for query in range(3)]
        assert row["mrr"] == pytest.approx(sum(1 / rank for rank in best if rank) / 3)
        assert row["hit_at_10"] == pytest.approx(sum(rank is not None and rank <= 10 for rank in best) / 3)
        bounds = "SELECT low, high FROM report_intervals() WHERE metric = 'mrr' AND name = $n"
        assert store.rows(bounds, {"n": row["name"]}) == [(row["mrr_low"], row["mrr_high"])]
        assert row["mrr_low"] <= row["mrr"] <= row["mrr_high"]
        moved = store.rows(
            "SELECT avg(delta_logprob) FROM scores JOIN scorings USING (scoring_id) "
            "JOIN tail_patches USING (query_id, example_id) "
            "WHERE name = $n AND rank BETWEEN 1 AND 10 GROUP BY query_id",
            {"n": row["name"]},
        )
        assert row["tail_patch_measured"] == len(moved)
        mean = "SELECT avg(tail_patch_logprob) FROM query_report WHERE name = $n"
        assert store.value(mean, {"n": row["name"]}) == pytest.approx(sum(m for (m,) in moved) / len(moved))
        assert (row["labelled_queries"], row["tail_patch_logprob"]) == (3, None)  # below the minimum
    assert [row["mrr"] for row in rows] == sorted((row["mrr"] for row in rows), reverse=True)


def test_what_is_done_stays_unless_it_is_to_be_replaced(store: Store, tmp_path: Path) -> None:
    fill(store, tmp_path)
    score(store, "dot", encoder="corrected")
    mine = scoring_ids(store)["dot"]
    first = trace(store, methods=["dot", "cosine"], queries=2)
    ids, measured = scoring_ids(store), store.value("SELECT count(*) FROM tail_patches")
    assert ids["dot"] == mine
    assert {row["encoder"] for row in first.table.records()} == {"corrected", "plain"}
    again = trace(store, methods=["dot", "cosine"], queries=2)
    assert scoring_ids(store) == ids
    assert store.value("SELECT count(*) FROM tail_patches") == measured > 0
    assert again == first
    replaced = trace(store, methods=["dot", "cosine"], queries=2, tail_patch=False, replace=True)
    assert not scoring_ids(store).items() & ids.items()
    assert {row["encoder"] for row in replaced.table.records()} == {"plain"}


def test_checkpoints_and_mirrored_are_run_where_they_can(store: Store, tmp_path: Path) -> None:
    model = fill(store, tmp_path, corrected=False)
    earlier = tiny.checkpoint(tmp_path / "earlier", seed=1)
    other = tiny.checkpoint(tmp_path / "other", seed=2)
    ingest_gradients(store, model=earlier, projection_dim=4, name="earlier")
    ingest_gradients(store, model=other, projection_dim=3, name="of another width")
    traced = trace(
        store, methods=["tracincp", "mirrored", "dot", "less"], model=model, mirrored=2, tail_patch=False
    )
    rows = {row["name"]: row for row in traced.table.records()}
    assert rows.keys() == {"tracincp", "mirrored", "dot"}
    assert rows["dot"]["encoder"] == "plain"
    assert rows["mirrored"]["queries"] == 2
    spec = json.loads(store.value("SELECT spec FROM scorings WHERE name = 'tracincp'"))
    names = dict(store.rows("SELECT encoder_id, name FROM encoders"))
    assert [names[encoder] for encoder in spec["encoders"]] == ["plain", "earlier"]
    assert "--optimizer-state" in traced.left_out["less"]


def test_less_takes_no_plain_gradients_of_other_layers(store: Store, tmp_path: Path) -> None:
    model = fill(store, tmp_path, plain=False)
    ingest_gradients(store, model=model, optimizer_state="none", projection_dim=4, modules="mlp")
    traced = trace(store, methods=["less", "dot"], tail_patch=False)
    assert "no uncorrected encoder projects as corrected does" in traced.left_out["less"]


def test_without_a_model_there_is_no_tail_patch_and_the_rest_goes_on(store: Store) -> None:
    tiny.fill(store, tiny.sentences(24), QUERIES, LABELS)
    with pytest.raises(InputError, match=r"no method can be run.*\n.*attrstore ingest lexical"):
        trace(store, methods=["bm25"])
    ingest_lexical(store)
    traced = trace(store)
    assert [row["name"] for row in traced.table.records()] == ["bm25"]
    assert traced.left_out.keys() == METHODS.keys() - {"bm25"} | {"tail-patch"}
    assert "model PATH" in traced.left_out["tail-patch"]


def test_a_foreign_scoring_of_a_methods_name_is_not_taken_for_it(store: Store) -> None:
    tiny.fill(store, tiny.sentences(24), QUERIES, LABELS)
    ingest_lexical(store)
    score(store, "bm25", name="dot")
    traced = trace(store, methods=["dot", "bm25"], tail_patch=False, replace=True)
    assert "one of bm25" in traced.left_out["dot"]
    assert [row["name"] for row in traced.table.records()] == ["bm25"]


@pytest.mark.slow
def test_the_command_prints_the_table_and_what_it_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with attrstore.open(path, create=True) as store:
        fill(store, tmp_path, plain=False)
    shown = CliRunner().invoke(main, ["trace", str(path), "--queries", "3"])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0].split() == [
        "method",
        "encoder",
        "queries",
        "MRR",
        "hit@10",
        "tail-patch",
        "n",
        "tail-patch",
    ]
    (trackstar,) = [line for line in lines if line.startswith("trackstar ")]
    assert trackstar.split()[-2:] == ["–", "3"]  # tail-patch of fewer than ten queries has no mean
    assert trackstar.count("[") == 2
    assert "Left out: dense: no embedding encodings yet." in shown.stderr
    assert "Left out: less:" in shown.stderr
    as_json = CliRunner().invoke(main, ["trace", str(path), "--queries", "3", "--format", "json"])
    assert {row["name"] for row in json.loads(as_json.stdout)} == METHODS.keys() - {
        "less", "tracincp", "mirrored", "dense",
    }  # fmt: skip
