"""Quality and size on a folder of data, from the files to the table: every row is one ingest or one score.

python benchmarks/quality.py DATA [--workdir DIR]

DATA has corpus.jsonl, queries.jsonl, labels.jsonl and model/ with optimizer.pt. Prints the ablation of
TrackStar on encodings of 16 x 16 int8, the default and two other codes, BM25, and the bytes an example
of a store of the corpus alone (text, gradient codes, lexical index) and with everything in it. Exits 1 when a
goal is missed; the goals were set before the figures were known.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrstore
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.lexical import ingest_lexical
from attrstore.scoring import score

ABLATION_CODE = {"code": "int8", "projection_dim": 16}
# Each row of the ablation: name, encoder, method, options.
ABLATION: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("gradient dot", "plain", "dot", {}),
    ("cosine", "plain", "cosine", {}),
    ("cosine + optimizer", "optimizer", "cosine", {}),
    ("cosine + R", "plain", "trackstar", {"curvature": "corpus"}),
    ("TrackStar (optimizer, R mixed)", "optimizer", "trackstar", {}),
    ("R, no norm (TRAK-like)", "plain", "trak", {}),
    ("optimizer, norm per block", "optimizer", "trackstar-block", {}),
)


def encode(store: attrstore.Store, data: Path, name: str, **options: Any) -> None:
    """Run one gradient ingest; all but the encoder called `plain` use the optimizer's state."""
    state = "none" if name == "plain" else data / "model" / "optimizer.pt"
    ingest_gradients(store, model=data / "model", optimizer_state=state, name=name, **options)


def corpus_alone(data: Path, path: Path, **options: Any) -> float:
    """Bytes of the file an example, with text, lexical index and codes, before any query is there."""
    with attrstore.open(path, create=True) as store:
        ingest_corpus(store, [data / "corpus.jsonl"])
        ingest_lexical(store)
        encode(store, data, "recommended", **options)
        examples: int = store.value("SELECT count(*) FROM examples")
    return path.stat().st_size / examples


def with_queries(data: Path, path: Path, **options: Any) -> float:
    """Go on with queries, labels and scorings; bytes of the whole file an example."""
    with attrstore.open(path, writable=True) as store:
        ingest_queries(store, [data / "queries.jsonl"])
        ingest_labels(store, [data / "labels.jsonl"])
        encode(store, data, "recommended", **options)
        for method in ("cosine-block", "trackstar-block", "trackstar"):
            score(store, method)
        score(store, "bm25")
        examples: int = store.value("SELECT count(*) FROM examples")
    return path.stat().st_size / examples


def print_report(path: Path, title: str) -> dict[str, tuple[float, float]]:
    """Print and return MRR and hit@10 of every scoring, in the order in which they were made."""
    print(f"\n{title}")
    with attrstore.open(path) as store:
        rows = store.rows(
            "SELECT r.name, r.mrr, r.hit_at_10 FROM method_report r JOIN scorings s ON s.name = r.name ORDER BY created"
        )
    for name, mrr, hit in rows:
        print(f"  {name:34} MRR {mrr:.3f}   hit@10 {hit:.3f}")
    return {name: (mrr, hit) for name, mrr, hit in rows}


def reached(goals: dict[str, bool]) -> bool:
    """Print each goal as reached or missed; whether all are reached."""
    for goal, met in goals.items():
        print(f"  {'reached' if met else 'MISSED '}  {goal}", flush=True)
    return all(goals.values())


def main() -> None:
    """Make the stores and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--workdir", type=Path)
    arguments = parser.parse_args()
    data: Path = arguments.data
    with tempfile.TemporaryDirectory(dir=arguments.workdir) as folder:
        met = [
            one_code(data, Path(folder), "halfbit", 32, 4_000),
            one_code(data, Path(folder), "int8", 16, 12_500),
            one_code(data, Path(folder), "1bit", 22, 4_000),
        ]
        met.append(ablation(data, Path(folder) / "ablation.duckdb"))
    sys.exit(not all(met))


def one_code(data: Path, folder: Path, code: str, dim: int, most_bytes: int) -> bool:
    """One code and width; whether it reaches its goals."""
    path = folder / f"{code}.duckdb"
    options = {"code": code, "projection_dim": dim}
    alone = corpus_alone(data, path, **options)
    everything = with_queries(data, path, **options)
    found = print_report(path, f"--projection-dim {dim} --code {code}")
    print(f"  bytes an example: corpus alone {alone:,.0f}, with queries and four scorings {everything:,.0f}")
    mrr, hit = found["trackstar-block"]
    goals = {f"corpus alone takes at most {most_bytes:,} bytes an example": alone <= most_bytes}
    goals["BM25 MRR at least .99"] = found["bm25"][0] >= 0.99
    if code == "int8":
        goals["TrackStar as published within .02 of bergson's MRR .247"] = found["trackstar"][0] >= 0.227
        goals["trackstar-block MRR at least .29, hit@10 at least .40"] = mrr >= 0.29 and hit >= 0.40
    else:
        goals["trackstar-block MRR at least .35"] = mrr >= 0.35
    return reached(goals)


def ablation(data: Path, path: Path) -> bool:
    """The paper's ablation on encodings without Kronecker factors; whether it is in the paper's order."""
    with attrstore.open(path, create=True) as store:
        ingest_corpus(store, [data / "corpus.jsonl"])
        ingest_queries(store, [data / "queries.jsonl"])
        ingest_labels(store, [data / "labels.jsonl"])
        for name in ("plain", "optimizer"):
            encode(store, data, name, **ABLATION_CODE)
        for name, encoder, method, options in ABLATION:
            score(store, method, name=name, encoder=encoder, **options)
    mrr = {n: m for n, (m, _) in print_report(path, "ablation, --projection-dim 16 --code int8").items()}
    full = mrr["TrackStar (optimizer, R mixed)"]
    return reached(
        {
            "dot < cosine < cosine + optimizer < TrackStar":
                mrr["gradient dot"] < mrr["cosine"] < mrr["cosine + optimizer"] < full,
            "cosine < cosine + R < TrackStar": mrr["cosine"] < mrr["cosine + R"] < full,
            "TrackStar within .02 of bergson's MRR .247": full >= 0.227,
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
