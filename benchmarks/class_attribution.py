"""Class attribution on a model trained here: does what influences an answer share the class of its question?

python -m benchmarks.class_attribution DATA [--lora] [--loss completion] [--steps 300] [--seed 0] [--workdir DIR]

DATA holds `train.jsonl` and `test.jsonl` (id, prompt, response, label), as released with "Do Influence Functions Work
on Large Language Models?" (arXiv 2409.19998). Trains a small Llama on the training set, prompts with their
responses as completions, encodes and scores it, and prints accuracy and cover of every method with 95% intervals over
the test set, beside the paper's matrices for Llama-2-7b-chat where DATA has them. What is trained and encoded is the
loss on the responses, as in the paper; with `--loss all` that on every token. With --lora it trains an adapter instead,
the paper's setting: its base has seen the same texts with the responses shuffled among them, so that what the task is
only the adapter knows.
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
import transformers

import attrstore
from attrstore.demo import train
from attrstore.demo.train import Marked, Progress, Training
from attrstore.evaluation.report import tabulate
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.representations import ingest_representations
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.files.scores import import_scores
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.model import causal, sequences
from attrstore.scoring import score
from attrstore.terminal import cell, print_table
from benchmarks.lds import CORRECTED, PLAIN, SCORINGS
from benchmarks.published_matrices import MATRICES

CUE = "\nAnswer:"  # between prompt and response, so that every prompt ends in the same token
# Those of the LDS benchmark, and the paper's best at unit length: a long gradient is everybody's proponent otherwise.
PROMPTS = "repsim, prompts"  # as in the paper: the last token of the prompt on both sides
METHODS = SCORINGS | {
    "datainf, norm block": ("datainf", {"encoder": PLAIN, "norm": "block"}),
    PROMPTS: ("repsim", {"encoder": PROMPTS}),
}
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
        """Read the two files of `data` and write corpus, queries and the shuffled corpus to `folder`."""
        sides = [
            [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]
            for name in ("train.jsonl", "test.jsonl")
        ]
        task = cls(folder, *sides)
        answers = [row["response"] for row in task.train]
        shuffled = random.Random(seed).sample(answers, len(answers))
        task._write("corpus", [example(row, row["response"]) for row in task.train])
        task._write("shuffled", [example(*pair) for pair in zip(task.train, shuffled, strict=True)])
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


def example(row: dict[str, str], response: str) -> dict[str, str]:
    """A training example."""
    return {
        "id": row["id"],
        "prompt": row["prompt"] + CUE,
        "completion": f" {response}",
        "label": row["label"],
    }


def question(row: dict[str, str]) -> dict[str, str]:
    """A query: the response is the target."""
    return {
        "id": row["id"], "prompt": row["prompt"] + CUE, "target": f" {row['response']}", "label": row["label"],
    }  # fmt: skip


# Training


def train_whole(task: Task, recipe: Training, loss: str, seed: int) -> Path:
    """Train every weight on the corpus."""
    return from_scratch(task, "corpus", recipe, loss, seed)


def train_adapter(task: Task, recipe: Training, loss: str, seed: int) -> Path:
    """Train a base on all of the shuffled corpus, freeze it, and train an adapter of it on the corpus."""
    import peft

    base, folder = from_scratch(task, "shuffled", recipe, "all", seed), task.folder / "adapter"
    loaded = causal.load(base, device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=RANK, lora_alpha=4 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        adapted = peft.get_peft_model(loaded.model, config)
    recipe = replace(recipe, learning_rate=1e-2, weight_decay=0.0)
    save(task, adapted, loaded.tokenizer, (task.file("corpus"), folder), recipe, loss, seed)
    return folder


def from_scratch(task: Task, corpus: str, recipe: Training, loss: str, seed: int) -> Path:
    """Make a tokenizer and a model, and train it."""
    rows = read(task.file(corpus))
    texts = [row["prompt"] + row["completion"] for row in rows]
    tokenizer = train.make_tokenizer(texts, recipe.vocabulary, recipe.context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(train.make_config(len(tokenizer), recipe))
    folder = task.folder / f"on {corpus}"
    tokenizer.save_pretrained(folder)
    save(task, model, tokenizer, (task.file(corpus), folder), recipe, loss, seed)
    return folder


def save(
    task: Task, model: Any, tokenizer: Any, files: tuple[Path, Path], recipe: Training, loss: str, seed: int
) -> None:
    """Train what is not frozen on the tokens and the loss that ingest makes of a corpus, and save all of it."""
    corpus, folder = files
    rows: Any = [(i, "", "completion", json.dumps(row)) for i, row in enumerate(read(corpus))]
    encoded = [
        Marked(item.windows[0], [False, *item.marks[0][1:]].index(True) if item.marks else 0)
        for item in sequences.examples(rows, tokenizer, recipe.context, "truncate", loss)
    ]
    optimizer, _ = train.tune(
        model, encoded, recipe, seed=seed, asked=tokens(tokenizer, task.test), report=say
    )
    model.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")


def read(file: Path) -> Rows:
    """Read jsonl."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


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


def ingest(store: attrstore.Store, task: Task, model: Path, projection_dim: int, loss: str) -> None:
    """Read the files and encode the corpus twice, without and with the optimizer's state."""
    ingest_corpus(store, [task.file("corpus")])
    ingest_queries(store, [task.file("queries")])
    ingest_lexical(store)
    ingest_representations(store, model=model)
    ingest_representations(store, model=model, pooling="prompt", name=PROMPTS)
    for name, state in ((PLAIN, "none"), (CORRECTED, model / "optimizer.pt")):
        ingest_gradients(
            store,
            model=model,
            optimizer_state=state,
            projection_dim=projection_dim,
            name=name,
            code="int8",
            loss=loss,
        )


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
    parser.add_argument("--loss", choices=("completion", "all"), default="completion")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--dim", type=int, default=RECIPE.dim)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path)
    given = parser.parse_args(arguments)
    recipe = replace(RECIPE, steps=given.steps, dim=given.dim)
    with tempfile.TemporaryDirectory(dir=given.workdir) as folder, train.one_thread():
        task = Task.read(given.data, Path(folder), given.seed)
        model = (train_adapter if given.lora else train_whole)(task, recipe, given.loss, given.seed)
        with attrstore.open(task.folder / "store.duckdb", create=True) as store:
            # No side of a layer is wider than 3 dim: an adapter's gradients are exact.
            ingest(store, task, model, 3 * recipe.dim if given.lora else 16, given.loss)
            rows = attribute(store, given.data, task.depth)
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
