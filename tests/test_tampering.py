"""Whatever is changed in a scored store behind attrstore's back, check finds it and names the place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import attrstore
from attrstore import Store
from attrstore.check import check
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.scoring import score
from tests import tiny

TAMPERING: dict[
    str, tuple[str, str, str]
] = {  # what is done: (the SQL, the rule that fails, the place it names)
    "a text is edited": (
        "UPDATE examples SET text = 'x' WHERE example_id = 3",
        "changed_texts",
        "example e-3",
    ),
    "a prompt is edited": (
        "UPDATE queries SET prompt = 'x' WHERE query_id = 1",
        "changed_texts",
        "query q-1",
    ),
    "a target is edited": (
        "UPDATE queries SET target = 'x' WHERE query_id = 1",
        "changed_texts",
        "query q-1",
    ),
    "prompt and target are cut elsewhere": (
        "UPDATE queries SET prompt = prompt || ' ', target = ltrim(target) WHERE query_id = 1",
        "changed_texts",
        "query q-1",
    ),
    "an example is doubled": (
        (
            "INSERT INTO examples SELECT example_id, 'new', text, source, metadata, content_hash FROM examples "
            "WHERE example_id = 3"
        ),
        "duplicate_ids",
        "example_id 3",
    ),
    "an original of no example": (
        "INSERT INTO example_originals VALUES (99, 'text', '{}')",
        "originals",
        "99",
    ),
    "a label is NaN": ("UPDATE labels SET label = 'nan' WHERE example_id = 3", "labels", "example 3"),
    "a label is infinite": ("UPDATE labels SET label = 'inf' WHERE example_id = 3", "labels", "example 3"),
    "a label is doubled": ("INSERT INTO labels FROM labels WHERE example_id = 3", "labels", "example 3"),
    "a label of no example": ("INSERT INTO labels VALUES (0, 99, 1, NULL)", "labels", "example 99"),
    "the spec is edited": (
        "UPDATE encoders SET spec = replace(spec, '\"projection_dim\": 4', '\"projection_dim\": 5')",
        "recipes",
        "corrected",
    ),
    "the spec is no JSON object": ("UPDATE encoders SET spec = '[]'", "recipes", "cannot be read"),
    "the blocks overlap": (
        "UPDATE encoders SET blocks = replace(blocks, '\"offset\": 16', '\"offset\": 8')",
        "recipes",
        "blocks",
    ),
    "a block is longer": (
        'UPDATE encoders SET blocks = replace(blocks, \'"offset": 0, "length": 16\', \'"offset": 0, "length": 17\')',
        "recipes",
        "blocks",
    ),
    "a projection is gone": (
        "DELETE FROM projections WHERE part = 'scale_in' AND module LIKE '%1.mlp.up_proj'",
        "projections",
        "scale_in of",
    ),
    "a projection is NaN": (
        "UPDATE projections SET scale = 'nan' WHERE module LIKE '%1.mlp.up_proj'",
        "code_lengths",
        "1.mlp.up_proj",
    ),
    "an encoding is gone": ("DELETE FROM encodings WHERE example_id = 3", "encoded", "example 3"),
    "a query's encoding is gone": ("DELETE FROM query_encodings WHERE query_id = 1", "encoded", "query 1"),
    "a code is short": (
        "UPDATE encodings SET code = unhex(left(hex(code), 20)) WHERE example_id = 3",
        "code_lengths",
        "example 3",
    ),
    "all codes are short": (
        "UPDATE encodings SET code = unhex(left(hex(code), 20))",
        "code_lengths",
        "example",
    ),
    "scales are short": (
        "UPDATE encodings SET scales = unhex(left(hex(scales), 4)) WHERE example_id = 3",
        "code_lengths",
        "example 3",
    ),
    "a scale is NaN": (
        "UPDATE encodings SET scales = unhex('C07F' || hex(scales)[5:]) WHERE example_id = 3",
        "code_lengths",
        "example 3: a number that is not finite",
    ),
    "a scale is infinite": (
        "UPDATE encodings SET scales = unhex(hex(scales)[:-5] || '807F') WHERE example_id = 3",
        "code_lengths",
        "example 3: a number that is not finite",
    ),
    "a code is NaN": (
        "UPDATE encodings SET code = unhex('007E' || hex(code)[5:]) WHERE example_id = 3",
        "code_lengths",
        "example 3",
    ),
    "codes change places": (
        (
            "UPDATE encodings SET (code, scales) = (other.code, other.scales) FROM encodings AS other "
            "WHERE encodings.encoder_id = other.encoder_id AND encodings.example_id + other.example_id = 11"
        ),
        "recomputed",
        "scoring",
    ),
    "a vector is short": (
        "UPDATE query_encodings SET vector = unhex(left(hex(vector), 16)) WHERE query_id = 1",
        "code_lengths",
        "query 1",
    ),
    "a vector is NaN": (
        "UPDATE query_encodings SET vector = unhex('0000C07F' || hex(vector)[9:]) WHERE query_id = 1",
        "code_lengths",
        "query 1: a number that is not finite",
    ),
    "a vector is turned round": (
        (
            "UPDATE query_encodings SET vector = other.vector FROM query_encodings AS other "
            "WHERE query_encodings.query_id + other.query_id = 1"
        ),
        "recomputed",
        "scoring",
    ),
    "a curvature is short": (
        "INSERT INTO curvatures SELECT encoder_id, 'corpus', blocks ->> '$[0].name', 12, 1, ''::BLOB FROM encoders",
        "code_lengths",
        "curvature of corpus",
    ),
    "two indexes": (
        "INSERT INTO lexical_index FROM lexical_index",
        "lexical_index",
        "2 of them",
    ),
    "no index": ("DELETE FROM lexical_index", "lexical_index", "of none"),
    "another pattern": ("UPDATE lexical_index SET pattern = '[a-m]+'", "lexical_texts", "word"),
    "a term is renamed": ("UPDATE terms SET term = 'zzz' WHERE term = 'a'", "lexical_texts", "word"),
    "two terms change places": (
        "UPDATE terms SET term = CASE term WHEN 'a' THEN 'b' ELSE 'a' END WHERE term IN ('a', 'b')",
        "lexical_texts",
        "word",
    ),
    "postings are permuted": (
        (
            "UPDATE postings SET example_id = 11 - example_id; UPDATE lexical_stats SET length = n "
            "FROM (SELECT example_id, sum(tf) AS n FROM postings GROUP BY example_id) AS p "
            "WHERE p.example_id = lexical_stats.example_id"
        ),
        "lexical_texts",
        "word",
    ),
    "a frequency is edited": ("UPDATE terms SET df = df + 1 WHERE term = 'a'", "lexical_counts", "term a"),
    "a posting is gone": (
        "DELETE FROM postings WHERE example_id = 3 AND tf = (SELECT max(tf) FROM postings WHERE example_id = 3)",
        "lexical_texts",
        "example 3",
    ),
    "a rank is gone": (
        (
            "DELETE FROM scores USING scorings WHERE scores.scoring_id = scorings.scoring_id AND name = 'cosine' "
            "AND query_id = 1 AND rank = 2"
        ),
        "rank_gaps",
        "query 1",
    ),
    "the last rank is gone": (
        (
            "DELETE FROM scores USING scorings WHERE scores.scoring_id = scorings.scoring_id AND name = 'cosine' "
            "AND query_id = 1 AND rank = 3"
        ),
        "rank_gaps",
        "query 1",
    ),
    "a rank is doubled": (
        (
            "UPDATE scores SET rank = 2 FROM scorings "
            "WHERE scores.scoring_id = scorings.scoring_id AND name = 'cosine' AND query_id = 1 AND rank = 3"
        ),
        "ranks",
        "query 1",
    ),
    "a rank is beyond what was ranked": (
        "INSERT INTO scores SELECT scoring_id, 1, 5, 999, -9 FROM scorings WHERE name = 'trackstar'",
        "rank_gaps",
        "query 1",
    ),
    "all scores of a query are gone": (
        (
            "DELETE FROM scores USING scorings WHERE scores.scoring_id = scorings.scoring_id AND name = 'cosine' "
            "AND query_id = 1"
        ),
        "rank_gaps",
        "query 1",
    ),
    "a query and its scores are forgotten": (
        "DELETE FROM scores WHERE query_id = 1",
        "written_scores",
        "query 1",
    ),
    "a score is NaN": ("UPDATE scores SET score = 'nan' WHERE query_id = 1 AND rank = 2", "ranks", "query 1"),
    "scores are doubled in size": (
        "UPDATE scores SET score = 2 * score WHERE query_id = 1",
        "written_scores",
        "query 1",
    ),
    "scores are edited, and what was taken down of them": (
        "UPDATE scores SET score = 2 * score; DELETE FROM scoring_inputs WHERE input LIKE 'scores%'",
        "recomputed",
        "query",
    ),
    "the recipe of a scoring is edited": (
        "UPDATE scorings SET spec = replace(spec, 'null', 'true') WHERE name = 'trackstar'",
        "written_scores",
        "trackstar",
    ),
    "a scoring of no encoder": (
        "UPDATE scorings SET encoder_id = 'x' WHERE name = 'cosine'",
        "scorings",
        "cosine",
    ),
    "a tail patch is NaN": ("UPDATE tail_patches SET delta_logprob = 'nan'", "tail_patches", "example 3"),
    "a tail patch is doubled": ("INSERT INTO tail_patches FROM tail_patches", "tail_patches", "example 3"),
    "a table is dropped": ("DROP TABLE labels", "tables", "labels"),
    "a column is dropped": ("ALTER TABLE runs DROP COLUMN machine", "tables", "runs lacks machine VARCHAR"),
    "a view is another": ("CREATE OR REPLACE VIEW pair_labels AS FROM labels", "face", "view pair_labels"),
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tampering")
    model = tiny.checkpoint(folder / "model")
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(
            store, tiny.sentences(12), [("a b", " c"), ("d north", " e f"), ("river", " b")], [(0, 3), (1, 4)]
        )
        ingest_lexical(store)
        ingest_gradients(
            store, model=model, projection_dim=4, code="fp16", name="corrected",
            optimizer_state=tiny.adam_state(model), correction="factored",
        )  # fmt: skip
        for method in ("cosine", "trackstar", "bm25"):
            score(store, method, top_k=3)
        store.execute(
            "INSERT INTO tail_patches SELECT 0, 3, fingerprint, 'adamw', 1e-6, -3, 0.1, 0.05, 0.01 FROM models"
        )
    return folder / "s.duckdb"


def findings(store: Store, *only: str) -> dict[str, str]:
    return {found.check.name: str(found.sample) for found in check(store, only) if not found.ok}


def test_an_untouched_store_is_clean_and_stays_so(scored: Path) -> None:
    with attrstore.open(scored) as store:
        assert findings(store) == {}
        made = store.rows("SELECT name FROM scorings ORDER BY name")
    assert made == [("bm25",), ("cosine",), ("trackstar",)]


def test_a_ranking_of_some_examples_is_not_held_against_all(store: Store) -> None:
    tiny.fill(store, tiny.sentences(12), [("a b", " c"), ("d", " e f")])
    ingest_lexical(store)
    score(store, "bm25", where="example_id < 5")
    assert findings(store, "recomputed") == {}


@pytest.fixture(scope="module")
def writable(scored: Path) -> Iterator[Store]:
    with attrstore.open(scored, writable=True) as store:
        yield store


@pytest.mark.parametrize("what", list(TAMPERING))
def test_tampering_is_found_and_named(writable: Store, what: str) -> None:
    sql, rule, place = TAMPERING[what]
    writable.execute("BEGIN")  # a copy of the store for each takes far longer
    try:
        writable.execute(sql)
        found = findings(writable, rule)
    finally:
        writable.execute("ROLLBACK")
    assert place in found.get(rule, ""), found
