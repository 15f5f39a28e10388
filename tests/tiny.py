"""Tiny models, tokenizers and corpora, built on the spot and seeded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["<unk>", "<pad>", *"abcdefghijklmnopqrstuvwxyz", "north", "south", "river", "stone"]
COMMON = {"vocab_size": 40, "use_cache": False}
ARCHITECTURES: dict[str, Any] = {
    "llama": transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, **COMMON,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, **COMMON,
    ),
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **COMMON),
    "qwen2": transformers.Qwen2Config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, **COMMON,
    ),
}  # fmt: skip


def model(architecture: str = "llama", seed: int = 0) -> Any:
    """A model of random weights, larger than usual so that gradients are not all alike."""
    torch.manual_seed(seed)
    made = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[architecture])
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.2)
    return made.eval()


def tokenizer() -> Any:
    """Words to ids, split at spaces; unknown words are <unk>."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


def checkpoint(folder: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """Save a model and its tokenizer as a Hugging Face checkpoint."""
    model(architecture, seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def adam_state(folder: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """Take two AdamW steps on random tokens and save the optimizer's state."""
    trained = model(architecture, seed).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        tokens = torch.randint(2, 28, (4, 9), generator=generator)
        trained(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return folder / "optimizer.pt"


def checkpoint_and_state(folder: Path) -> Path:
    """A checkpoint with an optimizer's state as adam.pt: not found beside the model, but given."""
    checkpoint(folder)
    adam_state(folder).rename(folder / "adam.pt")
    return folder


def sentences(n: int, seed: int = 0, longest: int = 12) -> list[str]:
    """Return n texts of two to `longest` words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (n,), generator=generator)
    return [
        " ".join(WORDS[i] for i in torch.randint(2, len(WORDS), (int(length),), generator=generator))
        for length in lengths
    ]


def fill(
    store: Any, texts: list[str], queries: list[tuple[str, str]], labels: Sequence[tuple[int, int]] = ()
) -> None:
    """Write examples e-0, e-1, ... and queries q-0, ... straight into the tables; ids go on from what is there."""
    start = store.value("SELECT count(*) FROM examples")
    with store.transaction():
        for i, text in enumerate(texts, start=start):
            store.execute(
                "INSERT INTO examples VALUES ($i, $id, $text, NULL, NULL, md5_number($text))",
                {"i": i, "id": f"e-{i}", "text": text},
            )
        for i, (prompt, target) in enumerate(queries):
            store.execute(
                "INSERT INTO queries VALUES ($i, $id, $p, $t, NULL, md5_number($p || chr(31) || $t))",
                {"i": i, "id": f"q-{i}", "p": prompt, "t": target},
            )
        for query, example in labels:
            store.execute("INSERT INTO labels VALUES ($q, $e, 1, NULL)", {"q": query, "e": example})
