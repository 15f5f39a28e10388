"""What a model says after a prompt: its greedy continuation, and the probability of a target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attrstore.ingest.model import sequences
from attrstore.ingest.model.logprobs import target_logprobs

if TYPE_CHECKING:
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.sequences import Item

ENDS = (".", "!", "?", "\n")
LEAST = 4  # tokens: of a shorter target too, so that the words can be read


@dataclass(frozen=True)
class Said:
    """A greedy continuation."""

    text: str
    probability: float  # of all its tokens, one after the other
    is_target: bool  # whether it begins with the tokens of the target


@torch.no_grad()
def continuation(loaded: LoadedModel, query: Item) -> Said:
    """Continue a query's prompt by the most probable token each time, for as many tokens as its target has."""
    window, first = query.windows[0], query.first_target
    tokens, target = list(window[:first]), list(window[first:])
    ends = _ends(loaded)
    said: list[int] = []
    logprob = 0.0
    for _ in range(max(LEAST, len(target))):
        ids = torch.tensor([(tokens + said)[-loaded.context :]], device=loaded.device)
        logprobs = loaded.model(input_ids=ids, use_cache=False).logits[0, -1].double().log_softmax(dim=0)
        token = int(logprobs.argmax())
        if token in ends:
            break
        said.append(token)
        logprob += float(logprobs[token])
    return Said(_text(loaded, tokens, said), math.exp(logprob), said[: len(target)] == target)


@torch.no_grad()
def sentence(loaded: LoadedModel, prompt: str, most: int = 12) -> str:
    """Return the most probable next tokens, to before the end of the sentence or the text, at most `most` of them.

    The text comes with its leading space; it is empty where the model ends at once.
    """
    frame = sequences.frame(loaded.tokenizer)
    start = frame.opening + loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ends = _ends(loaded)
    said: list[int] = []
    for _ in range(most):
        ids = torch.tensor([(start + said)[-loaded.context :]], device=loaded.device)
        token = int(loaded.model(input_ids=ids, use_cache=False).logits[0, -1].argmax())
        piece = loaded.tokenizer.decode([token])
        if token in ends or piece.strip(" ").startswith(ENDS):
            break
        said.append(token)
        if any(end in piece for end in ENDS):
            break
    return _text(loaded, start, said)


def probability(loaded: LoadedModel, prompt: str, target: str) -> float:
    """Return the probability of a target after a prompt; 0 where it has no tokens or does not fit."""
    (item,) = sequences.queries([(0, prompt, target)], loaded.tokenizer, loaded.context)
    if not item.windows:
        return 0.0
    (batch,) = sequences.batches([item], loaded.context)
    return math.exp(float(target_logprobs(loaded.model, batch, split=False)[0]))


def _ends(loaded: LoadedModel) -> set[int | None]:
    """The tokens with which the model ends a text."""
    return {loaded.tokenizer.eos_token_id, getattr(loaded.model.config, "eos_token_id", None)}


def _text(loaded: LoadedModel, prompt: list[int], said: list[int]) -> str:
    """Decode what was said as it stands after the prompt: alone, many tokenizers drop its leading space."""
    before: str = loaded.tokenizer.decode(prompt)
    whole: str = loaded.tokenizer.decode(prompt + said)
    return whole.removeprefix(before) if whole.startswith(before) else str(loaded.tokenizer.decode(said))
