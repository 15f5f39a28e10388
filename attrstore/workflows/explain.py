"""Why a pair scores: its score by token of the example, by token of the query's target, and by block of the model.

A score by gradients is linear in the example's gradient, and so in each token's part of it (G = sum_t g_t a_t^T), and
linear in the query's, so in each target token's. The norms that a method divides by are those of the whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attrstore.chosen import no_scoring, scoring_names
from attrstore.errors import InputError, flag
from attrstore.methods.linear_map import TINY
from attrstore.methods.parts import IN_SPEC, Parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from attrstore.ingest.encode.capture import GradientEncoder
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.sequences import ExampleRow, Item, QueryRow
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

NOT_LINEAR = ("cg",)  # stops by what the query's own gradient is: parts of it would not sum


@dataclass(frozen=True)
class Token:
    """One token and its part of the score."""

    token: str
    part: float
    start: int | None = None  # its first character in the text, where the tokenizer says


@dataclass(frozen=True)
class Explanation:
    """A pair's score in parts. Each of the three sums to the score; without a model there are blocks alone."""

    scoring: str
    query: str
    example: str
    source: str  # model: encoded anew, before it is quantised; codes: from the stored code
    score: float  # the sum of the parts
    stored_score: float | None  # as it was ranked
    tokens: tuple[Token, ...]
    target: tuple[Token, ...]
    blocks: tuple[tuple[str, float], ...]


def explain(
    store: Store,
    query: str,
    examples: Sequence[str] = (),
    *,
    scoring: str | None = None,
    top: int = 10,
    model: str | Path | None = None,
    device: str = "auto",
) -> Iterator[Explanation]:
    """Yield what each example's score for a query is made of, and keep it in `token_parts` and `block_parts`.

    Args:
        store: open for writing.
        query, examples: their ids; the `top` strongest proponents where no example is named.
        scoring: by a gradient method; the one that `comparison` shows, if not given.
        model: the model's folder; where ingest saw it, if not given. Where it is gone, blocks alone are explained,
            from the stored codes.
        device: auto, cpu or cuda.

    Raises:
        InputError: an unknown name, or a scoring whose scores are not sums of parts.
        MismatchError: the folder holds another model.
    """
    explainer = Explainer.of(store, scoring, model=model, device=device)
    asked: QueryRow = _one(store, "query", query)
    names = list(examples) or [
        row[0]
        for row in store.named(
            "explain", "strongest", {"scoring": explainer.scoring_id, "query": asked[0], "top": top}
        ).fetchall()
    ]
    if not names:
        raise InputError(f"{explainer.name} ranks nothing for {query}. Name an example.")
    side = explainer.query_side(asked)
    for name in names:
        row: ExampleRow = _one(store, "example", name)
        found = replace(explainer.pair(side, asked[0], row), query=query, example=name)
        _keep(store, explainer.scoring_id, asked[0], row[0], found)
        yield found


@dataclass(frozen=True)
class QuerySide:
    """What is multiplied with an example's encoding: one row for each token of the target."""

    names: tuple[str, ...]  # of the target's tokens; one empty name where the query is taken whole
    vectors: Tensor  # float32 [targets, D]
    whitening: list[Tensor] | None


@dataclass(frozen=True)
class Explainer:
    """One scoring with what it takes to explain its pairs: the model is loaded once."""

    store: Store
    scoring_id: str
    name: str
    encoder: Encoder
    parts: Parts
    model: str | Path | None
    device: str

    @classmethod
    def of(cls, store: Store, scoring: str | None, *, model: str | Path | None, device: str) -> Explainer:
        """Read a scoring; raises `InputError` where its scores have no parts."""
        from attrstore.methods import gradient, inverse
        from attrstore.vectors import encoders

        found = store.named("explain", "scoring", {"name": scoring}).fetchall()
        if not found:
            if scoring:
                raise no_scoring(scoring, scoring_names(store))
            raise InputError(f"{store.path}: no influence scoring is chosen. There are: FROM scoring_status")
        scoring_id, name, method, spec, encoder_id = found[0]
        known = [m for m in (*gradient.PARTS, *inverse.PARTS) if m not in NOT_LINEAR]
        if method not in known:
            raise InputError(
                f"{flag('scoring')} {name}: made by {method}, whose scores are not sums over tokens of one encoding. "
                f"Explained are scorings by {', '.join(known)}."
            )
        if json.loads(spec).get("exact"):
            raise InputError(
                f"{flag('scoring')} {name}: re-ranked from whole gradients, which are not kept. Explain the scoring "
                f"whose candidates it has: {json.loads(spec)['candidates_of']}."
            )
        fields = {
            key: value for key, value in json.loads(spec).items() if key in IN_SPEC and value is not None
        }
        encoder = encoders.choose(store, "gradient", encoder_id)
        if encoder.rank is not None:
            raise InputError(
                f"{encoder.name}: made with {flag('rank')}, whose codes are not taken apart. Explain a scoring of "
                "encodings made without."
            )
        return cls(store, scoring_id, name, encoder, Parts(**fields), model, device)

    @cached_property
    def loaded(self) -> tuple[LoadedModel, GradientEncoder] | None:
        """The model and what encodes with it; None where it is not at hand."""
        from attrstore.ingest.encode import gradients
        from attrstore.ingest.encode.capture import GradientEncoder

        try:
            loaded, encoder = gradients.reopen(self.store, self.encoder, model=self.model, device=self.device)
        except InputError as error:
            if self.model is None and type(error) is InputError:
                return None
            raise
        assert isinstance(encoder, GradientEncoder)  # `of` refuses any other
        return loaded, encoder

    def query_side(self, asked: QueryRow) -> QuerySide:
        """Return the query's side of the product, by token of its target where the model is at hand."""
        from attrstore.methods import linear_map

        if self.loaded is None:
            names: tuple[str, ...] = ("",)
            vectors = whole = self._stored_vector(asked[0])
        else:
            names, vectors = self._targets(asked)
            whole = vectors.sum(dim=0, keepdim=True)
        multiplied, whitening, _ = linear_map.query_side(self.store, self.encoder, self.parts, vectors, whole)
        return QuerySide(names, multiplied, whitening)

    def pair(self, side: QuerySide, query_id: int, row: ExampleRow) -> Explanation:
        """Take the score of one pair apart."""
        key = {"scoring": self.scoring_id, "query": query_id, "example": row[0]}
        stored = self.store.named("explain", "stored_score", key).fetchall()
        blank = Explanation(self.name, "", "", "codes", 0.0, stored[0][0] if stored else None, (), (), ())
        if self.loaded is None:
            return self._blocks_of(blank, side, self._decoded(row[0]))
        return self._tokens_of(blank, side, row)

    def _tokens_of(self, blank: Explanation, side: QuerySide, row: ExampleRow) -> Explanation:
        from attrstore.ingest.model import sequences

        assert self.loaded is not None
        loaded, encode = self.loaded
        long, loss = str(self.encoder.spec["long"]), str(self.encoder.spec.get("loss", "auto"))
        (item,) = sequences.examples([row], loaded.tokenizer, loaded.context, long, loss)
        if not item.windows:
            raise InputError(f"the example cannot be encoded: {item.status}")
        (batch,) = sequences.batches([item], 1)
        phi, _ = encode.encode(batch)
        parts = encode.token_parts(batch, side.vectors) * self._weights(phi, side.whitening).double()
        real = [parts[i, : len(window)] for i, window in enumerate(item.windows)]
        by_token = [float(part) for window in real for part in window.sum(dim=(1, 2))]
        by_target = sum(window.sum(dim=(0, 2)) for window in real)
        by_block = sum(window.sum(dim=(0, 1)) for window in real)
        names = [block.name for block in self.encoder.blocks]
        return replace(
            blank,
            source="model",
            score=sum(by_token),
            tokens=tuple(
                Token(name, part, start)
                for (name, start), part in zip(_named(loaded.tokenizer, item, row), by_token, strict=True)
            ),
            target=tuple(map(Token, side.names, by_target.tolist())),  # type: ignore[union-attr]
            blocks=tuple(zip(names, by_block.tolist(), strict=True)),  # type: ignore[union-attr]
        )

    def _blocks_of(self, blank: Explanation, side: QuerySide, phi: Tensor) -> Explanation:
        products = (side.vectors.sum(dim=0, keepdim=True) * phi).double()[0]
        weights = self._weights(phi, side.whitening).double()
        parts = [
            float(products[block.offset : block.offset + block.length].sum() * weight)
            for block, weight in zip(self.encoder.blocks, weights, strict=True)
        ]
        names = [block.name for block in self.encoder.blocks]
        return replace(blank, score=sum(parts), blocks=tuple(zip(names, parts, strict=True)))

    def _weights(self, phi: Tensor, whitening: list[Tensor] | None) -> Tensor:
        """Return what each block of phi(z) [1, D] is divided by, as a factor: [B]."""
        import torch

        from attrstore.vectors import curvature

        if self.parts.norm == "none":
            return torch.ones(len(self.encoder.blocks), device=phi.device)
        after = phi if whitening is None else curvature.apply(phi, self.encoder.blocks, whitening)
        lengths = torch.stack([after[0, b.offset : b.offset + b.length].norm() for b in self.encoder.blocks])
        if self.parts.norm == "vector":
            lengths = lengths.norm().expand(len(lengths))
        return 1 / lengths.clamp(min=TINY)

    def _targets(self, asked: QueryRow) -> tuple[tuple[str, ...], Tensor]:
        """Return the target's tokens and phi of each one's loss: [targets, D]."""
        import torch

        from attrstore.ingest.model import sequences

        assert self.loaded is not None
        loaded, encode = self.loaded
        (item,) = sequences.queries([asked], loaded.tokenizer, loaded.context)
        if not item.windows:
            raise InputError(f"the query cannot be encoded: {item.status}")
        (window,) = item.windows
        places = [place for place, token in enumerate(item.targets(0)) if token != -100]
        tokens = torch.tensor([window] * len(places))
        targets = torch.full_like(tokens, -100)
        for row, place in enumerate(places):
            targets[row, place] = tokens[row, place]
        items = [sequences.Item(row, [window], place) for row, place in enumerate(places)]
        vectors, _ = encode.encode(sequences.Batch(items, tokens, targets, torch.arange(len(places))))
        return tuple(loaded.tokenizer.decode([window[place]]) for place in places), vectors

    def _stored_vector(self, query_id: int) -> Tensor:
        import torch

        key = {"encoder": self.encoder.encoder_id, "query": query_id}
        found = self.store.named("explain", "query_vector", key).fetchall()
        if not found:
            raise InputError(f"{self.store.path}: the query is not encoded under {self.encoder.name}.")
        return torch.frombuffer(bytearray(found[0][0]), dtype=torch.float32).unsqueeze(0)

    def _decoded(self, example_id: int) -> Tensor:
        """Return phi(z) [1, D] from its code."""
        import torch

        from attrstore.vectors import codes

        key = {"encoder": self.encoder.encoder_id, "example": example_id}
        found = self.store.named("explain", "code", key).fetchall()
        if not found:
            raise InputError(f"{self.store.path}: the example is not encoded under {self.encoder.name}.")
        code, scales = (
            torch.frombuffer(bytearray(part), dtype=torch.uint8).unsqueeze(0) for part in found[0]
        )
        directions, norms = codes.decode(code, scales, self.encoder.blocks, codes.CODES[self.encoder.code])
        for i, block in enumerate(self.encoder.blocks):
            directions[:, block.offset : block.offset + block.length] *= norms[:, i]
        return directions


def _named(tokenizer: PreTrainedTokenizerBase, item: Item, row: ExampleRow) -> list[tuple[str, int | None]]:
    """Return each token of an example as it stands in the text, and where; a token of its own has no place."""
    ids = [token for window in item.windows for token in window]
    text = row[1]
    if not tokenizer.is_fast or (
        len(row) == 4 and row[3] is not None
    ):  # a chat is not tokenised as it stands
        return [(tokenizer.decode([token]), None) for token in ids]
    spans = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [
        (text[start:end], start) if end > start else (tokenizer.decode([token]), None)
        for token, (start, end) in zip(ids, spans, strict=False)
    ]


def _one(store: Store, what: str, name: str) -> Any:
    found = store.named("explain", what, {"id": name}).fetchall()
    if not found:
        raise InputError(f"{store.path}: no {what} is called {name!r}.")
    return found[0]


def _keep(store: Store, scoring_id: str, query_id: int, example_id: int, found: Explanation) -> None:
    import pyarrow

    key = {"scoring": scoring_id, "query": query_id, "example": example_id}
    sides = [("example", found.tokens), ("target", found.target)]
    tokens = [
        {"side": side, "position": i, "start": one.start, "token": one.token, "part": one.part}
        for side, every in sides
        for i, one in enumerate(every, 1)
    ]
    blocks = [{"position": i, "block": name, "part": part} for i, (name, part) in enumerate(found.blocks, 1)]
    with store.transaction(), store.registered(block_rows=pyarrow.Table.from_pylist(blocks)):
        store.named("explain", "drop_tokens", key)
        store.named("explain", "drop_blocks", key)
        store.named("explain", "insert_blocks", {**key, "source": found.source})
        if tokens:
            with store.registered(token_rows=pyarrow.Table.from_pylist(tokens)):
                store.named("explain", "insert_tokens", key)
