"""Scores by group over all examples, against numpy over every score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import aggregates
from attrstore.cli import main
from tests import tiny

N = 23
QUERIES = [("a b", " c"), ("d", " e f"), ("north", " river")]
GROUPS = {"few": range(5), "many": range(5, 20), None: range(20, N)}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(N), QUERIES)
        store.execute(
            "UPDATE examples SET source = CASE WHEN example_id < 5 THEN 'few' WHEN example_id < 20 THEN 'many' END, "
            "metadata = json_object('odd', example_id % 2)"
        )
        store.index_lexical()
        store.encode_gradients(model=tiny.checkpoint(folder / "model"), projection_dim=4)
    return folder / "s.duckdb"


@pytest.fixture
def store(encoded: Path, path: Path) -> attrstore.Store:
    path.write_bytes(encoded.read_bytes())
    return attrstore.open(path, writable=True)


@pytest.mark.parametrize("at_once", [1, 2**24])  # a query at a time, and all of them
def test_every_score_counts(store: attrstore.Store, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(aggregates, "AT_ONCE", at_once)
    with store:
        # Every pair is kept by one scoring, three by the other; the aggregates are of all pairs in both.
        store.score("cosine-block", top_k=N, name="whole")
        store.score("cosine-block", top_k=3, name="ends", group_by="source")
        scores = np.full((len(QUERIES), N), np.nan)
        for query, example, score in store.rows(
            "SELECT query_id, example_id, score FROM scores JOIN scorings USING (scoring_id) WHERE name = 'whole'"
        ):
            scores[query, example] = score
        assert np.isfinite(scores).all()
        found = store.rows(
            "SELECT query, value, examples, total, mean, q05, q25, median, q75, q95, share, grouped_by "
            "FROM group_influence WHERE scoring = 'ends'"
        )
        assert len(found) == len(QUERIES) * len(GROUPS)
        for query, value, n, total, mean, *rest, share, grouped_by in found:
            of_query = scores[int(query[2:])]
            part = of_query[list(GROUPS[value])]
            expected = [part.sum(), part.mean(), *np.quantile(part, [0.05, 0.25, 0.5, 0.75, 0.95])]
            assert np.allclose([total, mean, *rest], expected, rtol=1e-6, atol=1e-9)
            assert share == pytest.approx(part.sum() / of_query.sum(), rel=1e-4)
            assert (n, grouped_by) == (len(part), "source")
        means = {value: scores[:, list(ids)].mean(axis=1) for value, ids in GROUPS.items()}
        reported = store.rows(
            "SELECT value, queries, examples, mean, above, strongest, model IS NOT NULL FROM group_report "
            "WHERE scoring = 'ends'"
        )
        assert len(reported) == 3
        for value, queries, n, mean, above, strongest, has_model in reported:
            assert (queries, n, has_model) == (3, len(GROUPS[value]), True)
            assert mean == pytest.approx(means[value].mean(), rel=1e-6)
            assert above == (means[value] > scores.mean(axis=1)).sum()
            assert strongest == sum(means[value][q] == max(m[q] for m in means.values()) for q in range(3))
    assert not [file for file in store.path.parent.iterdir() if file.suffix != ".duckdb"]


def test_groups_go_with_their_scoring_and_are_refused_by_name(store: attrstore.Store) -> None:
    with store:
        store.score("cosine", group_by="odd", where="source IS NOT NULL")
        counted = "SELECT DISTINCT value, examples FROM group_influence ORDER BY 1"
        assert store.rows(counted) == [("0", 10), ("1", 10)]
        assert all(check.ok for check in store.check())
        store.score("cosine")  # again, without: what was kept of the first goes
        assert store.value("SELECT count(*) FROM score_groups") == 0
        for method, by, reason in (
            ("bm25", "source", "group_by source: bm25 does not scan encodings"),
            ("cosine", "colour", "group_by colour: no example has a value of it. Give source, or a key"),
        ):
            with pytest.raises(attrstore.InputError, match=reason):
                store.score(method, group_by=by)
        assert store.rows("SELECT name FROM scorings") == [("cosine",)]
    done = CliRunner().invoke(main, ["score", str(store.path), "dot", "--group-by", "source"])
    assert "FROM group_report WHERE scoring = 'dot'" in done.output
