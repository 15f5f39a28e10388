"""Kinds of proponents and alignment: by hand on small stores, in a plain DuckDB client and by the command."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import InputError, Store
from attrstore.cli import main
from attrstore.evaluation.report import report, tabulate
from tests.scored import TOP_K, add_ranking, add_scoring, add_texts, fill

KINDS = [
    "states the fact", "shares subject and object", "shares subject", "shares object", "same relation", "other",
]  # fmt: skip

# text, relation, and its kind for the query Ada Lovelace - London - born, and for U.S. - C++ - uses
EXAMPLES = [
    ("London saw her birth.", "born", "states the fact", "other"),  # labelled, though no name is in it
    ("In LONDON, ada   lovelace lived.", "lived", "shares subject and object", "other"),
    ("Ada Lovelace liked Londonderry.", "born", "shares subject", "other"),  # a part of a word is none
    ("Foggy London", None, "shares object", "other"),
    ("Ada met Lovelace in Paris.", "born", "same relation", "other"),
    ("Adam Lovelace's horse", "lived", "other", "other"),
    ("The US uses it.", "uses", "other", "same relation"),
    ("Made in the (U.S.), mostly", "made", "other", "shares subject"),
]


def fill_kinds(store: Store) -> None:
    for i, (text, relation, _, _) in enumerate(EXAMPLES):
        store.execute(
            "INSERT INTO examples VALUES ($i, 'e' || $i, $text, 'wiki', $metadata, md5_number($text))",
            {"i": i, "text": text, "metadata": json.dumps({"relation": relation})},
        )
    for i, metadata in enumerate(
        [
            {"subject": "Ada Lovelace", "object": "London", "relation": "born"},
            {
                "subject": "U.S.",
                "object": "!?",
                "relation": "uses",
            },  # an object without a word is never found
            {"subject": "Ada Lovelace", "relation": "born"},  # no object: not classed
        ]
    ):
        store.execute(
            "INSERT INTO queries VALUES ($i, 'q' || $i, 'p', 't', $metadata, 0)",
            {"i": i, "metadata": json.dumps(metadata)},
        )
    for origin in ("gold", "second"):
        store.execute("INSERT INTO labels VALUES (0, 0, 1, $origin), (0, 3, 0, $origin)", {"origin": origin})
    add_scoring(store, "whole", "influence", len(EXAMPLES), 0)
    add_scoring(store, "short", "retrieval", len(EXAMPLES), 1)
    pairs = [("whole", q, e, e + 1, 1.0) for q in range(3) for e in range(len(EXAMPLES))]
    pairs += [("short", 0, 3, 1, 1.0), ("short", 0, 0, 2, 0.5), ("short", 0, 5, -1, 0.1)]
    store.connection.executemany("INSERT INTO scores VALUES (?, ?, ?, ?, ?)", pairs)
    store.execute("INSERT INTO scoring_queries SELECT DISTINCT scoring_id, query_id FROM scores")


def counts(expected: list[str]) -> list[tuple[str, float, int]]:
    return [(kind, expected.count(kind) / len(expected), expected.count(kind)) for kind in KINDS]


def test_each_proponent_has_the_first_kind_that_holds(path: Path, store: Store) -> None:
    fill_kinds(store)
    store.close()
    with duckdb.connect(str(path), read_only=True) as plain:
        found = plain.execute(
            "SELECT query, example, kind FROM classed_proponents WHERE scoring = 'whole' ORDER BY query, rank"
        ).fetchall()
    assert found == [
        *(("q0", f"e{i}", ada) for i, (_, _, ada, _) in enumerate(EXAMPLES)),
        *(("q1", f"e{i}", us) for i, (_, _, _, us) in enumerate(EXAMPLES)),
    ]


def test_shares_of_each_kind(path: Path, store: Store) -> None:
    fill_kinds(store)
    store.close()
    ada, us = [row[2] for row in EXAMPLES], [row[3] for row in EXAMPLES]
    short = [("short", *row) for row in counts(["shares object", "states the fact"])]
    with duckdb.connect(str(path), read_only=True) as plain:
        assert plain.execute("SELECT scoring, kind, share, n FROM proponent_kinds").fetchall() == [
            *short,
            *(("whole", *row) for row in counts(ada + us)),
        ]
        assert plain.execute("SELECT scoring, kind, share, n FROM proponent_kinds_at(3)").fetchall() == [
            *short,
            *(("whole", *row) for row in counts(ada[:3] + us[:3])),
        ]


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("in New  York.", "new york", True),
        ("in New-York", "New York", True),
        ("in New Yorker", "New York", False),
        ("café au lait", "CAFÉ", True),
        ("cafés", "café", False),
        ("x_1 y", "1", False),
        ("100% of (50%)", "50%", True),
        ("東京 は", "東京", True),
        ("", "", False),
        ("a  b", " ", False),
        ("a", None, False),
    ],
)
def test_mentions_whole_words(store: Store, text: str, phrase: str | None, found: bool) -> None:
    assert store.value("SELECT mentions($text, $phrase)", {"text": text, "phrase": phrase}) is found


def test_report_of_kinds(path: Path, store: Store) -> None:
    fill_kinds(store)
    frame = report(store, kinds=True)
    kinds = [kind.replace(" ", "_") for kind in KINDS]
    assert {"encoder", "model"} < set(frame.columns)
    assert frame.columns[-len(kinds) :] == kinds
    assert frame.select("name", "method", "family", "proponents", *kinds).rows() == [
        ("whole", "whole", "influence", 16, 1 / 16, 1 / 16, 2 / 16, 1 / 16, 2 / 16, 9 / 16),
        ("short", "short", "retrieval", 2, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0),
    ]
    store.close()
    result = CliRunner().invoke(main, ["report", str(path), "--kinds", "--format", "json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[1]["shares_object"] == 0.5


def test_report_of_kinds_says_what_is_missing(store: Store) -> None:
    fill(store)  # its queries have a relation and a kind only
    with pytest.raises(
        InputError, match=r"no query has 'subject' in its metadata\. Keys there: kind, relation"
    ):
        tabulate(store, kinds=True)
    with pytest.raises(InputError, match="cannot be combined"):
        tabulate(store, kinds=True, intervals=True)
    assert store.rows("FROM proponent_kinds") == []


def spearman(one: list[int], other: list[int]) -> float:
    """Of two orders of the same items without ties, by the sum of squared differences."""
    n = len(one)
    places = {item: place for place, item in enumerate(other)}
    squares = sum((place - places[item]) ** 2 for place, item in enumerate(one))
    return 1 - 6 * squares / (n * (n * n - 1))


def test_alignment_is_the_mean_agreement_beside_the_model(path: Path, store: Store) -> None:
    world = fill(store)
    store.execute("INSERT INTO models VALUES ('f00d', 'tok', 'models/step-100', NULL, 'Llama', 1)")
    store.execute("INSERT INTO encoders VALUES ('e1', 'gradient', 'k16', 'f00d', '{}', '[]', now())")
    store.execute("INSERT INTO models VALUES ('beef', 'tok', 'models/step-200', NULL, 'Llama', 1)")
    store.execute("INSERT INTO encoders VALUES ('e2', 'gradient', 'k16-200', 'beef', '{}', '[]', now())")
    store.execute("INSERT INTO models VALUES ('cafe', 'tok', 'models/dense', NULL, 'Bert', 1)")
    store.execute("INSERT INTO encoders VALUES ('e3', 'embedding', 'dense', 'cafe', '{}', '[]', now())")
    for name, encoder in (("trackstar", "e1"), ("cosine", "e2"), ("bm25", "e3")):
        store.execute("UPDATE scorings SET encoder_id = $e WHERE name = $n", {"e": encoder, "n": name})
    expected = []
    for name in ("cosine", "trackstar"):
        overlaps, correlations = [], []
        for q, order in world.rankings[name].items():
            other = world.rankings["bm25"][q]
            overlaps.append(len(set(order[:10]) & set(other[:10])) / 10)
            common = set(order[:TOP_K]) & set(other[:TOP_K])  # and not the labelled ones from further down
            if len(common) >= 3:
                one_common, other_common = ([e for e in ranking if e in common] for ranking in (order, other))
                correlations.append(spearman(one_common, other_common))
        means = [number for each in (overlaps, correlations) for number in (sum(each) / len(each), len(each))]
        expected.append((*means, len(overlaps)))
    store.close()
    with duckdb.connect(str(path), read_only=True) as plain:
        rows = plain.execute("FROM alignment").fetchall()
        columns = [column[0] for column in plain.description or ()]
    assert columns == [
        "influence", "retrieval", "overlap_at_10", "overlap_queries", "rank_correlation", "rank_correlation_queries",
        "queries",
        "encoder", "model", "model_fingerprint", "retrieval_model",
    ]  # fmt: skip
    assert [row[:2] for row in rows] == [("cosine", "bm25"), ("trackstar", "bm25")]
    for row, numbers in zip(rows, expected, strict=True):
        assert row[2:7] == pytest.approx(numbers)
    assert [row[7:] for row in rows] == [
        ("k16-200", "models/step-200", "beef", "models/dense"),
        ("k16", "models/step-100", "f00d", "models/dense"),
    ]


def test_alignment_of_one_family_is_empty(path: Path) -> None:
    with attrstore.open(path, create=True) as opened:
        fill(opened)
        opened.execute("UPDATE scorings SET family = 'influence'")
        assert opened.rows("FROM alignment") == []


def test_class_attribution_counts_a_query_that_found_nothing(store: Store) -> None:
    add_texts(store)  # example i has the class c{i % 3}, and so has query i: tops are 60 // 3 = 20 deep
    add_scoring(store, "words", "retrieval", 60, 0)
    store.execute("""UPDATE scorings SET spec = '{"top_k": 100}'""")
    add_ranking(store, "words", 0, [3, 6, 1], set(), opponents=False)
    add_ranking(store, "words", 1, [], set(), opponents=False)
    (row,) = tabulate(store, class_column="kind").records()
    assert (row["queries"], row["accuracy"], row["cover"]) == (2, 0.5, pytest.approx(2 / 20 / 2))
