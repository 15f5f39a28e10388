"""The page asks the model about other prompts: in a child process, one at a time, stopped at will."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import attrstore
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.web import asking
from attrstore.web.app import application
from attrstore.web.asking import Asker, Question, State
from tests import hostile, scored, tiny
from tests.test_web import HOST, Reader

ROW = {
    "family": "influence", "method": "cosine-block", "model": "m", "encoder": "e", "target": " d", "probability": 0.25,
    "said": " c", "said_probability": 0.5, "rank": 1, "example": "e1", "score": 0.75, "text": hostile.TEXTS["script"],
}  # fmt: skip
BM25 = ROW | {
    "family": "retrieval",
    "method": "bm25",
    "model": None,
    "encoder": None,
    "example": "e2",
    "text": "a d",
}
PRINTS = f"print({json.dumps(json.dumps([ROW, BM25]))})"
SLEEPS = "import time; time.sleep(60)"


@pytest.fixture
def store(path: Path) -> Path:
    with attrstore.open(path, create=True) as opened:
        scored.add_texts(opened)
    return path


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a few lines of Python answer instead of the model."""

    def be(code: str) -> None:
        monkeypatch.setattr(Question, "command", lambda *_: [sys.executable, "-S", "-c", code])

    return be


@pytest.fixture
def asker(store: Path) -> Iterator[Asker]:
    made = Asker(store, Path("model"))
    yield made
    made.stop()


def answered(asker: Asker, question: Question) -> State:
    for _ in range(600):
        state = asker.ask(question)
        if state.seconds is None:
            return state
        time.sleep(0.05)
    raise AssertionError("never answered")


def browser(path: Path, model: Path | None) -> TestClient:
    app = application(path, token="secret", hosts=frozenset({HOST}), model=model)
    return TestClient(app, base_url=f"http://{HOST}", cookies={"attrstore-8642": "secret"})


def test_a_question_is_the_command_that_a_person_would_type() -> None:
    command = Question("--prompt", " d").command(Path("s.duckdb"), Path("m"))
    assert command[1:] == [
        "-m", "attrstore", "ask", "--model", "m", "--top", "10", "--format", "json", "--", "s.duckdb", "--prompt", " d",
    ]  # fmt: skip
    assert Question("p", "").command(Path("s.duckdb"), Path("m"))[-2:] == ["s.duckdb", "p"]


def test_an_answer_is_kept_until_the_store_changes(
    asker: Asker, store: Path, child: Callable[[str], None]
) -> None:
    child(PRINTS)
    question = Question("a b", " d")
    assert answered(asker, question).rows == [ROW, BM25]
    child("raise SystemExit('Error: asked again')")
    assert asker.ask(question).rows == [ROW, BM25]
    assert answered(asker, Question("a b", " c")).failed == "asked again"
    os.utime(store)
    assert answered(asker, question).failed == "asked again"


def test_one_question_at_a_time_and_a_stopped_one_is_gone(
    asker: Asker, child: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    child(SLEEPS)
    assert asker.ask(Question("a", "")).seconds is not None
    assert asker._job is not None
    process = asker._job.process
    assert asker.ask(Question("b", "")).behind == Question("a", "")
    asker.stop()
    assert process.poll() is not None
    assert asker.ask(Question("b", "")).seconds is not None
    monkeypatch.setattr(asking, "SECONDS", 0.0)
    assert asker.ask(Question("b", "")).failed == "no answer after 0 seconds, so it was stopped."


def test_the_page_shows_progress_then_the_answer_with_its_texts_as_texts(
    store: Path, child: Callable[[str], None]
) -> None:
    child(SLEEPS)
    asked = {"prompt": "a b", "target": " d"}
    with browser(store, Path("model")) as opened:
        running = opened.get("/ask", params=asked).text
        assert "s so far" in Reader(running).text
        assert '<progress aria-label="The model is at work">' in running
        assert (
            "busy with another question: a b → d"
            in Reader(opened.get("/ask", params={"prompt": "x"}).text).text
        )
        assert opened.get("/").status_code == 200  # the other pages go on
        assert "Stopped." in opened.get("/ask", params={**asked, "stop": "1"}).text
        child(PRINTS)
        for _ in range(200):
            page = opened.get("/ask", params=asked).text
            if "probability of the target" in page:
                break
            time.sleep(0.05)
        shown = Reader(page)
        assert [a["aria-label"] for a in shown.having("article")] == ["1, e1", "1, e2"]
        assert "25.0%" in shown.text
        assert "' c', 50.0%" in shown.text
        assert hostile.TEXTS["script"] in shown.text
        assert not shown.having("img")


def test_without_a_model_the_page_says_how(store: Path) -> None:
    with browser(store, None) as opened:
        page = Reader(opened.get("/ask", params={"prompt": "a"}).text)
    assert "attrstore serve store.duckdb --model FOLDER" in page.text


def test_when_the_server_ends_so_does_the_question(
    store: Path, child: Callable[[str], None], tmp_path: Path
) -> None:
    child(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    with browser(store, Path("model")) as opened:
        opened.get("/ask", params={"prompt": "a"})
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
def test_the_page_says_what_ask_says(path: Path, tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model")
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(12), [("a b", " c")])
        ingest_lexical(store)
        ingest_gradients(store, model=model, projection_dim=4)
        expected = store.ask("a b c", " d", model=model, top=10)
    with browser(path, model) as opened:
        for _ in range(1_200):
            page = Reader(opened.get("/ask", params={"prompt": "a b c", "target": " d"}).text)
            if page.having("article") or page.having("p", value="error"):
                break
            time.sleep(0.1)
    labels = [f"{rank}, {name}" for rank, name, *_ in (*expected.influence, *expected.retrieval)]
    assert [a["aria-label"] for a in page.having("article")] == labels
    assert expected.probability is not None
    assert f"{expected.probability:.1%}" in page.text
