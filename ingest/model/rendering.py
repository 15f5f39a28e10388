"""What a model saw of an example or a query, and which of its tokens carry loss: a text, a chat, a completion, tokens.

The shapes and their tokens are those of TRL's SFTTrainer: https://huggingface.co/docs/trl/dataset_formats.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from attrstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from transformers import PreTrainedTokenizerBase

    from attrstore.store import Store

LOSSES = ("auto", "all", "completion", "assistant")
_MARKS = re.compile(r"\{%-?\s*generation\b")
_WITHOUT_MARKS = (
    "the model's chat template does not mark what the assistant says ({% generation %}), so it cannot be known which "
    "tokens carry loss. Use loss all, or save the tokenizer with a template that has the marks."
)


class Rendered(NamedTuple):
    """The tokens of one example, and whether the loss of each counts. The first never does: nothing predicts it."""

    tokens: list[int]
    loss: list[bool]


@dataclass(frozen=True)
class Rendering:
    """How originals become tokens.

    Args:
        tokenizer: of the model, with its chat template.
        loss: which tokens carry loss. `auto`: all of a text, the completion after a prompt, what the assistant says
            in a chat, and of tokens those whose labels or loss_mask say so. `all`; `completion`, what follows the
            prompt or is the chat's last turn; `assistant`, what the chat template marks as generated.
    """

    tokenizer: PreTrainedTokenizerBase
    loss: str = "auto"

    def example(self, shape: str, original: Mapping[str, Any]) -> Rendered | str:
        """Render an example that is no text; a sentence where no token of it carries loss.

        Raises `InputError` where the chat template is missing, or does not say what the assistant's tokens are.
        """
        rendered = self._of(shape, original)
        if isinstance(rendered, str) or any(rendered.loss[1:]):
            return rendered
        return f"no token carries loss ({self.loss})"

    def _of(self, shape: str, original: Mapping[str, Any]) -> Rendered | str:
        if shape == "tokens":
            return self._tokens(original)
        if shape == "completion":
            return self._completion(original["prompt"], original["completion"])
        if shape == "chat completion" and self.loss in ("auto", "completion"):
            return self._after(original["prompt"], original["prompt"] + original["completion"])
        turns = original["messages"] if shape == "messages" else original["prompt"] + original["completion"]
        if self.loss == "completion":
            return self._after(turns[:-1], turns)
        return self._chat(turns)

    def target(self, turns: Sequence[dict[str, str]]) -> Rendered:
        """Render a query's chat: the last turn's tokens, with what the template ends it with, are the target."""
        return self._after(turns[:-1], turns)

    def _tokens(self, original: Mapping[str, Any]) -> Rendered | str:
        tokens: list[int] = original["input_ids"]
        if tokens and max(tokens) >= len(self.tokenizer):
            return f"token {max(tokens)} is not one of the tokenizer's {len(self.tokenizer)}"
        if self.loss in ("completion", "assistant") and not original.keys() & {"labels", "loss_mask"}:
            return f"tokens without labels have no {self.loss}"
        marks = [True] * len(tokens)
        if self.loss != "all" and "loss_mask" in original:
            marks = [bool(mark) for mark in original["loss_mask"]]
        elif self.loss != "all" and "labels" in original:
            marks = [label != -100 for label in original["labels"]]
        return Rendered(tokens, marks)

    def _completion(self, prompt: str, completion: str) -> Rendered | str:
        if self.loss == "assistant":
            return "a completion is no chat, so no assistant speaks in it"
        end = self.tokenizer.eos_token
        if end is not None and not completion.endswith(end):
            completion += end  # as SFTTrainer does: the model learns to stop
        before = self.tokenizer(prompt, verbose=False)["input_ids"]
        tokens = self.tokenizer(prompt + completion, verbose=False)["input_ids"]
        if self.loss == "all":
            return Rendered(tokens, [True] * len(tokens))
        return _marked_from(_common(before, tokens), tokens)

    def _chat(self, turns: Sequence[dict[str, str]]) -> Rendered:
        if self.loss == "all":
            tokens = self._apply(turns)["input_ids"]
            return Rendered(tokens, [True] * len(tokens))
        if not _MARKS.search(self._template()):
            raise InputError(_WITHOUT_MARKS)
        found = self._apply(turns, return_assistant_tokens_mask=True)
        return Rendered(found["input_ids"], [bool(mark) for mark in found["assistant_masks"]])

    def _after(self, before: Sequence[dict[str, str]], turns: Sequence[dict[str, str]]) -> Rendered:
        """Mark what follows some turns; where the template renders them otherwise alone, from where both part."""
        prompt = self._apply(before, add_generation_prompt=True)["input_ids"]
        tokens = self._apply(turns)["input_ids"]
        return _marked_from(_common(prompt, tokens), tokens)

    def _apply(self, turns: Sequence[dict[str, str]], **options: bool) -> dict[str, list[int]]:
        self._template()
        try:
            rendered: dict[str, list[int]] = self.tokenizer.apply_chat_template(
                turns, tokenize=True, return_dict=True, **options
            )
        except Exception as error:  # a template is a program of its own, and raises what it likes
            roles = ", ".join(turn["role"] for turn in turns)
            raise InputError(f"the chat template refuses turns of {roles}: {error}") from error
        return rendered

    def _template(self) -> str:
        template = self.tokenizer.chat_template
        if template is None:
            raise InputError(
                "there are chats, and the model's tokenizer has no chat template. Save the tokenizer with the "
                "template that the model was trained with (tokenizer.chat_template)."
            )
        return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def chat_template(store: Store, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the part of a spec that says which chat template rendered: its hash; nothing for a store without chats."""
    if tokenizer.chat_template is None or not store.named("encodings", "has_chats").fetchall()[0][0]:
        return {}
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    return {"chat_template": hashlib.sha256(template.encode()).hexdigest()[:16]}


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of what two sequences begin with together."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _marked_from(start: int, tokens: list[int]) -> Rendered:
    return Rendered(tokens, [i >= start for i in range(len(tokens))])
