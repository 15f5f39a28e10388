"""The page as the server gives it: who is let in, what each view shows, and that texts stay texts."""

from __future__ import annotations

import asyncio
import io
import math
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import pyarrow.parquet
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

import attrstore
from attrstore.cli import main
from attrstore.statements import statements
from attrstore.web import app as web_app
from attrstore.web import frame, marks
from attrstore.web import serve as serving
from attrstore.web.address import Address
from attrstore.web.app import application
from attrstore.web.kept import KEPT, Snapshot
from attrstore.web.lease import LINGER, PAGES, Lease
from attrstore.web.markup import el, text
from attrstore.web.query import query_page
from tests import hostile, scored

HOST = "127.0.0.1:8642"


class Reader(HTMLParser):
    """What a browser makes of a page: elements, their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, tag: str, key: str = "class", value: str | None = None) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and (value is None or a.get(key) == value)]


def client(path: Path, **headers: str) -> TestClient:
    app = application(path, token="secret", hosts=frozenset({HOST}))
    return TestClient(app, base_url=f"http://{HOST}", headers=headers)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, scored.World]:
    """A store that tests only read."""
    path = tmp_path_factory.mktemp("shared") / "store.duckdb"
    with attrstore.open(path, create=True) as store:
        return path, scored.fill(store)


@pytest.fixture(scope="module")
def world(shared: tuple[Path, scored.World]) -> scored.World:
    return shared[1]


@pytest.fixture(scope="module")
def browser(shared: tuple[Path, scored.World]) -> Iterator[TestClient]:
    with client(shared[0]) as opened:
        assert opened.get("/", params={"token": "secret"}).status_code == 200
        yield opened


@pytest.fixture
def own(path: Path, shared: tuple[Path, scored.World]) -> Path:
    """A copy that a test may change."""
    shutil.copy(shared[0], path)
    return path


def read(browser: TestClient, view: str, **state: object) -> Reader:
    answer = browser.get(f"{view}?{urlencode(state)}")
    assert answer.status_code == 200, answer.text
    return Reader(answer.text)


# Who is let in


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(own: Path) -> None:
    with client(own) as browser:
        assert browser.get("/").status_code == 403
        assert browser.get("/static/page.js").status_code == 403
        assert browser.get("/", params={"token": "wrong"}).status_code == 403
        first = browser.get("/", params={"token": "secret", "search": "a b"}, follow_redirects=False)
        assert (first.status_code, first.headers["location"]) == (303, "/?search=a+b")
        cookie = first.headers["set-cookie"].lower()
        assert "attrstore-8642=secret" in cookie
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1:9"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"http://{HOST}"}, 200),
    ],
)
def test_another_host_or_origin_is_refused(browser: TestClient, headers: dict[str, str], status: int) -> None:
    assert browser.get("/", headers=headers).status_code == status


def test_a_change_needs_an_origin(browser: TestClient) -> None:
    assert browser.post("/").status_code == 403
    assert browser.post("/", headers={"origin": f"http://{HOST}"}).status_code == 405


@pytest.mark.parametrize(
    "view", ["/", "/query?id=q0", "/example?id=e0", "/query?id=none", "/static/style.css"]
)
def test_nothing_is_loaded_from_elsewhere(browser: TestClient, view: str) -> None:
    answer = browser.get(view)
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    page = Reader(answer.text)
    for _, attributes in page.elements:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#"))


# The list


def test_the_list_searches_filters_and_pages(browser: TestClient) -> None:
    every = read(browser, "/")
    assert len(every.having("tr")) == scored.N_QUERIES + 1
    assert "14 queries" in every.text
    assert len(read(browser, "/", search="TARGET 3").having("tr")) == 2
    only = read(browser, "/", key="relation", value="r1")
    assert "7 queries" in only.text
    assert "q0" not in only.text.split()
    none = read(browser, "/", search="no such")
    assert "No query is left." in none.text


def overlap(world: scored.World, q: int) -> float:
    first = {name: set(world.rankings[name][q][:10]) for name in ("cosine", "bm25")}
    return len(first["cosine"] & first["bm25"]) / 10


def place(world: scored.World, scoring: str, q: int) -> int | None:
    ranking = world.rankings[scoring][q]
    return min((ranking.index(e) + 1 for e in world.labelled.get(q, set()) if e in ranking), default=None)


def names(page: Reader) -> list[str]:
    return [
        (a["href"] or "").split("id=")[1].split("&")[0]
        for a in page.having("a")
        if (a.get("href") or "").startswith("/query")
    ]


def test_the_list_is_sorted_by_agreement_and_by_who_finds_it(
    browser: TestClient, world: scored.World
) -> None:
    least = names(read(browser, "/", a="cosine", b="bm25", sort="disagree"))
    assert least == [f"q{q}" for q in sorted(range(scored.N_QUERIES), key=lambda q: (overlap(world, q), q))]
    best = names(read(browser, "/", a="cosine", b="bm25", sort="b"))
    assert best == [
        f"q{q}" for q in sorted(range(scored.N_QUERIES), key=lambda q: (place(world, "bm25", q) or 10**9, q))
    ]
    few = names(read(browser, "/", a="cosine", b="bm25", metric="overlap", high="0.1"))
    assert few == [f"q{q}" for q in range(scored.N_QUERIES) if overlap(world, q) <= 0.1]


@pytest.mark.parametrize(
    "state, says",
    [
        ({"a": "nonsense"}, "no scoring is called nonsense; there are cosine, trackstar, bm25."),
        ({"sort": "nonsense"}, "sort=nonsense: there are"),
        ({"metric": "nonsense"}, "metric=nonsense: there are"),
        ({"metric": "a", "low": "x"}, "low=x: give a number."),
        ({"page": "-1"}, "page=-1: give a whole number from 0 up."),
    ],
)
def test_a_wrong_address_says_what_is_wrong(browser: TestClient, state: dict[str, str], says: str) -> None:
    answer = browser.get("/", params=state)
    assert answer.status_code == 400
    assert says in Reader(answer.text).text


# One query


def cards(page: Reader, side: str) -> list[str]:
    return [
        (a["aria-label"] or "").split(", ")[1]
        for a in page.having("article")
        if (a["id"] or "").startswith(f"{side}-")
    ]


def test_a_query_shows_both_rankings_and_what_ties_them(browser: TestClient, world: scored.World) -> None:
    page = read(browser, "/query", id="q3", a="cosine", b="bm25")
    left, right = world.rankings["cosine"][3][:10], world.rankings["bm25"][3][:10]
    assert cards(page, "a") == [f"e{e}" for e in left]
    assert cards(page, "b") == [f"e{e}" for e in right]
    both = set(left) & set(right)
    tied = {int(a["data-example"] or "") for a in page.having("article") if a.get("data-example")}
    assert tied == both
    assert f"{len(both)} shared" in page.text
    stated = [e for e in (*left, *right) if e in world.labelled[3]]
    assert len(page.having("article", value="stating")) == len(stated)


def test_a_query_shows_opponents_and_one_source_on_demand(browser: TestClient, world: scored.World) -> None:
    page = read(browser, "/query", id="q3", a="cosine", b="trackstar", n=5, opponents=1)
    expected = [*world.rankings["cosine"][3][:5], *reversed(world.rankings["cosine"][3][-5:])]
    assert cards(page, "a") == [f"e{e}" for e in expected]
    assert len(cards(read(browser, "/query", id="q3", source="wiki"), "a")) == 10
    assert cards(read(browser, "/query", id="q3", source="other"), "a") == []


def test_a_query_leads_to_the_next_of_its_list(browser: TestClient, world: scored.World) -> None:
    order = sorted(range(scored.N_QUERIES), key=lambda q: (overlap(world, q), q))
    page = read(browser, "/query", id=f"q{order[3]}", at=4, a="cosine", b="bm25", sort="disagree")
    steps = {a["rel"]: a["href"] or "" for a in page.having("a") if a.get("rel")}
    assert f"id=q{order[2]}&at=3" in steps["prev"]
    assert f"id=q{order[4]}&at=5" in steps["next"]
    assert "sort=disagree" in steps["next"]


def test_an_example_shows_the_queries_that_it_drives(browser: TestClient, world: scored.World) -> None:
    e = world.rankings["cosine"][3][0]
    page = read(browser, "/example", id=f"e{e}", a="cosine", b="bm25")
    expected = {
        name: [q for q in range(scored.N_QUERIES) if e in world.rankings[name][q][: scored.TOP_K]]
        for name in ("cosine", "bm25")
    }
    assert set(names(page)) >= {f"q{q}" for q in expected["cosine"] + expected["bm25"]}


# Why


def test_a_querys_probability_is_its_own_under_an_encoder_of_gradients(own: Path) -> None:
    with attrstore.open(own, writable=True) as store:
        for kind in ("gradient", "embedding"):
            store.execute(
                "INSERT INTO encoders VALUES ($kind, $kind, $kind, 'm', '{}', '[]', now())", {"kind": kind}
            )
            for query in (3, 4):
                loss = math.log(query + 1) if kind == "gradient" else 0.0
                store.execute(
                    "INSERT INTO query_encodings VALUES ($kind, $query, NULL, 1, $loss, 'ok')",
                    {"kind": kind, "query": query, "loss": loss},
                )
    with client(own) as browser:
        browser.get("/", params={"token": "secret"})
        for query, share in ((3, "25"), (4, "20")):
            assert f">{share}.0%<" in browser.get("/query", params={"id": f"q{query}"}).text
            assert f"{share}%<" in browser.get("/", params={"search": f"q{query}"}).text


def test_an_explained_pair_shows_its_tokens_and_blocks(own: Path) -> None:
    with attrstore.open(own, writable=True) as store:
        store.execute("UPDATE examples SET text = 'the old harbour' WHERE example_id = 5")
        scored.add(store, "scores", "cosine", 3, 5, 1, 9.0)
        for i, (start, token, part) in enumerate(
            [(0, "the", 0.5), (3, " old", -0.1), (7, " harbour", 0.0)], 1
        ):
            scored.add(store, "token_parts", "cosine", 3, 5, "example", i, start, token, part)
        scored.add(store, "token_parts", "cosine", 3, 5, "target", 1, None, " 3", 0.4)
        scored.add(store, "block_parts", "cosine", 3, 5, "model", 1, "model.layers.0", 0.4)
        scored.add(store, "token_parts", "cosine", 3, 7, "target", 1, None, " elsewhere", 0.9)
    with client(own) as browser:
        browser.get("/", params={"token": "secret"})
        plain = browser.get("/query", params={"id": "q3", "a": "cosine", "b": "bm25"}).text
        assert "up-5" not in plain
        assert "/why?a=cosine&amp;b=bm25&amp;id=q3&amp;example=e5" in plain
        tinted = browser.get("/query", params={"id": "q3", "a": "cosine", "b": "bm25", "tint": "1"}).text
        wanted = (
            '<span class="up-5" title="+0.5000">the</span><span class="down-1" title="−0.1000"> old</span>'
            '<span title="0.0000"> harbour</span>'
        )
        assert wanted in tinted
        why = browser.get("/why", params={"id": "q3", "example": "e5", "a": "cosine", "b": "bm25"}).text
        assert wanted in why
        assert "layers.0" in Reader(why).text
        assert "elsewhere" not in why
        other = browser.get("/why", params={"id": "q3", "example": "e6", "a": "cosine", "b": "bm25"}).text
        assert "attrstore explain store.duckdb q3 e6" in Reader(other).text
        assert browser.get("/why", params={"id": "q3", "example": "none"}).status_code == 400


# The file


def test_the_exported_file_holds_every_query_once(shared: tuple[Path, scored.World], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    result = CliRunner().invoke(main, ["export", str(shared[0]), "cosine", str(out)])
    assert result.exit_code == 0, result.output
    page = Reader(out.read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = {(a.get("href") or "#")[1:] for _, a in page.elements if "href" in a}
    assert links <= set(ids)
    assert len(page.having("section", value="view")) == scored.N_QUERIES + 2
    for name in world_ids(shared[1], "cosine"):
        assert name in page.text
    refused = CliRunner().invoke(main, ["export", str(shared[0]), "nonsense", str(out)])
    assert refused.exit_code == 2
    assert "html shows a scoring, or comparison. There are: cosine, trackstar, bm25." in refused.output


def world_ids(world: scored.World, name: str) -> set[str]:
    return {f"e{e}" for order in world.rankings[name].values() for e in order[:10]}


# The overview


def test_the_overview_shows_means_overlaps_and_ranks_of_ranks(
    browser: TestClient, world: scored.World
) -> None:
    page = read(browser, "/overview", a="cosine", b="bm25", by="relation")
    for name in world.rankings:
        places = [place(world, name, q) for q in world.labelled]
        assert f"{sum(1 / p if p else 0 for p in places) / len(places):.3f}" in page.text
    shared = [
        len(set(world.rankings["cosine"][q][:10]) & set(world.rankings["bm25"][q][:10])) for q in range(14)
    ]
    assert (
        f"On average {sum(shared) / 14:.1f} of ten; {shared.count(0)} of 14 queries share none." in page.text
    )
    pictures = [a.get("aria-label") or "" for a in page.having("svg")]
    (bars,) = [says for says in pictures if says.startswith("Queries by how many")]
    assert all(f"{n} shared {shared.count(n)}" in bars for n in range(11))
    kept = stored(world, "cosine"), stored(world, "bm25")
    both = kept[0] & kept[1]
    labelled = sum(e in world.labelled.get(q, ()) for q, e in both)
    assert f"{len(both):,} examples that both rank as proponents, {labelled:,} of them labelled" in page.text


def test_the_overview_shows_what_kinds_the_first_ten_are(own: Path, world: scored.World) -> None:
    with attrstore.open(own, writable=True) as store:
        store.execute(
            "UPDATE queries SET metadata = json_object('subject', 'text 7', 'object', 'nowhere', 'relation', 'r')"
        )
    with client(own) as browser:
        browser.get("/", params={"token": "secret"})
        page = read(browser, "/overview")
    said = [a.get("aria-label") or "" for a in page.having("svg", "class", "chart shares")]
    for name in world.rankings:
        firsts = [(q, e) for q, order in world.rankings[name].items() for e in order[:10]]
        stating = sum(e in world.labelled.get(q, ()) for q, e in firsts)
        about = sum(e == 7 and e not in world.labelled.get(q, ()) for q, e in firsts)
        assert any(
            f"states the fact {stating / len(firsts):.0%}, " in one
            and f"shares subject {about / len(firsts):.0%}, " in one
            for one in said
        ), (name, said)


def test_the_overview_shows_lds_and_checkpoints_where_there_are_any(own: Path) -> None:
    with client(own) as browser:
        browser.get("/", params={"token": "secret"})
        before = read(browser, "/overview").text
    assert "Linear datamodelling score" not in before
    assert "Checkpoints" not in before
    with attrstore.open(own, writable=True) as store:
        for i in range(1, 5):
            scored.add(store, "subsets", "half", i, "lds", scored.N_EXAMPLES, 0, *[None] * 4)
            scored.add(store, "subset_examples", "half", i, i)
            for q in range(scored.N_QUERIES):
                scored.add(store, "subset_losses", "half", i, q, 0, float((i * q) % 5), "test")
        for name, loss in (("early", 3.0), ("late", 1.0)):
            scored.add(store, "models", name, "t", f"run/{name}", None, "llama", 10)
            for q in range(scored.N_QUERIES):
                scored.add(store, "query_losses", name, q, 1, loss, "ok")
        scored.add(store, "parameter_changes", "early", "late", "w", 4, 4.0, 4.0, 1.0, 3.5)
    with client(own) as browser:
        browser.get("/", params={"token": "secret"})
        page = read(browser, "/overview")
    assert "half, 4" in page.text
    assert {"run/early", "run/late"} <= {a.get("title") for a in page.having("bdi")}
    assert " 2.000 2.000 to 2.000" in page.text  # of the log-probability, from 3 nats to 1
    assert "100%" in page.text


def stored(world: scored.World, name: str) -> set[tuple[int, int]]:
    """Pairs that are stored as proponents: the first ones, and labelled ones that are not among the last."""
    ends = scored.TOP_K if name == "cosine" else 0
    return {
        (q, e)
        for q, order in world.rankings[name].items()
        for at, e in enumerate(order)
        if at < scored.TOP_K or (e in world.labelled.get(q, ()) and at < len(order) - ends)
    }


# SQL


def test_sql_answers_as_a_table_a_plot_and_a_file(browser: TestClient) -> None:
    sql = "SELECT family, count(*) AS n FROM scorings GROUP BY family ORDER BY n"
    page = read(browser, "/sql", q=sql, plot=1)
    assert "2 rows." in page.text
    assert any(a.get("aria-label") == "n by family" for a in page.having("svg"))
    assert browser.get("/sql.csv", params={"q": sql}).text == "family,n\nretrieval,1\ninfluence,2\n"
    assert browser.get("/sql.csv", params={"q": "DROP TABLE scores"}).status_code == 400
    answer = browser.get("/sql.parquet", params={"q": sql})
    assert pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pylist()[1] == {
        "family": "influence",
        "n": 2,
    }


@pytest.mark.parametrize(
    "sql, says",
    [
        ("DROP TABLE scores", "this is a DROP statement, and the store is read-only here"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("FROM read_text('/etc/passwd')", "disabled"),
        ("SELECT '<b>' AS x FROM nowhere", "nowhere does not exist"),
    ],
)
def test_sql_that_is_refused_says_why(browser: TestClient, sql: str, says: str) -> None:
    page = read(browser, "/sql", q=sql)
    assert says in page.text


def test_every_analysis_runs(browser: TestClient, shared: tuple[Path, scored.World]) -> None:
    with attrstore.open(shared[0]) as store:
        for sql in statements("analyses").values():
            store.rows(sql)
    links = [a["href"] or "" for a in read(browser, "/sql").having("a") if "?q=" in (a.get("href") or "")]
    assert len(links) == len(statements("analyses"))


def test_the_schema_is_that_of_the_store_alone(shared: tuple[Path, scored.World]) -> None:
    with attrstore.open(shared[0]) as store:
        shown = {(kind, name) for kind, name, _ in store.named("web", "schema").fetchall()}
        known = {"view": "duckdb_views", "macro": "duckdb_functions", "table": "duckdb_tables"}
        for kind, listed in known.items():
            of_duckdb = store.rows(
                f"SELECT {'function' if kind == 'macro' else kind}_name FROM {listed}() WHERE internal"
            )
            assert not {(kind, name) for (name,) in of_duckdb} & shown
    assert {("view", "comparison"), ("macro", "report_intervals"), ("table", "examples")} <= shown


def test_the_newest_run_is_first(store: attrstore.Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "c.jsonl").write_text(f'{{"id": "{name}", "text": "x"}}\n')
        store.add_corpus(tmp_path / "c.jsonl")
    assert [row[0] for row in store.rows(statements("analyses")["runs"])] == [2, 1]


def test_examples_that_drive_most_queries_are_counted_from_the_first_rank_to_the_tenth(
    shared: tuple[Path, scored.World],
) -> None:
    drives: dict[int, set[int]] = {}
    for name in ("cosine", "trackstar"):
        for query, order in shared[1].rankings[name].items():
            for example in order[:10]:
                drives.setdefault(example, set()).add(query)
    with attrstore.open(shared[0]) as store:
        rows = store.rows(statements("analyses")["examples_that_drive_most_queries"])
    names = {f"e{example}": len(queries) for example, queries in drives.items()}
    assert len(rows) == 50
    assert [row[:2] for row in rows] == sorted(names.items(), key=lambda one: (-one[1], one[0]))[:50]


# Texts


def test_hostile_texts_stay_texts(own: Path) -> None:
    with attrstore.open(own, writable=True) as store:
        store.execute("DELETE FROM scores")
        for i, (name, said) in enumerate(hostile.TEXTS.items()):
            store.execute(
                "UPDATE examples SET text = $t, source = $t WHERE example_id = $i",
                {"t": said[:300] if name == "long" else said, "i": i},
            )
            scored.add(store, "scores", "cosine", 0, i, i + 1, 1.0 - i / 10)
        store.execute("UPDATE examples SET text = $t WHERE example_id = 4", {"t": hostile.TEXTS["long"]})
        store.execute(
            "UPDATE queries SET prompt = $t, target = $t WHERE query_id = 0", {"t": hostile.TEXTS["script"]}
        )
    with client(own) as browser:
        browser.get("/", params={"token": "secret"})
        page = read(browser, "/query", id="q0", a="cosine")
        assert len(page.having("h1")) == 1
        assert len(page.having("article")) == len(hostile.TEXTS)
        assert [a.get("src") for a in page.having("script")] == ["/static/page.js"]
        assert not page.having("img")
        assert hostile.TEXTS["script"] in page.text.replace("\n", "")
        assert "escape␛[31mred␛[0m nothing␀ delete␡ next\ufffd line" in page.text
        assert "the word [U+202E]emitkcab[U+202C] and [U+2067]isolated[U+2069] and שלום עולם" in page.text
        assert "1,000,007 characters" in page.text
        assert len(page.text) < 40_000
        whole = read(browser, "/example", id="e4")
        assert "The first 200,000 characters of 1,000,007." in whole.text


def test_markup_escapes_what_is_not_markup() -> None:
    assert el("p", "<b>", title='"&') == '<p title="&quot;&amp;">&lt;b&gt;</p>'
    assert text("a\tb\nc") == "a\tb\nc"
    assert el("a", 1234, None, ["x", el("b", "y")], hidden=True, href=None) == "<a hidden>1,234x<b>y</b></a>"


def test_marks_join_neighbours_and_find_the_phrase_without_words() -> None:
    what = marks.words("Where is the harbour", " New York", frozenset({"where", "is", "the"}))
    assert marks.marked("In NEW  york and New York.", what) == (
        'In <mark class="target">NEW  york</mark> and <mark class="target">New York</mark>.'
    )
    assert marks.marked("the old harbour", what) == 'the old <mark class="prompt">harbour</mark>'
    thai = marks.words("", "กรุงเทพ", frozenset())
    assert marks.marked("ไปกรุงเทพแล้ว", thai) == 'ไป<mark class="target">กรุงเทพ</mark>แล้ว'
    far = "x " * 2_000 + "New York" + " y" * 2_000
    assert "New York" in marks.excerpt(far, len(far), what)


# The server


def test_who_opens_the_address_at_once_is_served_without_waiting_for_more_to_send() -> None:
    async def accepted() -> int:
        arrived: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        listening = serving._listen(0)
        with socket.create_connection(listening.getsockname()):  # before anything runs behind it
            server = await asyncio.start_server(lambda _, writer: arrived.set_result(writer), sock=listening)
            async with server:
                writer = await asyncio.wait_for(arrived, 5)
                option: int = writer.get_extra_info("socket").getsockopt(
                    socket.IPPROTO_TCP, socket.TCP_NODELAY
                )
                writer.close()
        return option

    assert asyncio.run(accepted()) != 0


def test_what_every_page_needs_is_known_before_the_first(
    shared: tuple[Path, scored.World], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = application(shared[0], token="secret", hosts=frozenset({HOST}))
    app.state.prepare()
    monkeypatch.setattr(frame, "scorings", None)
    with TestClient(app, base_url=f"http://{HOST}", cookies={"attrstore-8642": "secret"}) as browser:
        assert browser.get("/").status_code == 200


def test_each_thread_has_made_a_page_before_the_first_is_asked_for(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = threading.Barrier(PAGES, timeout=5)
    made: set[tuple[str, str]] = set()

    def make(snapshot: Snapshot, address: Address) -> str:
        at_once.wait()
        made.add((threading.current_thread().name, address.id))
        return query_page(snapshot, address)

    monkeypatch.setattr(web_app, "query_page", make)
    application(own, token="secret", hosts=frozenset({HOST})).state.prepare()
    assert len({thread for thread, _ in made}) == len({name for _, name in made}) == PAGES
    time.sleep(LINGER * 2)
    attrstore.open(own, writable=True).close()  # nobody reads it any more


def test_a_query_whose_page_fails_does_not_keep_the_server_from_starting(
    shared: tuple[Path, scored.World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_app, "query_page", None)
    application(shared[0], token="secret", hosts=frozenset({HOST})).state.prepare()


def test_the_server_starts_while_another_process_writes_and_says_so(own: Path) -> None:
    code = "import attrstore, sys; s = attrstore.open(sys.argv[1], writable=True); print('open', flush=True); input()"
    serve = [sys.executable, "-m", "attrstore", "serve", str(own), "--port", "0"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, own], **pipes) as writer:  # type: ignore[call-overload]
        assert writer.stdout.readline() == b"open\n"
        with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with pytest.raises(urllib.error.HTTPError, match="503"):
                browser.open(address)
            writer.communicate(b"\n")
            assert browser.open(address).status == 200
            server.terminate()
            says = " ".join(server.communicate()[1].split())
    assert f"held by another process, PID {writer.pid}" in says
    assert "Pages come when it is done." in says


# Addresses and the file


def test_an_address_leaves_out_what_is_at_its_default() -> None:
    address = Address.read({"search": "a&b", "page": "2", "n": "9999", "unknown": "x"})
    assert address == Address(search="a&b", page=2, n=200)
    assert Address(search="a&b", page=2).to("/", page=3) == "/?search=a%26b&page=3"
    assert Address(search="a&b", page=2).to("/", page=1, search="") == "/"


def test_the_file_is_free_again_after_a_page_and_read_anew_when_replaced(own: Path) -> None:
    lease = Lease(own)
    with lease.open() as snapshot:
        assert snapshot.once("n", lambda s: s.value("SELECT count(*) FROM queries")) == scored.N_QUERIES
    time.sleep(LINGER * 2)
    # Another process: in one, DuckDB shares what is open.
    code = "import attrstore, sys; s = attrstore.open(sys.argv[1], writable=True); s.execute('DELETE FROM queries WHERE query_id = 0'); s.close()"  # noqa: E501
    subprocess.run([sys.executable, "-c", code, own], check=True)
    with lease.open() as snapshot:
        assert snapshot.once("n", lambda s: s.value("SELECT count(*) FROM queries")) == scored.N_QUERIES - 1
    lease.close()


def test_what_is_kept_of_a_store_has_bounds(shared: tuple[Path, scored.World]) -> None:
    with attrstore.open(shared[0]) as store:
        snapshot = Snapshot(store)
        made = [snapshot.once("listed", lambda _, i=i: i, i) for i in (1, 2, 1, *range(9), 1)]  # type: ignore[misc]
        assert made == [1, 2, 1, *range(9), 1]
        assert len(snapshot.kept) == KEPT["listed"]


def test_while_another_process_writes_the_page_says_so(own: Path) -> None:
    code = "import attrstore, sys; s = attrstore.open(sys.argv[1], writable=True); print('open', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with client(own) as browser, subprocess.Popen([sys.executable, "-c", code, own], **pipes) as writer:  # type: ignore[call-overload]
        assert writer.stdout.readline() == b"open\n"
        answer = browser.get("/", params={"token": "secret"})
        assert answer.status_code == 503
        assert f"held by another process, PID {writer.pid}" in Reader(answer.text).text
        writer.communicate(b"\n")
        assert browser.get("/").status_code == 200


def test_an_empty_store_says_what_to_do(path: Path) -> None:
    attrstore.open(path, create=True).close()
    with client(path) as browser:
        page = Reader(browser.get("/", params={"token": "secret"}).text)
    assert "attrstore ingest queries store.duckdb queries.jsonl" in page.text
