"""Write `first.duckdb.xz` and `first.json.xz`: a small store, and what its own version of attrstore answered from it.

Run once by the version whose files must stay readable, and committed; OLD is where that version is installed:

    PYTHONPATH=OLD:. python tests/stores/make.py tests/stores/first
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import attrstore
from attrstore.cli import main
from tests import tiny

ANSWERS = {
    "method_report": "FROM method_report ORDER BY name",
    "report_by": "FROM report_by('relation') ORDER BY ALL",
    "report_intervals": "FROM report_intervals() ORDER BY name, metric",
    "class_report": "FROM class_report('relation') ORDER BY name",
    "compare": "FROM compare('cosine-block', 'bm25') ORDER BY query, example",
    "agreement": "FROM agreement ORDER BY query, scoring, other_scoring",
    "proponent_kinds": "FROM proponent_kinds ORDER BY ALL",
    "lds_report": "FROM lds_report() ORDER BY ALL",
    "bm25": "FROM bm25('north river stone') ORDER BY ALL",
    "pairs": "SELECT scoring, query, example, rank, score FROM ranked_pairs ORDER BY ALL",
}
N = 120


def run(*arguments: str | Path) -> None:
    """Run a command of attrstore."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make(out: Path, folder: Path) -> None:
    """Fill the store `out` in small: every table that an ingest or a score writes has rows."""
    texts = tiny.sentences(N, seed=3)
    words = tiny.WORDS[2:]
    model = tiny.checkpoint(folder / "model")
    optimizer = tiny.adam_state(model)
    corpus = [{"id": f"e-{i}", "text": text, "source": f"s{i % 3}", "relation": f"r{i % 2}",
               "subject": text.split()[0], "object": text.split()[-1]} for i, text in enumerate(texts)]  # fmt: skip
    queries = [{"id": f"q-{i}", "prompt": f"{words[i]} {words[i + 3]} {words[i + 1]}", "target": f" {words[i + 2]}",
                "relation": f"r{i % 2}", "subject": words[i], "object": words[i + 2]} for i in range(12)]  # fmt: skip
    labels = [{"query_id": f"q-{i}", "example_id": f"e-{(17 * i + 5 * j) % N}", "label": 1}
              for i in range(11) for j in range(1 + i % 3)]  # fmt: skip
    run("init", out)
    run("ingest", "corpus", out, lines(folder / "corpus.jsonl", corpus))
    run("ingest", "queries", out, lines(folder / "queries.jsonl", queries))
    run("ingest", "labels", out, lines(folder / "labels.jsonl", labels))
    run("ingest", "lexical", out)
    gradients = ("ingest", "gradients", out, "--model", model, "--projection-dim", "8")
    run(*gradients, "--optimizer-state", optimizer)
    run("ingest", "representations", out, "--model", model)
    for method in ("dot", "trackstar", "cosine-block", "repsim"):
        run("score", out, method, "--top-k", str(N))
    run("score", out, "bm25", "--top-k", "20")
    run("tail-patch", out, "--model", model, "--optimizer-state", optimizer, "--queries", "4", "--top", "10")
    run("subsets", out, "--count", "6", "--fraction", "0.5")
    losses = [{"subset": subset, "query_id": f"q-{i}", "loss": ((7 * subset + 3 * i) % 11) / 4 + 1}
              for subset in range(1, 7) for i in range(12)]  # fmt: skip
    run("import", "losses", out, lines(folder / "losses.jsonl", losses), "--subsets", "lds")
    later = tiny.checkpoint(folder / "later", seed=1)
    run("compare-checkpoints", out, "--model", model, "--model", later)
    with attrstore.open(out) as store:
        answers = {name: store.frame(sql).to_dicts() for name, sql in ANSWERS.items()}
    Path(f"{out}.xz").write_bytes(lzma.compress(out.read_bytes()))
    out.unlink()
    text = json.dumps(answers, default=str)
    out.with_suffix(".json.xz").write_bytes(lzma.compress(text.encode()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        make(Path(sys.argv[1]).with_suffix(".duckdb"), Path(made))
