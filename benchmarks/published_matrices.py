"""Class attribution from the influence matrices released with "Do Influence Functions Work on Large Language Models?".

    python benchmarks/published_matrices.py DATA

DATA holds `train.jsonl` and `test.jsonl` (id, prompt, response, label) and the paper's matrices for
Llama-2-7b-chat, `grammars_10_{gmatch,inf,lissa}.csv`: 100 queries × 900 examples, lower is more influential.
Prints accuracy and cover of each (arXiv 2409.19998), and exits with 1 if one differs from what the
matrices hold.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click

import attrstore
from attrstore.evaluation.report import tabulate
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.files.scores import import_scores
from attrstore.terminal import print_table

# file: what the paper calls it, accuracy, cover (to the digits that are known)
MATRICES = {
    "grammars_10_gmatch.csv": ("gradient match", 0.140, 0.1263),
    "grammars_10_inf.csv": ("DataInf", 0.390, 0.2443),
    "grammars_10_lissa.csv": ("LiSSA", 0.150, 0.1291),
}


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path) -> None:
    """Import every matrix in DATA and print accuracy and cover."""
    rows, wrong = [], 0
    with (
        tempfile.TemporaryDirectory() as folder,
        attrstore.open(Path(folder) / "matrices.duckdb", create=True) as store,
    ):
        ingest_corpus(store, [data / "train.jsonl"], text="prompt")
        ingest_queries(store, [data / "test.jsonl"], target="response")
        seconds = {}
        for file, (name, _, _) in MATRICES.items():
            started = time.perf_counter()
            import_scores(store, data / file, name=name, lower_is_stronger=True)
            seconds[name] = time.perf_counter() - started
        records = {record["name"]: record for record in tabulate(store, class_column="label").records()}
        for name, accuracy, cover in MATRICES.values():
            found = records[name]["accuracy"], records[name]["cover"]
            same = abs(found[0] - accuracy) < 5e-4 and abs(found[1] - cover) < 5e-5
            wrong += not same
            rows.append((name, *found, accuracy, cover, "yes" if same else "NO", seconds[name]))
    print_table(
        ("matrix", "accuracy", "cover", "expected accuracy", "expected cover", "same", "import, s"), rows
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
