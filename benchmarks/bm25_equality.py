"""Compare every BM25 score of the SQL with rank_bm25's, before and after appending examples.

python benchmarks/bm25_equality.py DATA

DATA has corpus.jsonl and queries.jsonl. The reference tokenises with Python's own regular expressions. Exits 1
when a score differs by more than 1e-6.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from rank_bm25 import BM25Okapi

import attrstore
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.lexical import ingest_lexical
from attrstore.methods import METHODS, Request
from attrstore.scoring import selected

TOLERANCE = 1e-6
LATER = 100  # examples that are appended in a second step


def tokens(text: str) -> list[str]:
    """Runs of letters, digits and underscore, lower-cased."""
    return re.findall(r"\w+", text.lower())


def difference(store: attrstore.Store) -> tuple[float, int]:
    """Return the largest difference over all pairs, and their number."""
    examples = store.rows("SELECT example_id, text FROM examples ORDER BY example_id")
    queries = store.rows("SELECT query_id, prompt || target FROM queries ORDER BY query_id")
    reference = BM25Okapi([tokens(text) for _, text in examples])
    expected = np.stack([reference.get_scores(tokens(text)) for _, text in queries])
    found = np.zeros_like(expected)  # an example without a word of the query has no row, and scores 0
    with selected(store, None):
        pairs = METHODS["bm25"].rank(store, Request(top_k=len(examples))).pairs
    row = {query_id: i for i, (query_id, _) in enumerate(queries)}
    column = {example_id: i for i, (example_id, _) in enumerate(examples)}
    at = [row[q] for q in pairs["query_id"].to_pylist()], [column[e] for e in pairs["example_id"].to_pylist()]
    found[at] = pairs["score"].to_numpy()
    return float(np.abs(found - expected).max()), expected.size


def main() -> None:
    """Compare on all but the last examples, append those, and compare again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    data: Path = parser.parse_args().data
    lines = (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    differences = []
    with (
        tempfile.TemporaryDirectory() as folder,
        attrstore.open(Path(folder) / "s.duckdb", create=True) as store,
    ):
        ingest_queries(store, [data / "queries.jsonl"])
        for name, part in (("first", lines[:-LATER]), ("appended", lines[-LATER:])):
            file = Path(folder) / f"{name}.jsonl"
            file.write_text("".join(part), encoding="utf-8")
            ingest_corpus(store, [file])
            ingest_lexical(store)
            largest, n_pairs = difference(store)
            print(f"{name:9} {n_pairs:,} pairs, largest difference {largest:.1e}", flush=True)
            differences.append(largest)
    sys.exit(max(differences) > TOLERANCE)


if __name__ == "__main__":
    main()
