"""Every line of Python in docs/python.md runs, in order, on a tiny model; and reading needs no model libraries."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import attrstore
from attrstore.verbs import Verbs
from tests import scored, tiny

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
TEXTS = tiny.sentences(20)


def lay_out(folder: Path) -> None:
    """The files that the page names."""
    tiny.adam_state(tiny.checkpoint(folder / "model"))
    rows: dict[str, list[dict[str, object]]] = {
        "corpus": [{"id": f"e-{i}", "text": text} for i, text in enumerate(TEXTS)],
        "queries": [
            {"id": "q-0", "prompt": "a b c", "target": " d"},
            {"id": "q-1", "prompt": "e", "target": " f"},
        ],
        "losses": [
            {"subset": i, "query_id": f"q-{j}", "loss": i / 7 + j} for i in range(1, 9) for j in (0, 1)
        ],
    }
    for name, records in rows.items():
        lines = "\n".join(json.dumps(record) for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    with (folder / "influence.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([[(7 * q + 3 * e) % 11 for e in range(len(TEXTS))] for q in (0, 1)])


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "python.md", "exec"), names)
    assert names["frame"].height == 20
    assert "cosine-block" in capsys.readouterr().out
    with attrstore.open("facts.duckdb") as store:
        # By hand: lower is stronger, so the strongest proponent of q-0 is the first example of (3 e) mod 11 = 0.
        assert store.rows(
            "SELECT example FROM influence WHERE scoring = 'theirs' AND query = 'q-0' AND rank = 1"
        ) == [("e-0",)]


def test_the_page_shows_every_verb() -> None:
    verbs = {name for name in vars(Verbs) if not name.startswith("_")}
    shown = set(re.findall(r"store\.(\w+)\(", PAGE))
    assert verbs <= shown


READER = """
import importlib.abc, sys

class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors", "tokenizers", "Stemmer", "peft"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Forbidden())
import attrstore
from attrstore.cli import main

path = sys.argv[1]
with attrstore.open(path) as store:
    assert store.report().height == 3
    assert store.sql("FROM comparison").fetchall()
    print(store.search("text 7", top_k=1)["id"][0])
    for call in (lambda: store.ask("prompt", " target"),):
        try:
            call()
        except attrstore.InputError as error:
            print(error)
with attrstore.open(path, writable=True) as store:
    store.add_corpus([{"id": "new", "text": "text seven"}])
    store.index_lexical()
    print(store.score("bm25", name="words").n_examples)
    for call in (
        lambda: store.encode_gradients(model="model"),
        lambda: store.encode_embeddings(model="model"),
        lambda: store.score("cosine", encoder="k32"),
        lambda: store.tail_patch(),
        lambda: store.index_lexical(rebuild=True, stemmer="english"),
    ):
        try:
            call()
        except attrstore.InputError as error:
            print(error)
main(["report", path], standalone_mode=False)
main(["ingest", "representations", path, "--model", "model"], standalone_mode=False)
"""


@pytest.mark.slow
def test_a_store_is_read_without_the_model_libraries(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        scored.fill(store)
        store.index_lexical()
    done = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "e7", done.stderr
    missing = 'needs torch, which is not installed: pip install "attrstore[model]"'
    # What states it is answered without a model.
    assert lines[1] == str(scored.N_EXAMPLES + 1)
    assert lines[2:6] == [missing] * 4
    assert lines[6] == 'needs Stemmer, which is not installed: pip install "attrstore[stem]"'
    assert "cosine" in done.stdout
    assert done.stderr.endswith(f"Error: {missing}\n")
    assert done.returncode == 2
