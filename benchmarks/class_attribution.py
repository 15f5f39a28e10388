"""Class attribution on a model trained here: does what influences an answer share the class of its question?

python -m benchmarks.class_attribution DATA [--lora] [--steps 300] [--seed 0] [--workdir DIR]

DATA holds `train.jsonl` and `test.jsonl` (id, prompt, response, label), as released with "Do Influence Functions Work
on Large Language Models?" (arXiv 2409.19998). Trains a small Llama on the training set, encodes and scores it, and
prints accuracy and cover of every method with 95% intervals over the test set, beside the paper's matrices for
Llama-2-7b-chat where DATA has them. With --lora it trains an adapter instead, the paper's setting: its base has seen
the same texts with the responses shuffled among them, so that what the task is only the adapter knows.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import attrstore
from attrstore.demo import train
from attrstore.demo.train import Progress, Training
from attrstore.evaluation.report import tabulate
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.representations import ingest_representations
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.files.scores import import_scores
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.model import causal
from attrstore.scoring import score
from attrstore.terminal import cell, print_table
from benchmarks.lds import CORRECTED, PLAIN, SCORINGS
from benchmarks.published_matrices import MATRICES

CUE = "\nAnswer:"  # between prompt and response, so that every prompt ends in the same token
# Those of the LDS benchmark, and the paper's best at unit length: a long gradient is everybody's proponent otherwise.
METHODS = SCORINGS | {"datainf, norm block": ("datainf", {"encoder": PLAIN, "norm": "block"})}
PROMPTS = "repsim, prompts"  # as in the paper: the last token of the prompt on both sides
PUBLISHED = "Llama-2-7b, {}"
RECIPE = Training(steps=300, batch=32, vocabulary=1000, context=128, report_every=50)
RANK = (
    4  # the paper's; on every linear map, since a model so small learns little from q_proj and v_proj alone
)

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Task:
    """The data, and the files that are made of it."""

    folder: Path
    train: Rows
    test: Rows

    @classmethod
    def read(cls, data: Path, folder: Path, seed: int) -> Task:
        """Read the two files of `data` and write corpus, queries, prompts and the shuffled corpus to `folder`."""
        sides = [
            [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]
            for name in ("train.jsonl", "test.jsonl")
        ]
        task = cls(folder, *sides)
        answers = [row["response"] for row in task.train]
        shuffled = random.Random(seed).sample(answers, len(answers))
        task._write("corpus", [text(row, row["response"]) for row in task.train])
        task._write("shuffled", [text(*pair) for pair in zip(task.train, shuffled, strict=True)])
        task._write("prompts", [text(row, None) for row in task.train])
        task._write("queries", [question(row) for row in task.test])
        return task

    def _write(self, name: str, rows: Rows) -> None:
        lines = [json.dumps(row) + "\n" for row in rows]
        self.file(name).write_text("".join(lines), encoding="utf-8")

    def file(self, name: str) -> Path:
        """Of what is called so."""
        return self.folder / f"{name}.jsonl"

    @property
    def classes(self) -> int:
        """How many there are."""
        return len({row["label"] for row in self.train})

    @property
    def depth(self) -> int:
        """How many proponents cover looks at."""
        return len(self.train) // self.classes


def text(row: dict[str, str], response: str | None) -> dict[str, str]:
    """A training example: prompt and response, or the prompt alone."""
    answer = "" if response is None else f" {response}"
    return {"id": row["id"], "text": row["prompt"] + CUE + answer, "label": row["label"]}


def question(row: dict[str, str]) -> dict[str, str]:
    """A query: the response is the target."""
    return {
        "id": row["id"], "prompt": row["prompt"] + CUE, "target": f" {row['response']}", "label": row["label"],
    }  # fmt: skip


# Training


def train_whole(task: Task, recipe: Training, seed: int) -> Path:
    """Train every weight on the corpus."""
    model = task.folder / "model"
    train.train(task.file("corpus"), task.file("queries"), model, seed=seed, recipe=recipe, report=say)
    return model


def train_adapter(task: Task, recipe: Training, seed: int) -> Path:
    """Train a base on the shuffled corpus, freeze it, and train an adapter of it on the corpus."""
    import peft

    base, folder = task.folder / "base", task.folder / "adapter"
    train.train(task.file("shuffled"), task.file("queries"), base, seed=seed, recipe=recipe, report=say)
    loaded = causal.load(base, device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=RANK, lora_alpha=4 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        adapted = peft.get_peft_model(loaded.model, config)
    encoded = [loaded.tokenizer(text(row, row["response"])["text"])["input_ids"] for row in task.train]
    asked = tokens(loaded.tokenizer, task.test)
    recipe = replace(recipe, learning_rate=1e-2, weight_decay=0.0)
    optimizer, _ = train.tune(adapted, encoded, recipe, seed=seed, asked=asked, report=say)
    adapted.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return folder


def tokens(tokenizer: Any, rows: Rows) -> list[tuple[list[int], list[int]]]:
    """Prompt and target of each row."""
    asked = [question(row) for row in rows]
    return [(tokenizer(q["prompt"])["input_ids"], tokenizer(q["target"])["input_ids"]) for q in asked]


def say(now: Progress) -> None:
    """Print where a training stands."""
    print(
        f"  {now.seconds:5.0f} s  step {now.step}, loss {now.loss:.3f}, test right {now.recall:.0%}",
        flush=True,
    )


# Attribution


def ingest(store: attrstore.Store, task: Task, model: Path, projection_dim: int) -> None:
    """Read the files and encode the corpus twice, without and with the optimizer's state."""
    ingest_corpus(store, [task.file("corpus")])
    ingest_queries(store, [task.file("queries")])
    ingest_lexical(store)
    ingest_representations(store, model=model)
    for name, state in ((PLAIN, "none"), (CORRECTED, model / "optimizer.pt")):
        ingest_gradients(store, model=model, optimizer_state=state, projection_dim=projection_dim, name=name)


def attribute(store: attrstore.Store, data: Path, top_k: int) -> list[tuple[Any, ...]]:
    """Score by every method, read the published matrices, and return the rows of the report."""
    for name, (method, options) in METHODS.items():
        began = time.perf_counter()
        score(store, method, name=name, top_k=top_k, **options)
        print(f"  {time.perf_counter() - began:5.1f} s  score {name}", flush=True)
    for file, (name, _, _) in MATRICES.items():
        if (data / file).is_file():
            import_scores(
                store, data / file, name=PUBLISHED.format(name), lower_is_stronger=True, top_k=top_k
            )
    return measured(store)


def by_prompts(task: Task, model: Path) -> list[tuple[Any, ...]]:
    """RepSim over a store whose corpus is the prompts alone; the rows of its report."""
    with attrstore.open(task.folder / "prompts.duckdb", create=True) as store:
        ingest_corpus(store, [task.file("prompts")])
        ingest_queries(store, [task.file("queries")])
        ingest_representations(store, model=model)
        score(store, "repsim", name=PROMPTS, top_k=task.depth)
        return measured(store)


def measured(store: attrstore.Store) -> list[tuple[Any, ...]]:
    """(name, metric, mean, low, high) of every scoring."""
    found = tabulate(store, class_column="label", intervals=True)
    if found.notes:
        raise SystemExit("\n".join(found.notes))
    return [tuple(row[c] for c in ("name", "metric", "mean", "low", "high")) for row in found.records()]


def print_model(store: attrstore.Store, task: Task, model: Path) -> None:
    """What the model has learned: a table about one that learned nothing would mean nothing."""
    loaded = causal.load(model, device="cpu")
    right = {
        side: train.recall(loaded.model, tokens(loaded.tokenizer, rows))
        for side, rows in (("train", task.train), ("test", task.test))
    }
    loss = store.value(
        "SELECT favg(loss) FROM query_encodings "
        "SEMI JOIN (SELECT encoder_id FROM encoders WHERE name = $name) USING (encoder_id)",
        {"name": PLAIN},
    )
    print(
        f"\nThe model answers {right['train']:.1%} of {len(task.train)} training and {right['test']:.1%} of "
        f"{len(task.test)} test prompts exactly; loss of a test response {loss:.3f} nats."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, encode, score and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--dim", type=int, default=RECIPE.dim)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path)
    given = parser.parse_args(arguments)
    recipe = replace(RECIPE, steps=given.steps, dim=given.dim)
    with tempfile.TemporaryDirectory(dir=given.workdir) as folder, train.one_thread():
        task = Task.read(given.data, Path(folder), given.seed)
        model = (train_adapter if given.lora else train_whole)(task, recipe, given.seed)
        with attrstore.open(task.folder / "store.duckdb", create=True) as store:
            # No side of a layer is wider than 3 dim: an adapter's gradients are exact.
            ingest(store, task, model, projection_dim=3 * recipe.dim if given.lora else 16)
            rows = attribute(store, given.data, task.depth) + by_prompts(task, model)
            print_model(store, task, model)
    rows.sort(key=lambda row: (row[1], -row[2], row[0]))
    measured: dict[str, dict[str, str]] = {}
    for name, metric, mean, low, high in rows:
        measured.setdefault(name, {})[metric] = f"{cell(mean)} [{cell(low)}, {cell(high)}]"
    print_table(
        ("name", "accuracy", "cover"), [(name, m["accuracy"], m["cover"]) for name, m in measured.items()]
    )
    print(f"chance: accuracy and cover {1 / task.classes:.3f}; cover of the first {task.depth} proponents")


if __name__ == "__main__":
    main()
