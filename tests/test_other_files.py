"""Files of other tools: data sets saved by Hugging Face datasets, TREC's judgements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import attrstore
from attrstore.cli import main
from tests import tiny


def test_a_saved_data_set_is_a_corpus_in_its_order(path: Path, tmp_path: Path) -> None:
    import datasets

    rows = [{"id": f"e{i}", "text": f"a b {i}", "source": "s", "n": i, "tags": [{"k": i}]} for i in range(5)]
    whole = datasets.Dataset.from_list(rows)
    whole.select([4, 0, 2]).save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict({"train": whole, "test": whole.select([0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "saved" / "left-over.arrow").write_bytes(
        b"of an earlier save, which state.json does not name"
    )
    with attrstore.open(path, create=True) as store:
        for folder, reason in (
            (
                tmp_path / "splits",
                r"several splits. Give those that are meant: .*splits/test, .*splits/train",
            ),
            (tmp_path / "gone", "no such file"),
        ):
            with pytest.raises(attrstore.InputError, match=reason):
                store.add_corpus(folder)
        assert store.add_corpus(tmp_path / "saved").added == 3
        assert store.rows("SELECT external_id, text, source, metadata FROM examples ORDER BY example_id") == [
            (f"e{i}", f"a b {i}", "s", json.dumps({"n": i, "tags": [{"k": i}]}, separators=(",", ":")))
            for i in (4, 0, 2)
        ]
        assert store.add_corpus(tmp_path / "splits" / "train").unchanged == 3
        state = tmp_path / "saved" / "state.json"
        content = json.loads(state.read_text())
        for change, reason in (
            ({"_indices_data_files": [{"filename": "i.arrow"}]}, r"flatten_indices\(\)"),
            (
                {"_data_files": [{"filename": "gone.arrow"}]},
                "gone.arrow, which state.json names, is not there",
            ),
            ({"_data_files": None}, "state.json is not that of a saved data set"),
        ):
            state.write_text(json.dumps(content | change))
            with pytest.raises(attrstore.InputError, match=reason):
                store.add_corpus(tmp_path / "saved")


def test_judgements_go_round(path: Path, tmp_path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(4), [("a", " b"), ("c", " d")])
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("q-0 0 e-1 1\nq-0\t0\te-3 0\nq-1 Q0 e-2 2\n\n")
    done = CliRunner().invoke(main, ["import", "qrels", str(path), str(qrels)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("3 labels added")
    with attrstore.open(path, writable=True) as store:
        labels = (
            "SELECT q.external_id, e.external_id, label "
            "FROM labels JOIN queries q USING (query_id) JOIN examples e USING (example_id)"
        )
        written = [("q-0", "e-1", 1.0), ("q-0", "e-3", 0.0), ("q-1", "e-2", 2.0)]
        assert sorted(store.rows(labels)) == written
        store.export("labels", tmp_path / "out.txt", file_format="trec-qrels")
        assert store.import_qrels(tmp_path / "out.txt").unchanged == 3
        for content, reason in (
            ("q-0 0 e-1 1\nq-0 0 e-2\n", r"bad.txt, line 2: 3 fields, and a line of qrels has four"),
            ("q-0 0 e-2 1\nq-9 0 e-1 1\n", r"bad.txt, line 2: .*q-9"),
            ("q-0 0 e-2 high\n", r"bad.txt, line 1: .*high"),
            ("q-0 0 e-1 3\n", r"replace"),
        ):
            (tmp_path / "bad.txt").write_text(content)
            with pytest.raises(attrstore.InputError, match=reason):
                store.import_qrels(tmp_path / "bad.txt")
        assert sorted(store.rows(labels)) == written
        (tmp_path / "bad.txt").write_text("q-0 0 e-2 1\nq-0 0 e-2\nq-9 0 e-1 1\n")
        counts = store.import_qrels(tmp_path / "bad.txt", skip_bad=True)
        assert (counts.added, counts.skipped) == (1, 2)
