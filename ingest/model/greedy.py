"""What a model says after a prompt when it always takes the likeliest token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from attrstore.ingest.model.causal import LoadedModel

ENDS = (".", "!", "?", "\n")


def continuation(loaded: LoadedModel, prompt: str, most: int = 12) -> str:
    """Return the likeliest next tokens, to before the end of the sentence or the text, at most `most` of them.

    The text comes with its leading space; it is empty where the model ends at once.
    """
    tokenizer = loaded.tokenizer
    start = tokenizer(prompt)["input_ids"]
    if len(start) > 1 and start[-1] == tokenizer.eos_token_id:  # a tokenizer that ends every text
        start = start[:-1]
    said: list[int] = []
    with torch.no_grad():
        for _ in range(most):
            window = torch.tensor([(start + said)[-loaded.context :]], device=loaded.device)
            token = int(loaded.model(window).logits[0, -1].argmax())
            piece = tokenizer.decode([token])
            if token == tokenizer.eos_token_id or piece.strip(" ").startswith(ENDS):
                break
            said.append(token)
            if any(end in piece for end in ENDS):
                break
    # Decoded behind the prompt, whose last token may decide whether a space stands between.
    return str(tokenizer.decode(start + said)[len(tokenizer.decode(start)) :])
