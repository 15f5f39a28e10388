"""Stores that earlier versions wrote, opened by this one: tests/stores/make.py says how they were made."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import attrstore
from attrstore.check import check
from attrstore.cli import main
from attrstore.errors import StoreError
from attrstore.scoring import score
from attrstore.statements import scripts
from tests.stores.make import ANSWERS

STORES = Path(__file__).parent / "stores"
NEWEST = max(script.number for script in scripts() if script.number < 100)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "first.duckdb"
    path.write_bytes(lzma.decompress((STORES / "first.duckdb.xz").read_bytes()))
    return path


def answers() -> dict[str, list[dict[str, Any]]]:
    read: dict[str, list[dict[str, Any]]] = json.loads(
        lzma.decompress((STORES / "first.json.xz").read_bytes())
    )
    return read


def same(found: Any, recorded: Any) -> bool:
    if isinstance(recorded, float) and found is not None:
        return math.isclose(found, recorded, rel_tol=1e-9, abs_tol=1e-12)
    return bool(found == recorded)


def test_an_old_store_is_not_read_before_it_is_brought_up_to_date(old: Path) -> None:
    before = old.read_bytes()
    if NEWEST > 1:
        with pytest.raises(StoreError, match=f"schema version 1, .* needs {NEWEST}.*attrstore init {old}"):
            attrstore.open(old)
    assert old.read_bytes() == before
    result = CliRunner().invoke(main, ["init", str(old)])
    assert result.exit_code == 0, result.output
    with attrstore.open(old) as store:
        assert store.meta("schema_version") == str(NEWEST)
        assert [finding.check.name for finding in check(store) if not finding.ok] == []


@pytest.mark.parametrize("name", list(ANSWERS))
def test_an_old_store_answers_what_it_did_row_for_row(old: Path, name: str) -> None:
    attrstore.open(old, writable=True).close()
    # Its tail-patch is over four queries, and a mean over fewer than ten is no longer given.
    recorded = [
        {key: None if key.startswith("tail_patch_") else value for key, value in row.items()}
        for row in answers()[name]
        if not row.get("metric", "").startswith("tail_patch_")
    ]
    with attrstore.open(old) as store:
        rows = store.frame(ANSWERS[name]).to_dicts()
    # Metrics that came later are no part of what was recorded.
    metrics = {row.get("metric") for row in recorded}
    rows = [row for row in rows if row.get("metric") in metrics]
    assert len(rows) == len(recorded)
    for found, wanted in zip(rows, recorded, strict=True):
        assert wanted.keys() <= found.keys()
        differing = {key: (found[key], wanted[key]) for key in wanted if not same(found[key], wanted[key])}
        assert differing == {}, wanted


def test_an_old_stores_encodings_score_as_they_did(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Recorded in float32. Integers round a query to 16 bits, 3e-5 of its largest entry: test_products.py holds these.
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    options: dict[str, dict[str, Any]] = {
        "dot": {}, "trackstar": {}, "cosine-block": {}, "repsim": {}, "bm25": {"top_k": 20}
    }  # fmt: skip
    recorded = {(row["scoring"], row["query"], row["example"]): row["score"] for row in answers()["pairs"]}
    with attrstore.open(old, writable=True) as store:
        # The lambda of a mixed curvature is found otherwise now; what was made with the old one is held to it.
        options["trackstar"]["mixing"] = store.value(
            "SELECT (spec ->> 'mixing')::DOUBLE FROM scorings WHERE name = 'trackstar'"
        )
        for method, chosen in options.items():
            score(store, method, **{"top_k": 120, **chosen})
        found = {
            (scoring, query, example): value
            for scoring, query, example, value in store.rows(
                "SELECT scoring, query, example, score FROM ranked_pairs"
            )
        }
        # A text of two tokens moves no query and no key. What a code says of such a block weighed something then.
        short = {
            name for (name,) in store.rows("SELECT external_id FROM examples WHERE len(text.split(' ')) = 2")
        }
    assert found.keys() == recorded.keys()
    for scoring in options:
        wanted = {key: value for key, value in recorded.items() if key[0] == scoring and key[2] not in short}
        largest = max(map(abs, wanted.values()))
        assert max(abs(found[key] - value) for key, value in wanted.items()) < 1e-5 * largest, scoring
