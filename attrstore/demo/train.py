"""Train a small language model on the demo's corpus and save it with its optimizer state."""

from __future__ import annotations

import json
import math
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import nn

END_OF_TEXT = "<|endoftext|>"
CONTEXT = 64  # tokens; the longest sentence has about 40
IGNORED = -100  # the label that the loss leaves out


@dataclass(frozen=True)
class Training:
    """Everything that changes the trained model, beside the corpus and the seed."""

    steps: int = 1200
    batch: int = 64  # sentences a step
    dim: int = 128
    layers: int = 4
    vocabulary: int = 1600
    context: int = CONTEXT  # tokens
    learning_rate: float = 3e-3
    weight_decay: float = 0.5
    report_every: int = 100


@dataclass(frozen=True)
class Progress:
    """Where the training stands. `recall` is the share of prompts answered exactly, by greedy choice."""

    step: int
    steps: int
    loss: float  # nats a token, mean since the last report
    recall: float
    seconds: float


class Marked(NamedTuple):
    """A sequence of which only what follows its prompt is learned."""

    tokens: list[int]
    prompt: int  # tokens whose loss does not count


def train(
    corpus: Path,
    queries: Path,
    folder: Path,
    *,
    seed: int = 0,
    recipe: Training | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train on the texts of `corpus`, save model, tokenizer and `optimizer.pt` in `folder`.

    The loss is the next-token loss of the plain text, every token but the first: what a gradient
    ingest of the same corpus differentiates.
    """
    recipe = recipe or Training()
    texts = [row["text"] for row in _rows(corpus)]
    prompts = [(row["prompt"], row["target"]) for row in _rows(queries)]
    tokenizer = make_tokenizer(texts, recipe.vocabulary, recipe.context)
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    asked = [(tokenizer(p)["input_ids"], tokenizer(t)["input_ids"]) for p, t in prompts]
    config = make_config(len(tokenizer), recipe)
    model, optimizer, last = fit(config, encoded, recipe, seed=seed, asked=asked, report=report)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return last


def fit(
    config: LlamaConfig,
    encoded: list[list[int]],
    recipe: Training,
    *,
    seed: int,
    asked: Sequence[tuple[list[int], list[int]]] = (),
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[LlamaForCausalLM, torch.optim.Optimizer, Progress]:
    """Train a new model of `config` on token sequences; the seed decides its first weights and the order."""
    with one_thread():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        optimizer, last = tune(model, encoded, recipe, seed=seed, asked=asked, report=report)
    return model, optimizer, last


def tune(
    model: nn.Module,
    encoded: Sequence[list[int] | Marked],
    recipe: Training,
    *,
    seed: int,
    asked: Sequence[tuple[list[int], list[int]]] = (),
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[torch.optim.Optimizer, Progress]:
    """Train what is not frozen in `model`; the seed decides the order of the sequences."""
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    return optimizer, _fit(model, optimizer, encoded, asked, recipe, seed, report)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside the block.

    For a model this small more threads gain little, stall on a busy machine, and change the order of sums,
    so that the same seed would give another model on another number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_tokenizer(texts: Sequence[str], vocabulary: int, context: int = CONTEXT) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `texts`; any other text can be written with it too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, model_max_length=context
    )


def make_config(vocabulary: int, recipe: Training) -> LlamaConfig:
    """A Llama of the recipe's size."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.dim,
        intermediate_size=3 * recipe.dim,
        num_hidden_layers=recipe.layers,
        num_attention_heads=max(1, recipe.dim // 32),
        max_position_embeddings=recipe.context,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def recall(model: LlamaForCausalLM, asked: Sequence[tuple[list[int], list[int]]]) -> float:
    """The share of prompts whose whole target is the model's greedy continuation; NaN where none is asked."""
    if not asked:
        return math.nan
    exact = 0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(asked), 256):
            rows = asked[start : start + 256]
            ids, _ = _padded([Marked(prompt + target, 0) for prompt, target in rows])
            best = model(input_ids=ids).logits.argmax(-1)  # (rows, tokens)
            for row, (prompt, target) in enumerate(rows):
                first = len(prompt) - 1
                exact += best[row, first : first + len(target)].tolist() == target
    model.train()
    return exact / len(asked)


def _fit(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    encoded: Sequence[list[int] | Marked],
    asked: Sequence[tuple[list[int], list[int]]],
    recipe: Training,
    seed: int,
    report: Callable[[Progress], None],
) -> Progress:
    """Take the recipe's steps: warm-up, then a cosine down to a twentieth of the learning rate."""
    began, total, count = time.perf_counter(), 0.0, 0
    model.train()
    rows = [row if isinstance(row, Marked) else Marked(row, 0) for row in encoded]
    batches = _batches(rows, recipe.batch, seed)
    for step in range(1, recipe.steps + 1):
        ids, labels = _padded(next(batches))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total, count = total + float(loss.detach()), count + 1
        if step % recipe.report_every == 0 or step == recipe.steps:
            seconds = time.perf_counter() - began
            now = Progress(step, recipe.steps, total / count, recall(model, asked), seconds)
            report(now)
            total, count = 0.0, 0
    return now


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step <= warm:
        return step / warm
    return 0.05 + 0.475 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batches(encoded: Sequence[Marked], size: int, seed: int) -> Iterator[list[Marked]]:
    """The sequences of each step, in a new order every epoch, without end.

    Sequences of a like length share a batch: half of the tokens would be padding otherwise.
    """
    rng = random.Random(seed)
    while True:
        order = list(encoded)
        rng.shuffle(order)
        batches = []
        for start in range(0, len(order), 8 * size):
            pool = sorted(order[start : start + 8 * size], key=lambda row: len(row.tokens))
            batches += [pool[first : first + size] for first in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches


def _padded(rows: Sequence[Marked]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, (rows, longest). Padding stands on the right, where causal attention hides it."""
    longest = max(len(tokens) for tokens, _ in rows)
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in rows])
    labels = torch.tensor([
        [IGNORED] * prompt + tokens[prompt:] + [IGNORED] * (longest - len(tokens)) for tokens, prompt in rows
    ])  # fmt: skip
    return ids, labels


def _rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
