"""A tiny tokenizer with a chat template, with and without marks of what the assistant generates."""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from tests import tiny

SPECIAL = ["<|user|>", "<|assistant|>", "<|end|>", "</s>"]
_OPEN = "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|> ' }}"
_CLOSE = (
    "{% else %}{{ '<|user|> ' + m['content'] + ' <|end|> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
# The space stands after the marks: transformers finds a block's last token by its last character.
MARKED = _OPEN + "{% generation %}{{ m['content'] + ' <|end|>' }}{% endgeneration %}{{ ' ' }}" + _CLOSE
PLAIN = _OPEN + "{{ m['content'] + ' <|end|> ' }}" + _CLOSE


def tokenizer(template: str | None = MARKED) -> Any:
    """`tiny`'s words and four special tokens, which make its vocabulary as large as its models'."""
    words = [*tiny.WORDS, *SPECIAL]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>",
        additional_special_tokens=SPECIAL[:3], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = template
    return made


def turns(*contents: str) -> list[dict[str, str]]:
    """A chat of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
