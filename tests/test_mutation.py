"""The mutation tool: what it changes, and against which tests it tries a change."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mutants import ROOT, python_mutants, sql_mutants
from tests.planted import PLANTED, planted
from tests.reached import Reached


def test_a_mutant_is_one_change_of_what_runs() -> None:
    python = 'def f(a: int = 3) -> int:\n    "Add 1."\n    return a + 1 if a > 0 else "a < b"\n'
    changed = [python[: m.start] + m.new + python[m.end :] for m in python_mutants("f.py", python)]
    assert [text.splitlines()[-1].strip() for text in changed if "int = 3" in text] == [
        'return a + 1 if (not (a > 0)) else "a < b"',
        'return a + 1 if (a <= 0) else "a < b"'.replace("<=", ">="),
        'return a + 1 if a > 1 else "a < b"',
        'return ((a) - (1)) if a > 0 else "a < b"',
        'return a + 2 if a > 0 else "a < b"',
    ]
    sql = "-- 1 < 2\nSELECT x->>'a < 1', $top FROM t WHERE a <= 1"
    assert [(sql[m.start : m.end], m.new) for m in sql_mutants("f.sql", sql)] == [("<=", "<"), ("1", "2")]


def test_what_is_planted_is_there_and_its_test_too() -> None:
    assert len(planted(ROOT)) == len(PLANTED) == 21
    for *_, test in PLANTED:
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_a_mutant_meets_every_test_that_reaches_it(tmp_path: Path) -> None:
    files = {
        "attrstore/a.py": "K = 1\n\n\ndef f():\n    return K + 1\n\n\ndef g():\n    return 2\n",
        "attrstore/b.py": "from attrstore.a import K\n\n\ndef h():\n    return K\n",
        "sql/statements/s.sql": "-- name: one\nSELECT 1\n\n-- name: two\nFROM top\n",
        "sql/face/100_views.sql": "CREATE VIEW base AS SELECT 1;\n\nCREATE OR REPLACE VIEW top AS FROM base;\n",
        "tests/test_x.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    places = {
        "f": ["attrstore/a.py:4"], "g": ["attrstore/a.py:8", "attrstore/b.py:4"], "h": ["attrstore/b.py:4"],
        "one": ["sql/statements/s.sql#one"], "two": ["sql/statements/s.sql#two"], "none": [],
    }  # fmt: skip
    record = {f"tests/test_x.py::{test}": {"seconds": 1, "places": found} for test, found in places.items()}
    (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    reached = Reached(tmp_path, tmp_path / "record.json")

    def tests(file: str, text: str) -> set[str]:
        return {test.split("::")[1] for test in reached.of(file, files[file].index(text))}

    assert tests("attrstore/a.py", "K + 1") == {"f"}
    assert tests("attrstore/a.py", "2") == {"g"}
    assert tests("attrstore/a.py", "K = 1") == {"f", "g", "h"}  # runs on import: all that use the file
    assert tests("sql/statements/s.sql", "1") == {"one"}
    assert tests("sql/face/100_views.sql", "SELECT 1") == {"two"}  # a view under the one that it names
