"""Which scores foretell what a model does without some of its data: LDS of every method on the demo.

python benchmarks/lds.py DIR [--steps 600] [--count 32] [--seeds 1] [--cg]

Makes the demo in DIR with a training of --steps, trains its model again on --count random halves of the corpus, each
half seen as often as the model saw the corpus, and prints the linear datamodelling score of every method with its
interval: over the default codes, over codes of low rank on principal directions, and from whole gradients of every
pair (`attrstore rerank`), with --cg also by conjugate gradients. Killed, it goes on with the same command.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import attrstore
from attrstore.demo import run
from attrstore.demo.retrain import retrain
from attrstore.demo.train import Training
from attrstore.evaluation.report import tabulate
from attrstore.evaluation.subsets import make_subsets
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.encode.representations import ingest_representations
from attrstore.ingest.measure.options import Source
from attrstore.ingest.measure.rerank import rerank
from attrstore.scoring import score

PLAIN, CORRECTED = "plain", "corrected by the optimizer's state"  # encoders; the second is the demo's own
# scoring: its method and options. The demo's own encoder is corrected by the optimizer's state; methods whose papers
# have no such correction read plain gradients.
SCORINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        method: (method, {"encoder": PLAIN})
        for method in ("dot", "cosine", "trak", "influence", "cg", "lissa", "datainf", "kfac", "ekfac")
    },
    "cosine-block": ("cosine-block", {"encoder": CORRECTED}),
    "trackstar": ("trackstar", {"encoder": CORRECTED}),
    "trackstar-block": ("trackstar-block", {"encoder": CORRECTED}),
    "less": ("less", {"encoder": CORRECTED, "query_encoder": PLAIN}),
    "dot, optimizer": ("dot", {"encoder": CORRECTED}),
    "trak, optimizer": ("trak", {"encoder": CORRECTED}),
    "repsim": ("repsim", {}),
    "bm25": ("bm25", {}),
}
# Over codes of low rank on principal directions, of 896 bytes.
OF_PAIRS = ("cosine-block", "damped-block", "trackstar", "trackstar-block")
WHOLE = {  # from whole gradients: the method and whose
    "whole: dot": ("dot", PLAIN),
    "whole: ekfac": ("ekfac", PLAIN),
    "whole: trackstar": ("trackstar", PLAIN),
    "whole: trackstar-block": ("trackstar-block", PLAIN),
    "whole: cosine-block, optimizer": ("cosine-block", CORRECTED),
    "whole: ekfac, optimizer": ("ekfac", CORRECTED),
    "whole: trackstar, optimizer": ("trackstar", CORRECTED),
}
CG = {"whole: cg": ("cg", PLAIN)}


def prepare(folder: Path, count: int, whole: dict[str, tuple[str, str]]) -> None:
    """Encode, score every pair, choose the subsets; what is there already stays."""
    model = folder / run.MODEL
    with attrstore.open(folder / run.STORE, writable=True) as store:
        ingest_gradients(store, model=model, optimizer_state="none", name=PLAIN)
        corrected: str = store.value(
            "SELECT name FROM encoders WHERE kind = 'gradient' AND spec ->> 'correction' <> 'none' ORDER BY created"
        )
        ingest_representations(store, model=model)
        every: int = store.value("SELECT count(*) FROM examples")
        known = {
            name
            for (name,) in store.rows(
                "SELECT name FROM scorings WHERE (spec ->> 'top_k')::BIGINT >= $n", {"n": every}
            )
        }
        for name, (method, options) in SCORINGS.items():
            if name not in known:
                began = time.perf_counter()
                given: dict[str, Any] = {
                    option: corrected if value == CORRECTED else value for option, value in options.items()
                }
                score(store, method, name=name, top_k=every, **given)
                print(f"  {time.perf_counter() - began:5.1f} s  score {name}", flush=True)
        ingest_gradients(
            store, model=model, optimizer_state=model / "optimizer.pt", name="pairs", rank=1, projection_dim=116,
            code="1bit", principal=True,
        )  # fmt: skip
        for method in OF_PAIRS:
            if f"pairs: {method}" not in known:
                score(store, method, encoder="pairs", name=f"pairs: {method}", top_k=every)
        for name, (method, encoder) in whole.items():
            if name not in known:
                began = time.perf_counter()
                source = Source(encoder=corrected if encoder == CORRECTED else encoder, model=model)
                rerank(store, "cosine-block", top=every, method=method, name=name, source=source)
                print(f"  {time.perf_counter() - began:5.1f} s  {name}", flush=True)
        if not store.value("SELECT count(*) FROM subsets WHERE subset_set = 'lds'"):
            make_subsets(store, count=count)


def main() -> None:
    """Make or continue the run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cg", action="store_true")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if not (folder / run.STORE).exists():
        run.run(folder, recipe=Training(steps=arguments.steps), force=True, say=print)
    whole = WHOLE | (CG if arguments.cg else {})
    prepare(folder, arguments.count, whole)
    began = time.perf_counter()

    def progress(done: int, total: int) -> None:
        print(f"  {time.perf_counter() - began:5.0f} s  {done} of {total} models", flush=True)

    retrain(folder, steps=arguments.steps, seeds=arguments.seeds, progress=progress)
    with attrstore.open(folder / run.STORE) as store:
        report = tabulate(store, lds=True)
    shown = {*SCORINGS, *whole, *(f"pairs: {method}" for method in OF_PAIRS)}
    print(f"\n{'method':32}{'LDS':>8}  95% interval")
    for row in report.records():
        if row["name"] in shown:
            print(f"{row['name']:32}{row['lds']:8.3f}  [{row['low']:.3f}, {row['high']:.3f}]")
    last = report.records()[-1]
    print(f"{last['subsets']} subsets, {last['queries']} queries, {arguments.seeds} training(s) of each")


if __name__ == "__main__":
    main()
