"""Ask about a prompt that is not in the store: what the model says there, what moved it, what states it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.web import marks
from attrstore.web.asking import Question, State
from attrstore.web.cards import common_words
from attrstore.web.frame import number, page
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.queries import saying

if TYPE_CHECKING:
    from attrstore.web.address import Address
    from attrstore.web.asking import Asker
    from attrstore.web.lease import Lease

SIDES = {"influence": ("a", "what makes the target more likely"), "retrieval": ("b", "what states it")}


def ask_page(lease: Lease, asker: Asker | None, address: Address) -> str:
    """Return the page at `/ask`: the question, and where it stands."""
    body: list[Child] = [el("h1", "Ask")]
    if asker is None:
        command = f"attrstore serve {lease.path.name} --model FOLDER"
        says = "To ask about a prompt that is not in the store, serve it with the model: "
        return _page(lease, address, *body, el("p", says, el("code", command), class_="nothing"))
    body.append(_form(address))
    question = Question(address.prompt, address.target)
    if address.stop:
        asker.stop()
        body.append(el("p", "Stopped.", role="status"))
    elif address.prompt.strip():
        body.append(_stands(lease, address, question, asker.ask(question)))
    return _page(lease, address, *body)


def _page(lease: Lease, address: Address, *body: Child) -> str:
    return page(None, address, "/ask", "Ask", *body, name=lease.path.name)


def _form(address: Address) -> Markup:
    fields = [
        el("label", el("span", says), el("input", name=name, value=value, size=size, autocomplete="off", required=must),
           class_=f"of-{name}")
        for name, says, value, size, must in (
            ("prompt", "Prompt", address.prompt, 50, True),
            ("target", "Target, with its leading space; empty: what the model says", address.target, 24, False),
        )
    ]  # fmt: skip
    return el("form", *fields, el("button", "Ask", type="submit"), class_="filters ask", action="/ask")


def _stands(lease: Lease, address: Address, question: Question, state: State) -> Markup:
    if state.failed is not None:
        return el("p", state.failed, class_="error", role="alert")
    if state.rows is not None:
        return _answer(lease, address, question, state.rows)
    if state.behind is not None:
        says = join(("The model is busy with another question: ", saying(*state.behind), " "))
    else:
        last = "" if state.before is None else f" The last answer took {state.before:.0f} s."
        says = join((f"Reading the model and every encoding: {state.seconds or 0:.0f} s so far.{last}",))
    again = address.to("/ask")
    return el(
        "section",
        el("p", says, role="status", data_retry=1),
        el("progress", aria_label="The model is at work"),
        el(
            "form",
            *(el("input", type="hidden", name=name, value=getattr(address, name)) for name in ("prompt", "target")),
            el("button", "Stop", type="submit", name="stop", value="1"),
            " ",
            el("a", "Look again", href=again),
            class_="filters",
            action="/ask",
        ),
        class_="running",
    )  # fmt: skip


def _answer(lease: Lease, address: Address, question: Question, rows: list[dict[str, object]]) -> Markup:
    first = rows[0] if rows else {}
    target = str(first.get("target") or question.target)
    known = [
        ("probability of the target", _share(first.get("probability"))),
        (
            "the model says",
            f"{first['said']!r}, {_share(first.get('said_probability'))}" if first.get("said") else None,
        ),
        ("encoder", first.get("encoder")),
        ("model", first.get("model")),
    ]
    facts = [el("div", el("dt", name), el("dd", el("bdi", str(value)))) for name, value in known if value]
    with lease.open() as snapshot:
        words = marks.words(question.prompt, target, common_words(snapshot))
    return el(
        "section",
        el("h2", saying(question.prompt, target), class_="saying"),
        el("dl", *facts, class_="facts"),
        el("div", *(_column(family, rows, address, words) for family in SIDES), class_="columns"),
        class_="end",
    )


def _share(value: object) -> str | None:
    return f"{value:.1%}" if isinstance(value, float) else None


def _column(family: str, rows: list[dict[str, object]], address: Address, words: marks.Words) -> Markup:
    side, says = SIDES[family]
    mine = [row for row in rows if row["family"] == family]
    method = str(mine[0]["method"]) if mine else family
    items = [el("li", _card(row, side, address, words)) for row in mine]
    head = el("h3", method, el("span", f" {says}", class_="quiet"))
    nothing = el("p", f"No {family} here.", class_="nothing")
    return el("div", head, el("ol", *items) if items else nothing, class_=f"column side-{side}")


def _card(row: dict[str, object], side: str, address: Address, words: marks.Words) -> Markup:
    text, name, score = str(row["text"]), str(row["example"]), row["score"]
    shown = number(score, 4) if isinstance(score, float) else str(score)
    head = el("header", el("span", str(row["rank"]), class_="rank"), el("span", shown, class_="score"))
    link = el("a", el("bdi", name), href=address.list_only().to("/example", id=name))
    return el(
        "article",
        head,
        el("p", marks.excerpt(text, len(text), words), class_="text", dir="auto"),
        el("footer", el("span", link)),
        id=f"{side}-{row['rank']}",
        tabindex=-1,
        aria_label=f"{row['rank']}, {name}",
    )
