"""Turn texts into token sequences and sequences into batches under a token budget."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attrstore.ingest.model.rendering import Rendered, Rendering

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    # id, text, and of an example that is no text its shape and its original as JSON
    ExampleRow = tuple[int, str] | tuple[int, str, str | None, str | None]
    # id, prompt, target, and of a query that is a chat its original as JSON
    QueryRow = tuple[int, str, str] | tuple[int, str, str, str | None]


@dataclass
class Item:
    """One example or query: its windows of tokens, or why it has none."""

    key: int  # example_id or query_id
    windows: list[list[int]] = field(default_factory=list)
    first_target: int = 1  # the first token whose loss counts, in each window
    status: str = "ok"
    marks: list[list[bool]] | None = (
        None  # of each window: which tokens' loss counts, where it is not all from the first
    )

    @property
    def length(self) -> int:
        """Tokens of the longest window."""
        return max(map(len, self.windows), default=0)

    @property
    def n_targets(self) -> int:
        """Tokens whose loss is summed."""
        if self.marks is not None:
            return sum(sum(marks[1:]) for marks in self.marks)
        return sum(len(window) - self.first_target for window in self.windows)

    def targets(self, window: int) -> list[int]:
        """The labels of one window: its tokens, -100 where no loss counts."""
        tokens = self.windows[window]
        if self.marks is None:
            return [-100] * self.first_target + tokens[self.first_target :]
        counted = [False, *self.marks[window][1:]]
        return [token if counts else -100 for token, counts in zip(tokens, counted, strict=True)]


def examples(
    rows: Iterable[ExampleRow],
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    long: str,
    loss: str = "auto",
) -> list[Item]:
    """Tokenise training examples, in the order of the rows.

    Of a text every token but the first is a target; of what is no text, those that `Rendering` marks.

    Args:
        rows: (example_id, text), or with the shape and the original of an example that is no text.
        loss: one of `rendering.LOSSES`.
    """
    rows = list(rows)
    rendering = Rendering(tokenizer, loss)
    made: dict[int, Item] = {}
    texts: list[tuple[int, str]] = []
    for row in rows:
        if len(row) == 4 and row[2] is not None and row[3] is not None:
            made[row[0]] = _rendered(row[0], rendering.example(row[2], json.loads(row[3])), context, long)
        elif loss in ("completion", "assistant"):
            made[row[0]] = Item(row[0], status=f"skipped: a text has no {loss}")
        else:
            texts.append((row[0], row[1]))
    if texts:
        encoded = tokenizer([text for _, text in texts], verbose=False)["input_ids"]
        for (key, _), tokens in zip(texts, encoded, strict=True):
            made[key] = _example(key, tokens, context, long)
    return [made[row[0]] for row in rows]


def _rendered(key: int, rendered: Rendered | str, context: int, long: str) -> Item:
    """Make an item of rendered tokens; what the context cuts off may be all that carries loss."""
    if isinstance(rendered, str):
        return Item(key, status=f"skipped: {rendered}")
    item = _example(key, rendered.tokens, context, long)
    starts = range(0, len(rendered.tokens), context)
    marks = [
        rendered.loss[start : start + len(window)]
        for start, window in zip(starts, item.windows, strict=False)
    ]
    kept = [i for i, window in enumerate(marks) if any(window[1:])]
    if item.windows and not kept:
        return Item(key, status=f"skipped: what carries loss lies beyond {context} tokens")
    item.windows, item.marks = [item.windows[i] for i in kept], [marks[i] for i in kept]
    return item


def _example(key: int, tokens: list[int], context: int, long: str) -> Item:
    if len(tokens) < 2:
        return Item(key, status="skipped: no token to predict")
    if len(tokens) <= context:
        return Item(key, [tokens])
    if long == "skip":
        return Item(key, status=f"skipped: {len(tokens)} tokens, context {context}")
    if long == "truncate":
        return Item(key, [tokens[:context]], status=f"truncated: kept {context} of {len(tokens)} tokens")
    windows = [tokens[start : start + context] for start in range(0, len(tokens), context)]
    windows = [window for window in windows if len(window) > 1]
    return Item(key, windows, status=f"split: {len(windows)} windows of at most {context} tokens")


class Frame(NamedTuple):
    """What a tokenizer puts around every text."""

    opening: list[int]  # such as BOS
    closing: list[int]  # such as EOS


def frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Find the tokens that the tokenizer puts before and after a text."""
    for probe in ("a", "the", "0", "<"):
        bare = tokenizer(probe, add_special_tokens=False)["input_ids"]
        whole = tokenizer(probe)["input_ids"]
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return Frame(whole[:start], whole[start + len(bare) :])
    return Frame([], [])


def encoding_version(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return 1, or 2 where the tokenizer closes texts: in version 1 that token stood between prompt and target."""
    return 2 if frame(tokenizer).closing else 1


def queries(rows: Iterable[QueryRow], tokenizer: PreTrainedTokenizerBase, context: int) -> list[Item]:
    """Tokenise queries (query_id, prompt, target), or chats with their original; only the target's tokens are targets.

    Prompt and target are tokenised together, as training text is, but for what the tokenizer puts at a text's end:
    after a prompt it would be something to answer, and after a target one token more. Where a token straddles the
    border they are tokenised apart. A query longer than the context keeps its opening token and its end, since that
    is where the target is.
    """
    opening = frame(tokenizer).opening
    items = []
    for row in rows:
        key, prompt, target = row[:3]
        if len(row) == 4 and row[3] is not None:
            tokens, marks = Rendering(tokenizer).target(json.loads(row[3])["messages"])
            opens = opening if tokens[: len(opening)] == opening else []  # a template writes its own
            items.append(_query(key, opens, tokens[len(opens) :], sum(marks), context))
            continue
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tokens = tokenizer(prompt + target, add_special_tokens=False)["input_ids"]
        if tokens[: len(before)] != before:
            tokens = before + tokenizer(target, add_special_tokens=False)["input_ids"]
        items.append(_query(key, opening, tokens, len(tokens) - len(before), context))
    return items


def _query(key: int, opening: list[int], tokens: list[int], n_target: int, context: int) -> Item:
    if n_target <= 0:
        return Item(key, status="skipped: the target has no tokens")
    if n_target > context - max(1, len(opening)):
        return Item(key, status=f"skipped: the target has {n_target} tokens, context {context}")
    n_tokens = len(opening) + len(tokens)
    status = "ok" if n_tokens <= context else f"truncated: kept {context} of {n_tokens} tokens"
    kept = opening + tokens[-min(len(tokens), context - len(opening)) :]
    return Item(key, [kept], max(1, len(kept) - n_target), status)


@dataclass
class Batch:
    """Windows of equal padding, and which item each belongs to."""

    items: list[Item]
    tokens: Tensor  # int64 [windows, T], padded on the right with 0
    targets: Tensor  # int64 [windows, T]: the token itself where its loss counts, else -100
    owner: Tensor  # int64 [windows]: index into items

    @property
    def lengths(self) -> Tensor:
        """Real tokens of each window: int64 [windows]."""
        return torch.tensor([len(window) for item in self.items for window in item.windows])


def batches(items: Sequence[Item], budget: int) -> Iterator[Batch]:
    """Yield batches of at most `budget` padded tokens, longest items first.

    No attention mask is needed: padding is on the right and attention is causal, so a real token never sees
    it, and a padding token has no loss and so no gradient. The order depends only on length and key, and a
    batch is filled greedily, so that what is left after some whole batches is batched as it would have been.
    """
    current: list[Item] = []
    n_windows = 0
    for item in sorted(items, key=lambda item: (-item.length, item.key)):
        longest = current[0].length if current else item.length
        if current and (n_windows + len(item.windows)) * longest > budget:
            yield _collate(current)
            current, n_windows = [], 0
        current.append(item)
        n_windows += len(item.windows)
    if current:
        yield _collate(current)


def _collate(items: list[Item]) -> Batch:
    owners = [index for index, item in enumerate(items) for _ in item.windows]
    windows = [(window, item.targets(i)) for item in items for i, window in enumerate(item.windows)]
    tokens = torch.zeros(len(windows), items[0].length, dtype=torch.long)
    targets = torch.full_like(tokens, -100)
    for row, (window, labels) in enumerate(windows):
        tokens[row, : len(window)] = torch.tensor(window)
        targets[row, : len(window)] = torch.tensor(labels)
    return Batch(items, tokens, targets, torch.tensor(owners))
