"""Ask about one prompt that need not be in the store: influence and retrieval side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrstore import html, scoring
from attrstore.errors import InputError, flag
from attrstore.lexical.index import read_index, search
from attrstore.methods import Request
from attrstore.vectors import encoders

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow

    from attrstore.store import Store

Row = tuple[int, str, float, str]  # rank, example, score, text


@dataclass(frozen=True)
class Answer:
    """What made the model say it, and what states it."""

    probability: float  # of the target after the prompt
    influence: list[Row]
    retrieval: list[Row]

    def _repr_html_(self) -> str:
        columns = ("rank", "example", "score", "text")
        return (
            f"<p>Probability of the target: {self.probability:.3g}</p>"
            + html.table(columns, self.influence, "Influence: what made the model say it")
            + html.table(columns, self.retrieval, "Retrieval: what states it")
        )


def ask(
    store: Store,
    prompt: str,
    target: str,
    *,
    top: int = 5,
    method: str = "cosine-block",
    model: str | Path | None = None,
    where: str | None = None,
    device: str = "auto",
) -> Answer:
    """Rank the examples for a prompt and a target; nothing is written.

    Args:
        prompt, target: joined as they are, so the target brings its own leading space.
        top: examples of each kind.
        method: a gradient method.
        model: the model's folder; where ingest saw it, if not given.
        where: an SQL predicate over `examples`.

    Raises `InputError` when there are no gradient encodings, or the target has no tokens.
    """
    from attrstore.ingest.encode import gradients
    from attrstore.ingest.model import sequences
    from attrstore.methods import gradient, inverse, linear_map

    parts = {**gradient.PARTS, **inverse.PARTS}
    if method not in parts:
        raise InputError(f"{flag('method')} {method}: not a gradient method; there are {', '.join(parts)}")
    encoder = encoders.choose(store, "gradient")
    loaded, encode = gradients.reopen(store, encoder, model=model, device=device)
    (item,) = sequences.queries([(0, prompt, target)], loaded.tokenizer, loaded.context)
    if not item.windows:
        raise InputError(f"TARGET {target!r}: {item.status.removeprefix('skipped: ')}")
    (batch,) = sequences.batches([item], loaded.context)
    vector, loss = encode.encode_queries(batch)
    with scoring.selected(store, where):
        ranking = linear_map.rank_vectors(store, encoder, parts[method], [0], vector, Request(top))
    return Answer(
        math.exp(-float(loss[0])), _rows(store, ranking.pairs, top), _retrieved(store, prompt + target, top)
    )


def _rows(store: Store, pairs: pyarrow.Table, top: int) -> list[Row]:
    with store.registered(ranked=pairs):
        rows: list[Row] = store.named("scoring", "ranked_texts", {"top": top}).fetchall()
    return rows


def _retrieved(store: Store, text: str, top: int) -> list[Row]:
    """The strongest by BM25; empty where there is no lexical index."""
    if read_index(store) is None:
        return []
    found = search(store, text, top)
    return list(found.select("rank", "id", "score", "text").iter_rows())
