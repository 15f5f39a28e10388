"""The page in a real browser: every view opens, by mouse and by keyboard, and asks nobody else for anything."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import attrstore
from attrstore.web.app import application
from attrstore.web.asking import Question
from attrstore.web.report import write_report
from tests import hostile, scored
from tests.test_ask_page import PRINTS, SLEEPS

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
PAIR = "a=cosine&b=bm25"

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored store in which some texts are hostile and one pair is explained."""
    path = tmp_path_factory.mktemp("browser") / "store.duckdb"
    with attrstore.open(path, create=True) as store:
        world = scored.fill(store)
        for example, text in zip(world.rankings["cosine"][0], hostile.TEXTS.values(), strict=False):
            store.execute("UPDATE examples SET text = $t WHERE example_id = $e", {"t": text, "e": example})
        explained = world.rankings["cosine"][3][0]
        for i, token in enumerate(["text", f" {explained}"]):
            scored.add(store, "token_parts", "cosine", 3, explained, "example", i + 1, i * 4, token, 0.5 - i)
        scored.add(store, "block_parts", "cosine", 3, explained, "model", 1, "layers.0", -0.5)
    return path


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    """A server; the address of its start, with the token."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    app = application(store, token="secret", hosts=frozenset({host}), model=Path("model"))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://{host}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield opened
        opened.close()


class Watched:
    """A page, and what it said or asked for that it should not."""

    def __init__(self, page: Any, host: str) -> None:
        self.page = page
        self.said: list[str] = []
        self.elsewhere: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(host) else self.elsewhere.append(request.url),
        )

    def violations(self) -> list[str]:
        """What axe-core finds; run as a user script, which the page's own policy does not reach."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@pytest.fixture
def watched(chromium: Any, address: str) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    seen = Watched(page, address)
    page.goto(f"{address}/?token=secret")
    yield seen
    context.close()
    assert seen.said == []
    assert seen.elsewhere == []


VIEWS = {
    "/": "Queries",
    f"/?sort=disagree&{PAIR}&key=relation&value=r1": "Queries",
    f"/query?id=q3&{PAIR}&opponents=1&tint=1": "prompt 3",
    f"/why?id=q3&example=e{{explained}}&{PAIR}": "Why",
    "/example?id=e1": "Example",
    f"/overview?{PAIR}": "Overview",
    "/sql?q=FROM+method_report&plot=1": "SQL",
    "/ask": "Ask",
    "/query?id=nothing": "This does not work",
}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_view_is_accessible_and_fits(
    chromium: Any, address: str, store: Path, scheme: str, width: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    seen = Watched(context.new_page(), address)
    seen.page.goto(f"{address}/?token=secret")
    with attrstore.open(store) as opened:
        explained = opened.value(
            "SELECT external_id FROM token_parts JOIN examples USING (example_id)"
        ).removeprefix("e")
    for view, heading in VIEWS.items():
        seen.page.goto(address + view.replace("{explained}", explained))
        assert heading in seen.page.inner_text("h1")
        assert seen.violations() == [], view
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    context.close()
    assert [said for said in seen.said if "400 (Bad Request)" not in said] == []  # of the last view
    assert seen.elsewhere == []


def test_filters_act_at_once_and_keys_go_on(watched: Watched) -> None:
    page = watched.page
    page.select_option("[name=sort]", "disagree")
    page.wait_for_url("**sort=disagree*")
    assert "search=" not in page.url
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.wait_for_url("**/query?*at=2*")
    assert page.inner_text("h1") == second
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("2, ")
    page.keyboard.press("l")
    assert page.evaluate("document.activeElement.closest('.column').className") == "column side-b"
    page.keyboard.press("n")
    page.wait_for_url("**at=3*")
    page.keyboard.press("p")
    page.wait_for_url("**at=2*")
    page.keyboard.press("?")
    assert page.is_visible("dialog")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    page.keyboard.press("u")
    page.wait_for_selector("h1:text-is('Queries')")
    page.wait_for_load_state()  # keys are listened to when the page's script has run
    page.keyboard.press("/")
    page.keyboard.type("target 7")
    page.keyboard.press("Enter")
    page.wait_for_url("**search=target+7*")
    assert page.locator("tbody tr").count() == 1


def test_ties_are_drawn_between_the_columns(watched: Watched, address: str) -> None:
    watched.page.goto(f"{address}/query?id=q3&a=cosine&b=cosine&n=5")
    assert watched.page.locator("svg.ties path").count() == 5


def test_hostile_texts_do_nothing(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/query?id=q0&{PAIR}")
    assert "taken" not in page.title()
    shown = page.inner_text("main")
    assert "<script>document.title='taken'</script>" in shown
    assert "escape␛[31mred" in shown
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_words_of_an_answer_stay_whole(watched: Watched, address: str) -> None:
    watched.page.set_viewport_size({"width": 390, "height": 844})
    watched.page.goto(f"{address}/sql?q=FROM+method_report")
    heights = watched.page.evaluate(
        "[...document.querySelectorAll('.scroll td > bdi')].map(cell => cell.getBoundingClientRect().height)"
    )
    assert heights
    assert max(heights) < 1.5 * min(heights)  # none takes two lines
    assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_sql_runs_and_refuses(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/sql")
    page.click("text=Methods side by side")
    assert "3 rows." in page.inner_text("[role=status]")
    for sql, says in (("DROP TABLE scores", "read-only"), ("FROM read_text('/etc/passwd')", "disabled")):
        page.fill("textarea", sql)
        page.click("text=Run")
        page.wait_for_selector("[role=alert]")
        assert says in page.inner_text("[role=alert]")
        page.goto(f"{address}/sql")


def test_a_question_shows_progress_stops_and_is_answered(
    watched: Watched, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [SLEEPS, PRINTS]
    monkeypatch.setattr(Question, "command", lambda *_: [sys.executable, "-S", "-c", answers.pop(0)])
    page = watched.page
    page.goto(f"{address}/ask")
    page.fill("[name=prompt]", "a b")
    page.fill("[name=target]", " d")
    page.press("[name=target]", "Enter")
    page.wait_for_selector("progress")
    assert "s so far" in page.inner_text("[role=status]")
    page.click("text=Stop")
    page.wait_for_selector("text=Stopped.")
    assert page.input_value("[name=target]") == " d"
    page.click("button:has-text('Ask')")
    page.wait_for_selector("article")  # it looks again by itself
    assert "25.0%" in page.inner_text(".facts")
    assert hostile.TEXTS["script"] in page.inner_text("article >> nth=0")
    assert watched.violations() == []


def test_without_javascript_every_view_still_reads(chromium: Any, address: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/?token=secret")
    page.select_option("[name=sort]", "agree")
    page.click("text=Show")
    page.click("tbody th a >> nth=0")
    assert page.locator("article").count() > 5
    page.click("text=Next →")
    assert "at=2" in page.url
    context.close()


@pytest.mark.slow
def test_the_exported_file_opens_offline_with_the_same_views(
    chromium: Any, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    with attrstore.open(store) as opened:
        assert write_report(opened, "cosine", out) == scored.N_QUERIES
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    seen = Watched(context.new_page(), "file://")
    seen.page.goto(out.as_uri())
    assert seen.page.locator("tbody tr:visible").count() == scored.N_QUERIES
    assert seen.violations() == []
    seen.page.fill("[type=search]", "target 7")
    assert seen.page.locator(".queries tbody tr:visible").count() == 1
    seen.page.click(".queries tbody th a:visible")
    assert "prompt 7" in seen.page.inner_text("h1:visible")
    assert seen.page.locator("article:visible").count() > 20
    seen.page.keyboard.press("u")
    seen.page.click("text=Overview")
    assert seen.page.is_visible("text=Rank against rank")
    assert seen.violations() == []
    context.close()
    assert (seen.said, seen.elsewhere) == ([], [])
