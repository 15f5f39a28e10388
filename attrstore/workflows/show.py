"""Show one example or query as the model sees it: its tokens, and which of them carry loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrstore.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from attrstore.store import Store


@dataclass(frozen=True)
class Seen:
    """What the model sees."""

    kind: str  # example, query
    shape: str  # text, messages, completion, chat completion, tokens
    status: str  # ok, or what was cut or why nothing is seen
    windows: list[list[tuple[str, bool]]]  # of each window, every token as text and whether its loss counts

    @property
    def counted(self) -> int:
        """Tokens that carry loss."""
        return sum(counts for window in self.windows for _, counts in window)


def show(
    store: Store,
    name: str,
    *,
    model: str | Path | None = None,
    loss: str = "auto",
    long: str = "truncate",
    device: str = "cpu",
) -> Seen:
    """Tokenise the example, or else the query, of this id as an ingest would; nothing is written.

    Args:
        name: the id of an example or a query.
        model: its folder; the store's only causal language model, if not given.
        loss: which tokens of an example carry loss: auto, all, completion, assistant.
        long: what to do with an example longer than the context: truncate, split, skip.

    Raises:
        InputError: nothing is called so, no model can be found, or the chat template does not mark what is asked for.
    """
    from attrstore.ingest.model import causal, sequences

    example = store.named("show", "example", {"name": name}).fetchall()
    query = [] if example else store.named("show", "query", {"name": name}).fetchall()
    if not example and not query:
        raise InputError(f"{store.path}: no example and no query is called {name}.")
    loaded = causal.load_known(store, model, device)
    if example:
        (item,) = sequences.examples(example, loaded.tokenizer, loaded.context, long, loss)
        shape = example[0][2] or "text"
    else:
        (item,) = sequences.queries(query, loaded.tokenizer, loaded.context)
        shape = "messages" if query[0][3] else "text"
    windows = [
        [
            (loaded.tokenizer.decode([token]), label != -100)
            for token, label in zip(window, item.targets(i), strict=True)
        ]
        for i, window in enumerate(item.windows)
    ]
    return Seen("example" if example else "query", shape, item.status, windows)
