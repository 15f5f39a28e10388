"""Why a pair scores, as the page shows it: tokens tinted by their part of the score, blocks as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attrstore.errors import InputError
from attrstore.web import charts
from attrstore.web.frame import chosen_pair, nothing, number, page, signed
from attrstore.web.markup import Child, Markup, el, join
from attrstore.web.queries import saying
from attrstore.web.tables import plain_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attrstore.store import Store
    from attrstore.web.address import Address
    from attrstore.web.frame import Pair
    from attrstore.web.kept import Snapshot

LEVELS = 5  # of a tint, each way
BARS = 60  # blocks


class Part(NamedTuple):
    """One token and its part of a score."""

    start: int | None
    token: str
    part: float


def explained(snapshot: Snapshot, query_id: int, pair: Pair) -> dict[tuple[str, int], list[Part]]:
    """Return the tokens of every example that was explained for a query, by scoring and example."""
    if not snapshot.once("explained", lambda s: s.named("web", "any_explained").fetchall())[0][0]:
        return {}
    asked = {"query": query_id, "a": pair.a.scoring_id, "b": pair.b.scoring_id}
    found: dict[tuple[str, int], list[Part]] = {}
    for scoring, example, start, token, part in snapshot.store.named("web", "explained", asked).fetchall():
        found.setdefault((scoring, example), []).append(Part(start, token, part))
    return found


def tinted(text: str, parts: Sequence[Part]) -> Markup:
    """Return a text with its tokens tinted by their part; a token whose place is not known comes as it is."""
    most = max((abs(part.part) for part in parts), default=0.0) or 1.0
    pieces: list[Child] = []
    place = 0
    for part in parts:
        if part.start is not None and place <= part.start < len(text):
            pieces.append(text[place : part.start])
            place = part.start + len(part.token)
        elif part.start is not None:
            continue  # beyond what is shown
        level = round(LEVELS * abs(part.part) / most)
        class_ = f"{'up' if part.part > 0 else 'down'}-{level}" if level else None
        pieces.append(el("span", part.token, class_=class_, title=signed(part.part)))
    return join((*pieces, text[place:] if place else None))


def why_page(snapshot: Snapshot, address: Address) -> str:
    """Return the page at `/why`."""
    store = snapshot.store
    found = store.named("web", "why", {"query": address.id, "example": address.example}).fetchall()
    if not found:
        raise InputError(f"there is no query {address.id!r} or no example {address.example!r}.")
    query_id, prompt, target, example_id, text = found[0]
    pair = chosen_pair(snapshot, address)
    back = el("a", "Back to the query", href=address.to("/query", example=""), data_key="u")
    body: list[Child] = [
        el("nav", back, class_="way", aria_label="Queries"),
        el("h1", "Why ", el("bdi", address.example), " scores for"),
        el("p", saying(prompt, target), class_="saying"),
    ]
    shown = [
        _one(store, scoring.scoring_id, scoring.name, query_id, example_id, text)
        for scoring in dict.fromkeys(pair[:2] if pair else ())
    ]
    if not any(shown):
        command = f"attrstore explain {store.path.name} {address.id} {address.example}"
        body.append(nothing("This pair has not been explained yet.", command))
    return page(snapshot, address, "/why", f"Why {address.example}", *body, *shown)


def _one(store: Store, scoring: str, name: str, query_id: int, example_id: int, text: str) -> Markup | None:
    key = {"scoring": scoring, "query": query_id, "example": example_id}
    blocks: list[tuple[str, float, str]] = store.named("web", "block_parts", key).fetchall()
    if not blocks:
        return None
    sides: dict[str, list[Part]] = {"example": [], "target": []}
    for side, start, token, part in store.named("web", "token_parts", key).fetchall():
        sides[side].append(Part(start, token, part))
    source = {"model": "encoded anew by the model", "codes": "from the stored codes"}[blocks[0][2]]
    total = sum(part for _, part, _ in blocks)
    parts: list[Child] = [
        el(
            "h2",
            name,
            el("span", f" {number(total, 4)}, {source}; the parts of each kind sum to it", class_="quiet"),
        )
    ]
    if sides["example"]:
        parts += [
            el("h3", "Tokens of the example"),
            el("p", tinted(text, sides["example"]), class_="text whole", dir="auto"),
        ]
    if sides["target"]:
        parts += [
            el("h3", "Tokens of the target"),
            charts.sideways(_numbered(sides["target"]), "Part of each token of the target"),
        ]
    parts += [el("h3", "Blocks of the model"), _blocks(blocks), _values(sides)]
    return el("section", *parts, class_="why")


def _blocks(blocks: Sequence[tuple[str, float, str]]) -> Child:
    shown = list(blocks)
    if len(blocks) > BARS:
        least = sorted((abs(part) for _, part, _ in blocks), reverse=True)[BARS - 1]
        shown = [block for block in blocks if abs(block[1]) >= least]
    says = f"Part of each block, in the order of the model; the {len(shown)} largest of {len(blocks)}"
    return charts.sideways([(name.removeprefix("model."), part) for name, part, _ in shown], says)


def _numbered(parts: Sequence[Part]) -> list[tuple[str, float]]:
    return [(part.token.strip() or repr(part.token), part.part) for part in parts]


def _values(sides: dict[str, list[Part]]) -> Markup:
    rows: list[Sequence[object]] = [
        (side, i, part.token, part.part) for side, every in sides.items() for i, part in enumerate(every, 1)
    ]
    if not rows:
        return Markup()
    table = plain_table(("side", "position", "token", "part"), rows, "Parts of the tokens")
    return el("details", el("summary", "As numbers"), table)
