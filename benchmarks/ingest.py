"""Time gradient ingest against a plain forward and backward pass and against bergson, all in turn in each round.

python -m benchmarks.ingest DATA [--rounds 3] [--dtype float32] [--limit N] [--bergson-python PYTHON]

DATA is a folder with corpus.jsonl, queries.jsonl, labels.jsonl and model/ (with optimizer.pt). The plain pass is
the model's own forward with a summed cross-entropy and a backward to the embeddings, weights frozen, over the same
batches. PYTHON, or ATTRSTORE_BERGSON_PYTHON in the environment, is a Python that has bergson: `bergson build` and its
whole TrackStar recipe are timed as `benchmarks/bergson_trackstar.py` runs them. Exits 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import attrstore
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.model import causal, sequences
from attrstore.scoring import score
from attrstore.vectors.devices import choose_device
from benchmarks.rows import Row, conclude

TIMES_PLAIN = {"cpu": 1.15, "cuda": 1.25}  # the goals
SHARE_OF_BERGSON = 1 / 3
Times = dict[str, list[float]]  # seconds of each step, of each round


def plain(model: Any, batches: list[sequences.Batch]) -> float:
    """Seconds of a forward and backward pass over the batches with frozen weights."""
    start = time.perf_counter()
    device = next(model.parameters()).device
    for batch in batches:
        tokens, targets = batch.tokens.to(device), batch.targets.to(device)
        with torch.enable_grad():
            embedded = model.get_input_embeddings()(tokens).detach().requires_grad_()
            logits = model(inputs_embeds=embedded, use_cache=False).logits[:, :-1]
            loss = functional.cross_entropy(
                logits.flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            )
            loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def whole(data: Path, store: Path, options: dict[str, Any]) -> dict[str, float]:
    """Seconds of each step from files to TrackStar scores, in a fresh store."""
    seconds = {}
    with attrstore.open(store, create=True) as opened:
        start = time.perf_counter()
        ingest_corpus(opened, [data / "corpus.jsonl"])
        ingest_queries(opened, [data / "queries.jsonl"])
        ingest_labels(opened, [data / "labels.jsonl"])
        seconds["files"] = time.perf_counter() - start
        start = time.perf_counter()
        ingest_gradients(
            opened, model=data / "model", optimizer_state=data / "model" / "optimizer.pt", **options
        )
        seconds["gradients"] = time.perf_counter() - start
        start = time.perf_counter()
        score(opened, "trackstar-block")
        seconds["curvature and scores"] = time.perf_counter() - start
    return seconds


def imports() -> float:
    """Seconds of starting Python with everything that an ingest imports, which the peer's time has too."""
    start = time.perf_counter()
    program = "import torch, attrstore.ingest.encode.gradients; from transformers import AutoModelForCausalLM"
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def bergson(python: str, data: Path, workdir: Path, projection_dim: int) -> dict[str, float]:
    """Seconds of the peer's encoding of the corpus and of its whole recipe, with what it starts."""
    script = Path(__file__).with_name("bergson_trackstar.py")
    words = [python, str(script), str(data), "--workdir", str(workdir), "--build"]
    words += ["--projection-dim", str(projection_dim)]
    ran = subprocess.run(words, capture_output=True, text=True)
    found = dict(re.findall(r"^(build|total)\s+([\d.]+)$", ran.stdout, flags=re.MULTILINE))
    if ran.returncode or set(found) != {"build", "total"}:
        raise RuntimeError(
            f"{script.name} ended with {ran.returncode}: {(ran.stderr or ran.stdout).strip()[-300:]}"
        )
    return {"bergson build": float(found["build"]), "bergson": float(found["total"])}


def first(data: Path, folder: Path, limit: int) -> Path:
    """Copy the first examples, an eighth as many queries, and the labels between them."""
    kept: dict[str, set[str]] = {}
    for file, n in (("corpus.jsonl", limit), ("queries.jsonl", max(1, limit // 8))):
        lines = (data / file).read_text(encoding="utf-8").splitlines(keepends=True)[:n]
        kept[file] = {json.loads(line)["id"] for line in lines}
        (folder / file).write_text("".join(lines), encoding="utf-8")
    with (data / "labels.jsonl").open(encoding="utf-8") as stream:
        labels = [
            line
            for line in stream
            if json.loads(line)["example_id"] in kept["corpus.jsonl"]
            and json.loads(line)["query_id"] in kept["queries.jsonl"]
        ]
    (folder / "labels.jsonl").write_text("".join(labels), encoding="utf-8")
    (folder / "model").symlink_to((data / "model").resolve())
    return folder


def batches(data: Path, loaded: causal.LoadedModel, batch_tokens: int) -> list[sequences.Batch]:
    """Return the batches that an ingest makes of the corpus and of the queries."""
    read = []
    for file, columns in (("corpus.jsonl", ("text",)), ("queries.jsonl", ("prompt", "target"))):
        with (data / file).open(encoding="utf-8") as stream:
            read.append([tuple(json.loads(line)[c] for c in columns) for line in stream])
    texts = [(i, text) for i, (text,) in enumerate(read[0])]
    prompts = [(i, *row) for i, row in enumerate(read[1])]
    items = sequences.examples(texts, loaded.tokenizer, loaded.context, "truncate")
    made = list(sequences.batches(items, batch_tokens))
    asked = sequences.queries(prompts, loaded.tokenizer, loaded.context)
    return made + list(sequences.batches(asked, batch_tokens))


def measure(data: Path, folder: Path, rounds: int, python: str | None, options: dict[str, Any]) -> Times:
    """Time everything in turn; `options` are those of `ingest_gradients`."""
    loaded = causal.load(data / "model", device=options["device"], dtype=options["dtype"])
    made = batches(data, loaded, options["batch_tokens"])
    plain(loaded.model, made[:3])  # warm up
    times: Times = {}
    for number in range(rounds):
        measured = {"plain": plain(loaded.model, made)}
        measured |= whole(data, folder / f"{number}.duckdb", options)
        if python:
            measured["start"] = imports()
            measured |= bergson(python, data, folder / "bergson", options["projection_dim"])
        for name, value in measured.items():
            times.setdefault(name, []).append(value)
        text = ", ".join(f"{name} {value:.1f} s" for name, value in measured.items())
        print(f"round {number + 1}: {text}", file=sys.stderr, flush=True)
    return times


def text(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})"


def compared(goal: str, times: Times, own: tuple[str, ...], other: str, bound: float) -> Row:
    """Hold the sum of some steps against another step, round by round."""
    if other not in times:
        return Row(
            goal,
            "left out",
            "not installed: ATTRSTORE_BERGSON_PYTHON names no Python with bergson",
            None,
            None,
        )
    sums = [sum(values) for values in zip(*(times[step] for step in own), strict=True)]
    ratios = [a / b for a, b in zip(sums, times[other], strict=True)]
    ratio = statistics.median(ratios)
    measured = f"{text(sums)}, ratios {min(ratios):.2f} to {max(ratios):.2f}"
    return Row(goal, measured, f"{text(times[other])}", ratio, ratio <= bound, bound)


def rows(
    data: Path,
    rounds: int = 3,
    dtype: str = "float32",
    device: str = "auto",
    batch_tokens: int = 4096,
    projection_dim: int = 16,
    code: str = "int8",
    limit: int | None = None,
    bergson_python: str | None = None,
    with_bergson: bool = True,
) -> list[Row]:
    """Measure, and hold the times against the goals; those beside bergson can be left out."""
    options = {
        "dtype": dtype, "device": device, "batch_tokens": batch_tokens, "projection_dim": projection_dim,
        "code": code,  # beside bergson int8, which finds about as much at this width; half a bit finds less
    }  # fmt: skip
    python = bergson_python or os.environ.get("ATTRSTORE_BERGSON_PYTHON") or None
    python = python if with_bergson else None
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if limit is not None:
            (folder / "data").mkdir()
            data = first(data, folder / "data", limit)
        times = measure(data, folder, rounds, python, options)
    bound = TIMES_PLAIN[choose_device(device).type]
    own = f"gradient ingest, k {projection_dim}"
    first_goal = compared(
        f"{own}: {bound} x plain forward and backward", times, ("gradients",), "plain", bound
    )
    if not with_bergson:
        return [first_goal]
    steps = ("start", "files", "gradients", "curvature and scores")
    return [
        first_goal,
        compared(f"{own}: faster than bergson build", times, steps[:3], "bergson build", 1.0),
        compared("files to TrackStar scores: a third of bergson", times, steps, "bergson", SHARE_OF_BERGSON),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--projection-dim", type=int, default=16)
    parser.add_argument("--code", default="int8")
    parser.add_argument("--limit", type=int, help="only the first N examples")
    parser.add_argument("--bergson-python", metavar="PYTHON")
    conclude(rows(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
