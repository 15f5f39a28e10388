"""Ask about one prompt that need not be in the store: influence and retrieval side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

from attrstore import html, scoring
from attrstore.errors import InputError, flag
from attrstore.lexical.index import read_index, search
from attrstore.methods import Request
from attrstore.vectors import encoders
from attrstore.workflows.options import AskOptions

if TYPE_CHECKING:
    import pyarrow

    from attrstore.ingest.model.causal import Given
    from attrstore.ingest.model.continuation import Said
    from attrstore.store import Store
    from attrstore.workflows.options import AskFields

Row = tuple[int, str, float, str]  # rank, example, score, text


FAR = 10  # times as probable: then the other spacing of the target is worth a word


@dataclass(frozen=True)
class Answer:
    """What the model says, what makes the target more likely, and what states it."""

    target: str | None  # what was asked about; None where there are no gradients and none was given
    probability: (
        float | None
    )  # of the target after the prompt; this and the next four are None without gradients
    said: Said | None  # what the model says there
    respaced: (
        tuple[str, float] | None
    )  # the target with, or without, a leading space, if that is far more probable
    encoder: str | None
    model: str | None  # its folder
    influence: list[Row]
    retrieval: list[Row]

    @property
    def says_it(self) -> bool:
        """Whether the target is what the model says."""
        return self.said is not None and self.said.is_target

    @property
    def influence_is(self) -> str:
        """What the influential examples are: they made the model say the target only where it says it."""
        return "what made the model say it" if self.says_it else "what makes the target more likely"

    def _repr_html_(self) -> str:
        columns = ("rank", "example", "score", "text")
        states = html.table(columns, self.retrieval, "Retrieval: what states it")
        if self.said is None:
            return states
        about = (
            f"Probability of the target: {self.probability:.3g}; model {self.model}, encoder {self.encoder}",
            f"The model says {self.said.text!r}: P = {self.said.probability:.3g}",
        )
        return (
            html.lines(about)
            + html.table(columns, self.influence, f"Influence: {self.influence_is}")
            + states
        )


def ask(
    store: Store,
    prompt: str,
    target: str | None = None,
    options: AskOptions | None = None,
    *,
    model: Given | None = None,
    **fields: Unpack[AskFields],
) -> Answer:
    """Rank the examples for a prompt and a target; nothing is written.

    Args:
        prompt, target: joined as they are, so the target brings its own leading space. Without a target, what the
            model says after the prompt is explained.
        options: how many examples of each kind, and by which gradient method; the default ones, if not given.
        model: the model's folder, or a model in memory; where ingest saw it, if not given.
        fields: of the options, `AskOptions`, that are to be otherwise: `top=10, method="trackstar"`.

    In a store without gradient encodings the answer is what states it alone, by BM25.

    Raises `InputError` when there are neither gradient encodings nor a lexical index, some examples have no encoding
    yet, the store has encodings of several models and no encoder is named, or the target has no tokens.
    """
    from attrstore.methods import gradient, inverse

    asked = replace(options or AskOptions(), **fields)
    parts = {**gradient.PARTS, **inverse.PARTS}
    if asked.method not in parts:
        raise InputError(
            f"{flag('method')} {asked.method}: not a gradient method; there are {', '.join(parts)}"
        )
    if asked.encoder is None and not encoders.load_all(store, "gradient") and read_index(store) is not None:
        found = _retrieved(store, prompt + (target or ""), asked.top)
        return Answer(target, None, None, None, None, None, influence=[], retrieval=found)
    from attrstore.ingest.encode import gradients
    from attrstore.ingest.model import sequences
    from attrstore.ingest.model.continuation import continuation, probability, sentence
    from attrstore.methods import linear_map
    from attrstore.vectors import stored

    chosen = encoders.choose(store, "gradient", asked.encoder)
    loaded, encode = gradients.reopen(store, chosen, model=model, device=asked.device)
    if target is None:
        target = sentence(loaded, prompt)
        if not target:
            raise InputError(f"the model says nothing after {prompt!r}. Give a target.")
    (item,) = sequences.queries([(0, prompt, target)], loaded.tokenizer, loaded.context)
    if not item.windows:
        raise InputError(f"TARGET {target!r}: {item.status.removeprefix('skipped: ')}")
    (batch,) = sequences.batches([item], loaded.context)
    vector, loss = encode.encode_queries(batch)
    with scoring.selected(store, asked.where):
        stored.refuse_missing(store, chosen)
        ranking = linear_map.rank_vectors(store, chosen, parts[asked.method], [0], vector, Request(asked.top))
    chance = math.exp(-float(loss[0]))
    other = target[1:] if target.startswith(" ") else f" {target}"
    other_chance = probability(loaded, prompt, other)
    return Answer(
        target=target,
        probability=chance,
        said=continuation(loaded, item),
        respaced=(other, other_chance) if other_chance >= FAR * chance else None,
        encoder=chosen.name,
        model=loaded.path,
        influence=_rows(store, ranking.pairs, asked.top),
        retrieval=_retrieved(store, prompt + target, asked.top),
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
