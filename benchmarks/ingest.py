"""Time gradient ingest against a plain forward and backward pass over the same batches, in turn.

python benchmarks/ingest.py DATA [--rounds 3] [--dtype float32] [--bergson "COMMAND"]

DATA is a folder with corpus.jsonl, queries.jsonl, labels.jsonl and model/ (with optimizer.pt). The plain
pass is the model's own forward with a summed cross-entropy and a backward to the embeddings, weights frozen.
COMMAND is a shell command that runs a peer's whole recipe in the same rounds, such as
"PEER_PYTHON benchmarks/bergson_trackstar.py DATA --workdir DIR".
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from attrstore.ingest import models, sequences
from attrstore.ingest.corpus import ingest_corpus
from attrstore.ingest.gradients import ingest_gradients
from attrstore.ingest.labels import ingest_labels
from attrstore.ingest.queries import ingest_queries
from torch.nn import functional

import attrstore
from attrstore.scoring import score


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
    program = "import torch, attrstore.ingest.gradients; from transformers import AutoModelForCausalLM"
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def peer(command: str) -> float:
    """Seconds of the peer's whole recipe: what it prints as `total SECONDS`, or else the command's wall time."""
    start = time.perf_counter()
    output = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    printed = re.search(r"^total\s+([\d.]+)", output, flags=re.MULTILINE)
    return float(printed[1]) if printed else time.perf_counter() - start


def main() -> None:
    """Run the rounds and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--projection-dim", type=int, default=16)
    parser.add_argument("--kronecker", action="store_true")
    parser.add_argument("--bergson", metavar="COMMAND")
    arguments = parser.parse_args()
    loaded = models.load(arguments.data / "model", device=arguments.device, dtype=arguments.dtype)
    rows = []
    for file, columns in (("corpus.jsonl", ("text",)), ("queries.jsonl", ("prompt", "target"))):
        with (arguments.data / file).open(encoding="utf-8") as stream:
            rows.append([tuple(json.loads(line)[c] for c in columns) for line in stream])
    texts = [(i, text) for i, (text,) in enumerate(rows[0])]
    prompts = [(i, *row) for i, row in enumerate(rows[1])]
    items = sequences.examples(texts, loaded.tokenizer, loaded.context, "truncate")
    batches = list(sequences.batches(items, arguments.batch_tokens))
    batches += list(
        sequences.batches(
            sequences.queries(prompts, loaded.tokenizer, loaded.context), arguments.batch_tokens
        )
    )
    options = {
        "dtype": arguments.dtype, "device": arguments.device, "batch_tokens": arguments.batch_tokens,
        "projection_dim": arguments.projection_dim, "kronecker_factors": arguments.kronecker,
    }  # fmt: skip
    plain(loaded.model, batches[:3])  # warm up
    times: dict[str, list[float]] = {}
    for round_number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            measured = {"plain forward and backward": plain(loaded.model, batches)}
            measured |= whole(arguments.data, Path(folder) / "bench.duckdb", options)
            if arguments.bergson:
                measured["start"] = imports()
                measured["bergson, whole recipe"] = peer(arguments.bergson)
        for name, value in measured.items():
            times.setdefault(name, []).append(value)
        print(
            f"round {round_number + 1}: " + ", ".join(f"{k} {v:.1f} s" for k, v in measured.items()),
            flush=True,
        )
    report(times)


def report(times: dict[str, list[float]]) -> None:
    """Print medians and the ratios round by round."""
    for name, values in times.items():
        print(
            f"{name:32} median {statistics.median(values):7.1f} s   ({min(values):.1f} to {max(values):.1f})"
        )
    base = times["plain forward and backward"]
    ratios = [g / p for g, p in zip(times["gradients"], base, strict=True)]
    print(f"gradients / plain                median {statistics.median(ratios):7.2f}     "
          f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
    if "bergson, whole recipe" in times:
        steps = ("start", "files", "gradients", "curvature and scores")
        own = [sum(values) for values in zip(*(times[step] for step in steps), strict=True)]
        shares = [o / b for o, b in zip(own, times["bergson, whole recipe"], strict=True)]
        print(f"attrstore / bergson              median {statistics.median(shares):7.2f}     "
              f"({min(shares):.2f} to {max(shares):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
