"""`check --repair`: what can be derived again comes back as it was; what cannot is left, and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import attrstore
from attrstore.cli import main
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.scoring import score
from tests import tiny

DERIVED = (
    "INSERT INTO example_originals VALUES (99, 'text', '{}')",
    "INSERT INTO labels FROM labels WHERE example_id = 3",
    "INSERT INTO labels VALUES (0, 99, 1, NULL)",
    "INSERT INTO encodings SELECT * REPLACE (98 AS example_id) FROM encodings WHERE example_id = 3",
    "INSERT INTO encodings FROM encodings WHERE example_id = 5",
    "INSERT INTO query_encodings SELECT * REPLACE ('other' AS encoder_id) FROM query_encodings WHERE query_id = 1",
    "INSERT INTO tail_patches FROM tail_patches",
    "INSERT INTO tail_patches SELECT * REPLACE ('other' AS model_fingerprint) FROM tail_patches",
    "UPDATE postings SET tf = tf + 1 WHERE example_id = 3",
    "UPDATE terms SET df = 1",
    "CREATE VIEW mine AS SELECT 1 AS one",
    "CREATE OR REPLACE VIEW report AS SELECT 2 AS two",
)


@pytest.fixture
def store(path: Path, tmp_path: Path) -> Path:
    model = tiny.checkpoint(tmp_path / "model")
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(12), [("a b", " c"), ("d north", " e f")], [(0, 3), (1, 4)])
        ingest_lexical(store)
        ingest_gradients(store, model=model, projection_dim=4)
        score(store, "cosine-block", top_k=3)
        score(store, "bm25", top_k=3)
        store.execute(
            "INSERT INTO tail_patches SELECT 0, 3, fingerprint, 'adamw', 1e-6, -3, 0.1, 0.05, 0.01 FROM models"
        )
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def contents(path: Path) -> dict[str, list[str]]:
    with attrstore.open(path) as store:
        tables = [t for (t,) in store.named("face", "tables").fetchall() if t not in ("runs", "meta")]
        assert store.rows("SELECT count(*) FROM duckdb_views() WHERE view_name = 'mine'") == [(0,)]
        return {t: sorted(map(repr, store.rows(f"FROM {t}"))) for t in tables}


def test_what_can_be_derived_again_comes_back_as_it_was(store: Path) -> None:
    before = contents(store)
    with attrstore.open(store, writable=True) as opened:
        for sql in DERIVED:
            opened.execute(sql)
    assert run("check", store).exit_code == 1
    refused = run("check", store, "--repair")  # nobody says yes
    assert refused.exit_code == 1
    assert "delete 1 rows of labels that name nothing" in refused.stderr
    done = run("check", store, "--repair", "--yes")
    assert (done.exit_code, "WRONG" in done.stdout) == (0, False), done.output
    after = contents(store)
    assert {t for t in before if before[t] != after[t]} <= {"lexical_index"}
    again = run("check", store, "--repair", "--yes")
    assert (again.exit_code, again.stderr) == (0, "")


def test_what_was_edited_to_another_valid_value_is_left_and_named(store: Path) -> None:
    with attrstore.open(store, writable=True) as opened:
        opened.execute("UPDATE examples SET text = 'x' WHERE example_id = 3")
        opened.execute("UPDATE scores SET score = score + 1 WHERE rank = 1")
    before = contents(store)
    done = run("check", store, "--repair", "--yes")
    assert done.exit_code == 1
    assert "texts, prompts and targets are those that were ingested: 1, for one example" in " ".join(
        done.stdout.split()
    )
    after = contents(store)
    assert [
        t for t in before if before[t] != after[t] and not t.startswith(("lexical", "postings", "terms"))
    ] == []
