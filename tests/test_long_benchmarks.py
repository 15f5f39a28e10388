"""Long benchmarks on tiny models: what is stopped goes on, and every step is taken under both versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import attrstore
from benchmarks import pretrained, storage
from benchmarks.pretrained import Place
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "lds"
    folder.mkdir()
    texts = [text for text in tiny.sentences(16) if len(text.split()) > 2][:8]
    rows = {
        "corpus": [{"id": f"e-{i}", "text": text} for i, text in enumerate(texts)],
        "queries": [
            {"id": f"q-{i}", "prompt": " ".join(words[:-1]), "target": f" {words[-1]}"}
            for i, words in enumerate(text.split() for text in texts[:3])
        ],
        "labels": [{"query_id": f"q-{i}", "example_id": f"e-{i}"} for i in range(3)],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Place(folder, tiny.checkpoint(tmp_path / "base"))


def test_trainings_on_halves_go_on_and_judge_every_method(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained.lds(place, 8, 4)
    printed = capsys.readouterr().out
    log = place.folder / "trainings.jsonl"
    first = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["losses"][0]["subset"] for row in first] == [1, 2, 3, 4]
    assert "left out" not in printed
    assert {name for name in pretrained.JUDGED if f"\n{name} " in printed} == set(pretrained.JUDGED)
    assert "4 halves, 3 queries" in printed
    # Another half is another model; the same half is the same one again.
    log.write_text("".join(json.dumps(row) + "\n" for row in first[:2] + first[3:]))
    with attrstore.open(place.folder / "lds.duckdb", writable=True) as store:
        store.execute("DELETE FROM subset_losses WHERE subset = 3")
    pretrained.lds(place, 8, 4)
    again = [json.loads(line) for line in log.read_text().splitlines()]
    assert again[:3] == first[:2] + first[3:]
    assert again[3]["losses"] == first[2]["losses"] != first[1]["losses"]
    assert capsys.readouterr().out.splitlines()[-24:] == printed.splitlines()[-24:]
    with attrstore.open(place.folder / "lds.duckdb") as store:
        assert store.value("SELECT count(*) FROM subset_losses") == 4 * 3


def test_every_step_is_taken_under_both_storage_versions(tmp_path: Path) -> None:
    sizes = storage.Sizes(rows=20, passages=30, encoded=5, repeats=1)
    every = storage.steps(storage.inputs(tmp_path, sizes), sizes)
    times = storage.Times()
    storage.rounds(times, every, tmp_path, 1)
    assert list(times.steps) == list(every)
    assert "ingest gradients, 5 passages" in times.steps
    for taken in times.steps.values():
        assert {version: len(of_version) for version, of_version in taken.items()} == {
            storage.OLD: 1,
            storage.OWN: 1,
        }
    assert times.sizes.keys() == {storage.OLD, storage.OWN}
