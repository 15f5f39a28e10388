"""Turn texts into token sequences and sequences into batches under a token budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass
class Item:
    """One example or query: its windows of tokens, or why it has none."""

    key: int  # example_id or query_id
    windows: list[list[int]] = field(default_factory=list)
    first_target: int = 1  # the first token whose loss counts, in each window
    status: str = "ok"

    @property
    def length(self) -> int:
        """Tokens of the longest window."""
        return max(map(len, self.windows), default=0)

    @property
    def n_targets(self) -> int:
        """Tokens whose loss is summed."""
        return sum(len(window) - self.first_target for window in self.windows)


def examples(rows: Iterable[tuple[int, str]], tokenizer: Any, context: int, long: str) -> list[Item]:
    """Tokenise training examples (example_id, text); every token but the first is a target."""
    rows = list(rows)
    if not rows:
        return []
    encoded = tokenizer([text for _, text in rows], verbose=False)["input_ids"]
    return [_example(key, tokens, context, long) for (key, _), tokens in zip(rows, encoded, strict=True)]


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


def queries(rows: Iterable[tuple[int, str, str]], tokenizer: Any, context: int) -> list[Item]:
    """Tokenise queries (query_id, prompt, target); only the target's tokens are targets.

    Prompt and target are tokenised together, as training text is; where a token straddles the border they
    are tokenised apart. A query longer than the context keeps its end, since that is where the target is.
    """
    items = []
    for key, prompt, target in rows:
        before = tokenizer(prompt)["input_ids"]
        tokens = tokenizer(prompt + target)["input_ids"]
        if tokens[: len(before)] != before:
            tokens = before + tokenizer(target, add_special_tokens=False)["input_ids"]
        n_target = len(tokens) - len(before)
        if n_target <= 0:
            items.append(Item(key, status="skipped: the target has no tokens"))
        elif n_target >= context:
            items.append(Item(key, status=f"skipped: the target has {n_target} tokens, context {context}"))
        else:
            status = "ok" if len(tokens) <= context else f"truncated: kept {context} of {len(tokens)} tokens"
            kept = tokens[-context:]
            items.append(Item(key, [kept], max(1, len(kept) - n_target), status))
    return items


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
    windows = [(window, item.first_target) for item in items for window in item.windows]
    tokens = torch.zeros(len(windows), items[0].length, dtype=torch.long)
    targets = torch.full_like(tokens, -100)
    for row, (window, first) in enumerate(windows):
        tokens[row, : len(window)] = torch.tensor(window)
        targets[row, first : len(window)] = tokens[row, first : len(window)]
    return Batch(items, tokens, targets, torch.tensor(owners))
