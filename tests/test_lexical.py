"""BM25 in SQL equals rank_bm25 and a formula written out by hand; the index grows, resumes and refuses."""

import json
import math
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import Stemmer
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

import attrstore
from attrstore import InputError, MismatchError, Store
from attrstore.cli import main
from attrstore.errors import Interrupted
from attrstore.ingest.lexical import Indexed, ingest_lexical
from attrstore.lexical.index import search
from attrstore.methods import METHODS, Request
from attrstore.methods.bm25 import METHOD, rank
from attrstore.scoring import score, selected

ALL = 10_000  # a top_k that keeps every pair
CORPUS = [
    "Ada Lovelace was born in London.",
    "London is the capital of England; London, London.",
    "The capital of Japan is Tokyo",
    "!!! ...",
    "Ada was running, runs, and ran in Tokyo",
    "the the the",
]


OLD_PATTERN = r"[\p{L}\p{N}_]+"  # the default of the first stores


def tokens(text: str) -> list[str]:
    """What a token is, once more: runs of letters, their marks, numbers and underscore, character by character."""
    kept = (c if c == "_" or unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    return "".join(kept).split()


def put(store: Store, texts: Sequence[str]) -> None:
    """Add examples; ids have gaps."""
    store.execute(
        "INSERT INTO examples SELECT 3 * n + 5, 'e' || n, text, ['a', 'b'][n % 2 + 1], '{}', md5_number(text) "
        "FROM (SELECT unnest($texts::VARCHAR[]) AS text, "
        "generate_subscripts($texts::VARCHAR[], 1) - 1 + (SELECT count(*) FROM examples) AS n)",
        {"texts": list(texts)},
    )


def ask(store: Store, queries: Sequence[str]) -> None:
    """Replace the queries; each is split into prompt and target somewhere inside a word."""
    store.execute("DELETE FROM queries")
    store.execute(
        "INSERT INTO queries SELECT n, 'q' || n, text[:length(text) // 2], text[length(text) // 2 + 1:], '{}', 0 "
        "FROM (SELECT unnest($texts::VARCHAR[]) AS text, generate_subscripts($texts::VARCHAR[], 1) - 1 AS n)",
        {"texts": list(queries)},
    )
    joined = [row[0] for row in store.rows("SELECT prompt || target FROM queries ORDER BY query_id")]
    assert joined == list(queries)


def pairs(store: Store, top_k: int = ALL, where: str | None = None, **options: Any) -> list[tuple[Any, ...]]:
    """(query, example, rank, score) of the method, in order."""
    with selected(store, where):
        table = rank(store, Request(top_k, METHOD.with_options(options))).pairs
    assert [str(kind) for kind in table.schema.types] == ["int64", "int64", "int32", "double"]
    return sorted(
        (row["query_id"], row["example_id"], row["rank"], row["score"]) for row in table.to_pylist()
    )


def reference(docs: list[list[str]], query: list[str], **constants: float) -> list[float]:
    """rank_bm25's scores. It divides by zero where no text has a token, and at b = 1 for one that has none."""
    if not any(docs):
        return [0.0] * len(docs)
    with np.errstate(invalid="ignore"):
        scores = BM25Okapi(docs, **constants).get_scores(query)
    return [float(score) if doc else 0.0 for score, doc in zip(scores, docs, strict=True)]


def lucene(docs: list[list[str]], query: list[str], k1: float, b: float) -> list[float]:
    average = sum(map(len, docs)) / len(docs)
    df = Counter(term for doc in docs for term in set(doc))
    scores = []
    for doc in docs:
        total = 0.0
        for term in query:
            if tf := doc.count(term):
                idf = math.log(1 + (len(docs) - df[term] + 0.5) / (df[term] + 0.5))
                total += idf * tf / (tf + k1 * (1 - b + b * len(doc) / average))
        scores.append(total)
    return scores


def check(
    store: Store,
    texts: Sequence[str],
    queries: Sequence[str],
    expected: Callable[[list[list[str]], list[str]], list[float]],
    **options: Any,
) -> None:
    """Compare every (query, example) pair: matching ones with the score, all others absent."""
    docs = [tokens(text) for text in texts]
    found = {(query, example): score for query, example, _, score in pairs(store, **options)}
    for number, text in enumerate(queries):
        words = tokens(text)
        for place, want in enumerate(expected(docs, words)):
            key = (number, 3 * place + 5)
            assert (key in found) == bool(set(words) & set(docs[place]))
            assert found.get(key, 0.0) == pytest.approx(want, abs=1e-6)


SPOKEN = """the The THE a ada Ada été ÉTÉ snake_case _ x1 42 ٤٢ Ⅷ ½ 東京 日本。の москва МОСКВА
    القاهرة مدينة Ünïcödé don't naïve ß 한국어"""
WORDS = st.sampled_from(SPOKEN.split())
GAPS = st.sampled_from([" ", "  ", ". ", ", ", "\n", "\t", "-", "!?", "。", "، ", "—", "'", "🙂", "\\"])
TEXTS = st.one_of(
    st.just(""),
    st.just("... !!"),
    st.lists(st.tuples(WORDS, GAPS), max_size=12).map(lambda parts: "".join(a + b for a, b in parts)),
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    st.lists(TEXTS, min_size=1, max_size=9),
    st.lists(TEXTS, max_size=4),
    st.lists(TEXTS, min_size=1, max_size=4),
)
def test_every_pair_equals_rank_bm25_before_and_after_appending(
    store: Store, first: list[str], second: list[str], queries: list[str]
) -> None:
    for table in ("examples", "lexical_index", "terms", "postings", "lexical_stats", "stems"):
        store.execute(f"DELETE FROM {table}")
    ask(store, queries)
    put(store, first)
    ingest_lexical(store)
    check(store, first, queries, reference)
    if second:
        put(store, second)
        assert ingest_lexical(store).indexed == len(second)
        check(store, first + second, queries, reference)
    constants = {"k1": 0.9, "b": 0.4}
    check(
        store, first + second, queries, lambda d, q: lucene(d, q, **constants), variant="lucene", **constants
    )
    by_sql = {
        row[0]: row[1] for row in store.rows("SELECT example_id, score FROM bm25($q)", {"q": queries[0]})
    }
    by_method = {example: score for query, example, _, score in pairs(store) if query == 0}
    assert by_sql == by_method


@pytest.mark.parametrize("texts", [["a b a"], ["a", "a b", "a c"], ["a", "a"], ["a b", "b c", "c a", ""]])
def test_small_corpora_with_negative_idf(store: Store, texts: list[str]) -> None:
    put(store, texts)
    queries = ["a a b zzz", "c", "zzz", ""]
    ask(store, queries)
    ingest_lexical(store)
    settings_tried: list[dict[str, Any]] = [{}, {"k1": 0.1, "b": 1.0, "epsilon": 0.0}, {"epsilon": 2.0}]
    for constants in settings_tried:
        check(store, texts, queries, partial(reference, **constants), **constants)


def test_rank_bm25_engine_ranks_as_sql_does(store: Store) -> None:
    texts = [*CORPUS, *CORPUS, "Tokyo tokyo"]  # duplicates tie, and go by example_id
    put(store, texts)
    ask(store, ["Ada was born in London", "the capital Tokyo", "nothing matches"])
    ingest_lexical(store, stemmer="english")
    by_sql, by_python = pairs(store, top_k=3), pairs(store, top_k=3, engine="rank-bm25")
    assert [row[:3] for row in by_sql] == [row[:3] for row in by_python]
    assert [row[3] for row in by_sql] == pytest.approx([row[3] for row in by_python], abs=1e-8)
    with pytest.raises(InputError, match="no variant lucene"):
        pairs(store, engine="rank-bm25", variant="lucene")
    with pytest.raises(InputError, match="k1 above 0"):
        pairs(store, engine="rank-bm25", k1=0)


def test_ties_go_by_example_id_and_labelled_pairs_keep_their_exact_rank(store: Store) -> None:
    put(store, ["x y", "x", "x", "x", "y y", "z"])
    ask(store, ["x"])
    for example in (14, 17, 20):  # the last shares no word, 14 ties with 8 and 11
        store.execute("INSERT INTO labels VALUES (0, $e, 1, 'gold')", {"e": example})
    store.execute("INSERT INTO labels VALUES (0, 5, 0, 'gold')")
    ingest_lexical(store)
    assert [row[:3] for row in pairs(store, top_k=1)] == [(0, 8, 1), (0, 14, 3)]
    assert [row[:3] for row in pairs(store)] == [(0, 5, 4), (0, 8, 1), (0, 11, 2), (0, 14, 3)]
    assert [row[:3] for row in pairs(store, top_k=2_000_000)] == [row[:3] for row in pairs(store)]


@pytest.mark.parametrize("tokens_at_once", [2**23, 64 * 50])
@pytest.mark.parametrize("where", [None, "source = 'b'"])
@pytest.mark.parametrize("stemmer", ["none", "english"])
def test_pruned_rankings_equal_the_reference_in_parts_and_after_appending(
    store: Store, monkeypatch: pytest.MonkeyPatch, stemmer: str, where: str | None, tokens_at_once: int
) -> None:
    """On Zipfian text, where frequent words are pruned: ties, labelled pairs far down, floors of negative idf."""
    monkeypatch.setattr("attrstore.lexical.batch.TOKENS_AT_ONCE", tokens_at_once)
    draw = np.random.default_rng(5)
    words = [
        f"{stem}{end}"
        for stem in ["the", "rain", "walk", "river", "stone", "lamp", "bird", "glass"]
        for end in ("", "s", "ing")
    ]
    share = 1 / np.arange(1, len(words) + 1) ** 1.2

    def some(n: int, most: int) -> list[str]:
        return [" ".join(draw.choice(words, draw.integers(0, most), p=share / share.sum())) for _ in range(n)]

    put(store, some(150, 9))
    ingest_lexical(store, stemmer=stemmer)
    put(store, some(50, 9))
    ingest_lexical(store)
    ask(store, some(8, 6))
    store.execute(
        "INSERT INTO labels SELECT query_id, example_id, 1, NULL FROM queries, examples WHERE example_id % 19 = 0"
    )
    for top_k in (1, 10, ALL):
        found, expected = (pairs(store, top_k, where, engine=engine) for engine in ("maxscore", "rank-bm25"))
        assert [row[:3] for row in found] == [row[:3] for row in expected]
        assert [row[3] for row in found] == pytest.approx([row[3] for row in expected], abs=2e-9)
    assert len({(query, score) for query, _, _, score in found}) < len(found)  # there are ties


def test_where_restricts_candidates_and_keeps_the_statistics(store: Store) -> None:
    put(store, CORPUS)
    ask(store, ["Ada London Tokyo"])
    ingest_lexical(store)
    odd = pairs(store, where="source = 'b'")
    everything = {row[1]: row[3] for row in pairs(store)}
    assert [row[1] for row in odd] == [8]  # of the London, empty and 'the' texts, only the first has a word
    assert [row[3] for row in odd] == [everything[8]]
    assert odd[0][2] == 1
    by_python = pairs(store, where="source = 'b'", engine="rank-bm25")
    assert [row[:3] for row in by_python] == [row[:3] for row in odd]


def test_stems_serve_corpus_queries_and_plain_sql(store: Store) -> None:
    put(store, CORPUS)
    ask(store, ["He was Running", "a runner's walks"])
    ingest_lexical(store, stemmer="english")
    stem = Stemmer.Stemmer("english").stemWord
    docs = [[stem(token) for token in tokens(text)] for text in CORPUS]
    for number, text in enumerate(["He was Running", "a runner's walks"]):
        want = reference(docs, [stem(token) for token in tokens(text)])
        got = {row[1]: row[3] for row in pairs(store) if row[0] == number}
        assert [got.get(3 * place + 5, 0.0) for place in range(len(docs))] == pytest.approx(want, abs=1e-6)
        plain = {row[0]: row[1] for row in store.rows("SELECT example_id, score FROM bm25($t)", {"t": text})}
        assert plain == got
    # 'londons' is in no text: plain SQL takes it as it stands until attrstore has stemmed it once.
    assert store.rows("FROM bm25('Londons')") == []
    assert search(store, "Londons")["id"].to_list() == ["e1", "e0"]
    assert [row[1] for row in store.rows("FROM bm25('Londons')")] == ["e1", "e0"]


def test_read_only_search_stems_without_writing(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        put(store, CORPUS)
        ask(store, ["Londons"])
        ingest_lexical(store, stemmer="english")
        store.execute("DELETE FROM stems WHERE token = 'londons'")
    with attrstore.open(path) as store:
        frame = search(store, "Londons", top_k=1)
        assert frame.columns == ["rank", "example_id", "id", "score", "text", "source", "metadata"]
        assert frame.select("rank", "id").rows() == [(1, "e1")]
        assert [row[1] for row in pairs(store)] == [5, 8]
        assert search(store, "nothing").is_empty()


def test_any_duckdb_client_answers(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        put(store, CORPUS)
        ingest_lexical(store)
        expected = [list(row) for row in store.rows("SELECT id, score FROM bm25('capital of Japan')")]
    code = (
        "import duckdb, json, sys\n"
        "con = duckdb.connect(sys.argv[1], read_only=True)\n"
        "rows = con.execute(\"SELECT id, score FROM bm25('capital of Japan')\").fetchall()\n"
        "tokens = con.execute(\"SELECT tokens('Été, x_1!')\").fetchone()[0]\n"
        "assert not any(name.startswith('attrstore') for name in sys.modules)\n"
        "print(json.dumps([rows, tokens]))"
    )
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == [expected, ["été", "x_1"]]
    assert [row[0] for row in expected] == ["e2", "e1"]


def test_no_index_gives_no_rows_and_a_scoring_says_what_to_do(store: Store) -> None:
    put(store, CORPUS)
    assert store.rows("FROM bm25('capital')") == []
    with pytest.raises(InputError, match=r"no lexical index. Make it: attrstore ingest lexical"):
        pairs(store)
    with pytest.raises(InputError, match="no lexical index"):
        search(store, "capital")
    ingest_lexical(store)
    put(store, ["one more", "and another"])
    with pytest.raises(
        InputError, match=r"2 examples are not in the lexical index.*attrstore ingest lexical"
    ):
        pairs(store)


def test_a_query_that_shares_no_word_is_ranked_and_finds_nothing(store: Store) -> None:
    put(store, CORPUS)
    ask(store, ["capital of Japan", "nichts davon", "..."])
    store.execute("INSERT INTO labels SELECT query_id, 11, 1, NULL FROM queries")
    ingest_lexical(store)
    for engine in ("maxscore", "rank-bm25"):
        score(store, "bm25", engine=engine)
        assert store.rows("SELECT DISTINCT query_id FROM scores") == [(0,)]
        assert store.rows("SELECT query_id FROM scoring_queries ORDER BY 1") == [(0,), (1,), (2,)]
        assert store.rows("SELECT queries, mrr FROM method_report") == [(3, pytest.approx(1 / 3))]


def test_score_keeps_the_ranking_with_its_parameters(store: Store) -> None:
    put(store, CORPUS)
    ask(store, ["capital of Japan"])
    ingest_lexical(store, k1=1.2)
    assert METHODS["bm25"] is METHOD
    done = score(store, "bm25", top_k=1, b=0.5)
    assert store.rows("SELECT query_id, example_id, rank FROM scores") == [(0, 11, 1)]
    assert done.spec == {
        "engine": "maxscore", "pattern": r"[\p{L}\p{M}\p{N}_]+", "fold": True, "stemmer": None, "variant": "okapi",
        "k1": 1.2, "b": 0.5, "epsilon": 0.25, "top_k": 1, "where": None,
    }  # fmt: skip
    for options, message in (
        ({"engine": "x"}, "engine x"),
        ({"b": 2}, "b 2: must be between 0 and 1"),
        ({"k1": "y"}, "k1 y: must be a number"),
    ):
        with pytest.raises(InputError, match=message):
            pairs(store, **options)


def contents(store: Store) -> dict[str, Any]:
    """Everything the index holds, by term, whatever the ids of the terms."""
    return {
        "terms": store.rows("SELECT term, df FROM terms ORDER BY term"),
        "postings": store.rows(
            "SELECT term, example_id, tf FROM postings JOIN terms USING (term_id) ORDER BY ALL"
        ),
        "lengths": store.rows("FROM lexical_stats ORDER BY ALL"),
        "stems": store.rows("FROM stems ORDER BY ALL"),
        "index": store.rows("FROM lexical_index"),
    }


def test_postings_are_right_and_running_again_changes_nothing(store: Store) -> None:
    put(store, CORPUS)
    counts = ingest_lexical(store)
    docs = [Counter(tokens(text)) for text in CORPUS]
    held = contents(store)
    assert held["postings"] == sorted(
        (term, 3 * place + 5, tf) for place, doc in enumerate(docs) for term, tf in doc.items()
    )
    assert dict(held["terms"]) == Counter(term for doc in docs for term in doc)
    assert held["lengths"] == [(3 * place + 5, doc.total()) for place, doc in enumerate(docs)]
    assert counts == Indexed(6, 0, len(held["terms"]), len(held["postings"]))
    ids = [row[0] for row in store.rows("SELECT term_id FROM postings")]
    assert ids == sorted(ids)
    runs = store.rows("SELECT run_id, state FROM runs")
    assert runs == [(1, "finished")]
    assert ingest_lexical(store) == Indexed(0, 6, counts.terms, counts.postings)
    assert contents(store) == held
    assert store.rows("SELECT run_id, state FROM runs") == runs


def test_a_failed_batch_is_lost_alone_and_the_next_run_finishes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, CORPUS * 3)
    ask(store, ["he runs"])
    plain = store.named
    calls = Counter[str]()

    def stopping(file: str, name: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        calls[name] += 1
        if name == "insert_stats" and calls[name] == 3:
            raise KeyboardInterrupt
        return plain(file, name, parameters)

    monkeypatch.setattr(store, "named", stopping)
    with pytest.raises(Interrupted, match="stopped with 9 examples"):
        ingest_lexical(store, stemmer="english", batch_bytes=5 * 1280)
    monkeypatch.undo()
    assert (
        store.value("SELECT count(*) FROM lexical_stats") == 9
    )  # batches of 4, 5, ...: 5 open at a multiple
    assert store.value("SELECT sum(df) FROM terms") == store.value("SELECT count(*) FROM postings")
    assert store.value("SELECT state FROM runs") == "interrupted"
    assert ingest_lexical(store, stemmer="english").indexed == 9
    with attrstore.open(tmp_path / "other.duckdb", create=True) as other:
        put(other, CORPUS * 3)
        ask(other, ["he runs"])
        ingest_lexical(other, stemmer="english")
        assert contents(other) == contents(store)


def test_kill_9_loses_only_the_open_batch(path: Path, tmp_path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        put(store, CORPUS * 3)
    code = (
        "import os, signal, sys, attrstore\n"
        f"attrstore.__path__.append({str(Path(__file__).parents[1])!r})\n"
        "from attrstore.ingest.lexical import ingest_lexical\n"
        "def progress(done, total):\n"
        "    if done >= 9: os.kill(os.getpid(), signal.SIGKILL)\n"
        "ingest_lexical(attrstore.open(sys.argv[1], writable=True), batch_bytes=5 * 1280, progress=progress)"
    )
    killed = subprocess.run([sys.executable, "-c", code, path], cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -9
    with attrstore.open(path, writable=True) as store:
        assert store.value("SELECT count(*) FROM lexical_stats") == 9
        assert ingest_lexical(store) == Indexed(9, 9, *_sizes(store))
        held = contents(store)
    with attrstore.open(tmp_path / "other.duckdb", create=True) as other:
        put(other, CORPUS * 3)
        ingest_lexical(other)
        assert contents(other) == held


def _sizes(store: Store) -> tuple[int, int]:
    return store.value("SELECT count(*) FROM terms"), store.value("SELECT count(*) FROM postings")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stemmer": "english"}, "made with stemmer none, not english"),
        ({"pattern": r"\S+"}, r"made with pattern \[\\p\{L\}\\p\{M\}\\p\{N\}_\]\+, not \\S\+"),
        ({"fold": False}, "made with fold true, not false"),
    ],
)
def test_another_tokenizer_is_refused_until_rebuild(store: Store, options: Any, message: str) -> None:
    put(store, CORPUS)
    ingest_lexical(store)
    held = contents(store)
    with pytest.raises(MismatchError, match=message + ".*rebuild"):
        ingest_lexical(store, **options)
    assert contents(store) == held
    assert ingest_lexical(store, rebuild=True, **options).indexed == len(CORPUS)
    assert contents(store) != held
    name, value = next(iter(options.items()))
    assert store.value(f"SELECT {name} FROM lexical_index") == value
    assert ingest_lexical(store).indexed == 0  # what is not given stays


def test_weights_change_in_place(store: Store) -> None:
    put(store, CORPUS)
    ingest_lexical(store)
    ingest_lexical(store, variant="lucene", k1=1.2)
    assert store.rows("SELECT variant, k1, b, epsilon FROM lexical_index") == [("lucene", 1.2, 0.75, 0.25)]
    docs = [tokens(text) for text in CORPUS]
    got = {row[0]: row[1] for row in store.rows("SELECT example_id, score FROM bm25('the London')")}
    want = lucene(docs, ["the", "london"], 1.2, 0.75)
    assert [got.get(3 * place + 5, 0.0) for place in range(len(docs))] == pytest.approx(want, abs=1e-6)


def test_marks_belong_to_their_word_but_in_an_index_of_before(store: Store) -> None:
    put(store, ["हिन्दी भाषा", "cafe\u0301 noir", "a cafe"])
    ask(store, ["हिन्दी", "cafe\u0301"])
    ingest_lexical(store)
    terms = "SELECT list(term ORDER BY term) FROM terms"
    assert store.value(terms) == sorted(["हिन्दी", "भाषा", "cafe\u0301", "noir", "a", "cafe"])
    assert [row[:2] for row in pairs(store)] == [(0, 5), (1, 8)]
    ingest_lexical(store, pattern=OLD_PATTERN, rebuild=True)
    assert store.value(terms) == sorted([*"हनदभष", "cafe", "noir", "a"])
    put(store, ["हिन्दी again"])
    ingest_lexical(store)  # an old store goes on as it is
    assert store.value("SELECT pattern FROM lexical_index") == OLD_PATTERN
    assert [row[0] for row in store.rows("SELECT id FROM bm25('again')")] == ["e3"]


def test_pattern_and_fold_apply_to_queries_too(store: Store) -> None:
    put(store, ["C++ is fun", "c is fun", "Fun"])
    ask(store, ["C++ Fun"])
    ingest_lexical(store, pattern=r"[^ ]+", fold=False)
    assert [row[:2] for row in pairs(store)] == [(0, 5), (0, 11)]
    assert [row[0] for row in store.rows("SELECT id FROM bm25('C++')")] == ["e0"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stemmer": "klingon"}, "stemmer klingon: there are .*english"),
        ({"pattern": "("}, r"pattern \(: not a regular expression"),
        ({"pattern": "a*"}, "matches the empty text"),
        ({"k1": -1.0}, "k1 -1: must be between"),
        ({"b": math.nan}, "b nan: must be a number"),
        ({"variant": "atire"}, "variant atire: there is no such choice; there are okapi, lucene"),
    ],
)
def test_bad_options_leave_the_store_alone(store: Store, options: Any, message: str) -> None:
    put(store, CORPUS)
    with pytest.raises(InputError, match=message):
        ingest_lexical(store, **options)
    assert contents(store)["index"] == []
    assert store.value("SELECT count(*) FROM runs") == 0


def test_command(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        put(store, CORPUS)
    runner = CliRunner()
    done = runner.invoke(main, ["ingest", "lexical", str(path), "--stemmer", "english", "--k1", "1.2"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("6 examples indexed, 0 unchanged; ")
    refused = runner.invoke(main, ["ingest", "lexical", str(path), "--no-fold"])
    assert refused.exit_code == 2
    assert "made with fold true, not false" in refused.stderr
    with attrstore.open(path.with_name("empty.duckdb"), create=True):
        pass
    empty = runner.invoke(main, ["ingest", "lexical", str(path.with_name("empty.duckdb"))])
    assert empty.exit_code == 2
    assert "no examples to index" in empty.stderr


def test_a_rebuild_that_fails_leaves_the_old_index(store: Store) -> None:
    put(store, CORPUS)
    ingest_lexical(store)
    held = contents(store)

    def fails(done: int, total: int) -> None:
        if done:
            raise MemoryError

    with pytest.raises(MemoryError):
        ingest_lexical(store, rebuild=True, pattern="[a-d]+", batch_bytes=1, progress=fails)
    assert contents(store) == held
