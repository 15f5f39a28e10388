"""Files become rows: every format, every refusal, and nothing changed by a refused input."""

import csv
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

import attrstore
from attrstore import InputError, Store
from attrstore.cli import main
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.labels import ingest_labels
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.files.staging import Counts

ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "Ada was born in London.", "source": "wiki", "relation": "P19"},
    {"id": "b", "text": "東京は日本の首都です。 Ünïcödé", "source": None, "relation": None},
    {"id": "c", "text": 'She said "no",\nand left.\ttab', "source": "web", "relation": "P1"},
]
QUERIES: list[dict[str, Any]] = [
    {"id": "q1", "prompt": "Ada was born in", "target": " London"},
    {"id": "q2", "prompt": "The capital of Japan is", "target": " Tokyo", "relation": "P36"},
]
LABELS: list[dict[str, Any]] = [
    {"query_id": "q1", "example_id": "a", "label": 1},
    {"query_id": "q2", "example_id": "b", "label": 2},
]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path: Path, *raw: str) -> Path:
    path.write_text("\n".join(raw), encoding="utf-8", newline="")
    return path


def delimited(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def compressed(path: Path) -> Path:
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def arrow_stream(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def feather(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.feather.write_feather(pa.Table.from_pylist(rows), path, compression="zstd")
    return path


def snapshot(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, in its order, as text."""
    tables = [row[0] for row in store.rows("SELECT table_name FROM duckdb_tables() WHERE NOT temporary")]
    return {
        table: store.rows(f'SELECT rowid, CAST(t AS VARCHAR) FROM "{table}" t ORDER BY rowid')
        for table in tables
    }


def refused(store: Store, job: Callable[[], object]) -> str:
    """Run a job that must be refused; the store and its connection must be as before."""
    before = snapshot(store)
    with pytest.raises(InputError) as caught:
        job()
    assert snapshot(store) == before
    assert store.rows("SELECT table_name FROM duckdb_tables() WHERE temporary") == []
    return str(caught.value)


def stored(store: Store) -> list[tuple[Any, ...]]:
    return store.rows(
        "SELECT example_id, external_id, text, source, CAST(metadata AS VARCHAR) FROM examples "
        "ORDER BY example_id"
    )


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Store:
    ingest_corpus(store, [jsonl(tmp_path / "corpus.jsonl", ROWS)])
    ingest_queries(store, [jsonl(tmp_path / "queries.jsonl", QUERIES)])
    ingest_labels(store, [jsonl(tmp_path / "labels.jsonl", LABELS)])
    return store


# Formats

FORMATS: dict[str, Callable[[Path], Path]] = {
    "jsonl": lambda d: jsonl(d / "c.jsonl", ROWS),
    "ndjson.gz": lambda d: compressed(jsonl(d / "c.ndjson", ROWS)),
    "json array": lambda d: lines(d / "c.json", json.dumps(ROWS, indent=1)),
    "csv": lambda d: delimited(d / "c.csv", ROWS),
    "csv.gz": lambda d: compressed(delimited(d / "c.csv", ROWS)),
    "tsv": lambda d: delimited(d / "c.tsv", ROWS, "\t"),
    "parquet": lambda d: parquet(d / "c[1]*.parquet", ROWS),
    "arrow stream": lambda d: arrow_stream(d / "c.arrow", ROWS),
    "feather": lambda d: feather(d / "c.feather", ROWS),
    "upper case": lambda d: jsonl(d / "C.JSONL", ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(store: Store, tmp_path: Path, name: str) -> None:
    assert ingest_corpus(store, [FORMATS[name](tmp_path)]) == Counts(added=3)
    assert stored(store) == [
        (1, "a", ROWS[0]["text"], "wiki", '{"relation":"P19"}'),
        (2, "b", ROWS[1]["text"], None, '{"relation":null}'),
        (3, "c", ROWS[2]["text"], "web", '{"relation":"P1"}'),
    ]
    hashes = [row[0] for row in store.rows("SELECT content_hash FROM examples ORDER BY example_id")]
    texts = [str(row["text"]).encode() for row in ROWS]
    assert hashes == [int.from_bytes(hashlib.md5(text).digest()[::-1], "big") for text in texts]


def test_metadata_keeps_nesting_and_is_null_when_nothing_is_left(store: Store, tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "x", "m": {"k": [1, {"n": None}]}, "f": 1.5}, {"id": 8, "text": "y"}]
    ingest_corpus(store, [jsonl(tmp_path / "c.jsonl", rows)])
    assert stored(store) == [
        (1, "7", "x", None, '{"m":{"k":[1,{"n":null}]},"f":1.5}'),
        (2, "8", "y", None, None),
    ]
    table = [{"id": 1, "text": "z", "tags": ["p", "q"], "at": {"line": 3}}]
    ingest_corpus(store, [parquet(tmp_path / "c.parquet", table)])
    assert stored(store)[2] == (3, "1", "z", None, '{"tags":["p","q"],"at":{"line":3}}')


def test_bom_crlf_blank_lines_and_a_last_line_without_an_end(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"id": "a", "text": "x"}\r\n\r\n  \t\r\n{"id": "b", "text": " y "}\r\n{"id": "c"}'
    )
    message = refused(store, lambda: ingest_corpus(store, [file]))
    assert message.startswith(f"{file}, line 5: no 'text'\n")
    assert ingest_corpus(store, [file], skip_bad=True) == Counts(added=2, skipped=1)
    assert [row[1:3] for row in stored(store)] == [("a", "x"), ("b", " y ")]
    table = tmp_path / "c.csv"
    table.write_bytes(b'\xef\xbb\xbfid,text\r\nd,"one\r\ntwo"\r\n\r\n#e,z\r\n')
    ingest_corpus(store, [table])
    assert [row[1:3] for row in stored(store)[2:]] == [("d", "one\r\ntwo"), ("#e", "z")]


def test_columns_with_any_name(store: Store, tmp_path: Path) -> None:
    names: dict[str, Any] = {"id": "the id", "text": "a \"q'/~1 text", "source": "$.s"}
    row = {names["id"]: "a", names["text"]: "x", names["source"]: "s", "id": "other", "ID": "third"}
    files = [
        jsonl(tmp_path / "c.jsonl", [row]),
        delimited(tmp_path / "c.csv", [row | {names["id"]: "b"}]),
    ]
    assert ingest_corpus(store, files, **names) == Counts(added=2)
    assert [row[1:] for row in stored(store)] == [
        ("a", "x", "s", '{"id":"other","ID":"third"}'),
        ("b", "x", "s", '{"id":"other","ID":"third"}'),
    ]


def test_lines_longer_than_a_chunk_keep_their_numbers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attrstore.ingest.files.readers.CHUNK", 64)
    rows = [{"id": i, "text": "é" * (i * 7 % 150 + 1)} for i in range(200)]
    file = jsonl(tmp_path / "c.jsonl", rows)
    ingest_corpus(store, [file])
    assert [row[:3] for row in stored(store)] == [(i + 1, str(i), rows[i]["text"]) for i in range(200)]
    content = file.read_text().split("\n")
    content[136] = content[136].replace(": ", " ")
    bad = lines(tmp_path / "bad.jsonl", *content)
    assert f"{bad}, line 137: malformed JSON: " in refused(store, lambda: ingest_corpus(store, [bad]))


def test_ids_follow_files_and_rows_across_row_groups(store: Store, tmp_path: Path) -> None:
    table = pa.table({"id": list(range(9000)), "text": [f"text {i}" for i in range(9000)]})
    pyarrow.parquet.write_table(table.slice(4000), tmp_path / "2.parquet", row_group_size=500)
    pyarrow.parquet.write_table(table.slice(0, 4000), tmp_path / "1.parquet", row_group_size=500)
    assert ingest_corpus(store, [tmp_path]) == Counts(added=9000)
    sums = "SELECT count(*), sum((external_id::INT <> example_id - 1)::INT), max(example_id) FROM examples"
    assert store.rows(sums) == [(9000, 0, 9000)]
    assert store.rows("SELECT rowid + 1 FROM examples WHERE rowid + 1 <> example_id") == []


def test_globs_folders_and_a_file_named_twice(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(3):
        jsonl(folder / f"s{i}.jsonl", [{"id": i, "text": f"t{i}"}])
    (folder / "README.md").write_text("not data")
    assert ingest_corpus(store, [str(folder / "s[01].jsonl"), folder / "s0.jsonl"]) == Counts(added=2)
    assert ingest_corpus(store, [folder]) == Counts(added=1, unchanged=2)
    assert [row[1] for row in stored(store)] == ["0", "1", "2"]


# What is there already


def test_the_same_file_again_changes_nothing(filled: Store, tmp_path: Path) -> None:
    before = snapshot(filled)
    assert ingest_corpus(filled, [tmp_path / "corpus.jsonl"]) == Counts(unchanged=3)
    assert ingest_queries(filled, [tmp_path / "queries.jsonl"]) == Counts(unchanged=2)
    assert ingest_labels(filled, [tmp_path / "labels.jsonl"]) == Counts(unchanged=2)
    assert snapshot(filled) == before


def test_other_metadata_or_source_updates_in_place(filled: Store, tmp_path: Path) -> None:
    rows = [
        {**ROWS[0], "source": "books"},
        {**ROWS[1], "source": "x"},
        {**ROWS[2], "relation": "P36"},
        {"id": "d", "text": "new"},
    ]
    file = jsonl(tmp_path / "later.jsonl", rows)
    assert ingest_corpus(filled, [file]) == Counts(added=1, updated=3)
    assert [(r[0], r[3], r[4]) for r in stored(filled)] == [
        (1, "books", '{"relation":"P19"}'),
        (2, "x", '{"relation":null}'),
        (3, "web", '{"relation":"P36"}'),
        (4, None, None),
    ]
    queries = jsonl(tmp_path / "q.jsonl", [{**QUERIES[0], "relation": "P19"}])
    assert ingest_queries(filled, [queries]) == Counts(updated=1)
    assert filled.value("SELECT metadata FROM queries WHERE external_id = 'q1'") == '{"relation":"P19"}'
    assert filled.rows("SELECT job, rows, state FROM runs ORDER BY run_id")[3:] == [
        ("ingest corpus", 4, "finished"),
        ("ingest queries", 1, "finished"),
    ]


DERIVED = """
INSERT INTO encodings SELECT 'e', example_id, 'x'::BLOB, NULL, 1, 1, 'ok' FROM examples;
INSERT INTO query_encodings SELECT 'e', query_id, 'x'::BLOB, 1, 1, 'ok' FROM queries;
INSERT INTO curvatures VALUES ('e', 'corpus', 'b', 3, 1, 'x');
INSERT INTO terms VALUES (1, 'was', 2), (2, 'ada', 1), (3, 'left', 1);
INSERT INTO postings VALUES (1, 1, 2), (2, 1, 1), (1, 3, 1), (3, 3, 1);
INSERT INTO lexical_stats VALUES (1, 3), (2, 0), (3, 2);
INSERT INTO scorings VALUES ('s', 'bm25', 'retrieval', 'bm25', '{}', NULL, 3, now(), '0');
INSERT INTO scores VALUES ('s', 1, 1, 1, .5), ('s', 2, 2, 1, .5);
INSERT INTO scoring_queries VALUES ('s', 1), ('s', 2);
INSERT INTO query_losses SELECT 'm', query_id, 1, 1, 'ok' FROM queries;
INSERT INTO tail_patches SELECT query_id, example_id, 'm', 'adam', 1, 1, 1, 1, 1 FROM queries, examples
"""
TABLES = ("encodings", "query_encodings", "curvatures", "postings", "lexical_stats", "scorings", "scores",
          "scoring_queries", "query_losses", "tail_patches", "labels")  # fmt: skip


def sizes(store: Store) -> dict[str, int]:
    return {table: store.value(f"SELECT count(*) FROM {table}") for table in TABLES}


def test_a_replaced_text_takes_what_was_derived_from_it(filled: Store, tmp_path: Path) -> None:
    filled.execute(DERIVED)
    file = jsonl(tmp_path / "new.jsonl", [ROWS[1], {**ROWS[0], "text": "Ada left."}])
    message = refused(filled, lambda: ingest_corpus(filled, [file]))
    assert message.startswith(f"{file}, line 2: the text of 'a' differs from the store's\n")
    assert "replace takes" in message
    assert ingest_corpus(filled, [file], replace=True) == Counts(unchanged=1, replaced=1, scorings_older=1)
    assert stored(filled)[0] == (1, "a", "Ada left.", "wiki", '{"relation":"P19"}')
    assert filled.value("SELECT content_hash = md5_number(text) FROM examples WHERE example_id = 1")
    assert sizes(filled) == {
        "encodings": 2, "query_encodings": 2, "curvatures": 0, "postings": 2, "lexical_stats": 2,
        "scorings": 1, "scores": 2, "scoring_queries": 2, "query_losses": 2, "tail_patches": 4, "labels": 2,
    }  # fmt: skip
    assert filled.rows("FROM terms ORDER BY term_id") == [(1, "was", 1), (3, "left", 1)]
    assert ingest_corpus(filled, [file]) == Counts(unchanged=2)


def test_a_replaced_query_takes_what_was_derived_from_it(filled: Store, tmp_path: Path) -> None:
    filled.execute(DERIVED)
    file = jsonl(tmp_path / "new.jsonl", [{**QUERIES[1], "target": " Tōkyō"}])
    message = refused(filled, lambda: ingest_queries(filled, [file]))
    assert message.startswith(f"{file}, line 1: the prompt or target of 'q2' differs from the store's\n")
    assert ingest_queries(filled, [file], replace=True) == Counts(replaced=1, scorings_older=1)
    assert filled.value("SELECT target FROM queries WHERE query_id = 2") == " Tōkyō"
    same = "SELECT content_hash = md5_number(prompt || chr(31) || target) FROM queries WHERE query_id = 2"
    assert filled.value(same)  # or it would differ from one that was never replaced
    assert sizes(filled) == {
        "encodings": 3, "query_encodings": 1, "curvatures": 1, "postings": 4, "lexical_stats": 3,
        "scorings": 1, "scores": 2, "scoring_queries": 2, "query_losses": 1, "tail_patches": 3, "labels": 2,
    }  # fmt: skip
    assert filled.rows("SELECT side FROM curvatures") == [("corpus",)]


def test_moving_a_character_between_prompt_and_target_is_a_change(filled: Store, tmp_path: Path) -> None:
    moved = jsonl(tmp_path / "q.jsonl", [{"id": "q1", "prompt": "Ada was born in ", "target": "London"}])
    assert "'q1'" in refused(filled, lambda: ingest_queries(filled, [moved]))


# Labels


def test_labels_default_to_one_and_remember_their_file(filled: Store, tmp_path: Path) -> None:
    pairs = [{"q": "q1", "e": "c", "who": "me"}, {"q": "q1", "e": "c", "who": "you"}, {"q": "q2", "e": "a"}]
    file = jsonl(tmp_path / "more.jsonl", pairs)
    last = jsonl(tmp_path / "last.jsonl", [{"q": "q2", "e": "c"}])
    assert ingest_labels(filled, [file, last], query="q", example="e") == Counts(added=3)
    assert filled.rows("SELECT * FROM labels ORDER BY ALL") == [
        (1, 1, 1.0, "labels.jsonl"),
        (1, 3, 1.0, "more.jsonl"),
        (2, 1, 1.0, "more.jsonl"),
        (2, 2, 2.0, "labels.jsonl"),
        (2, 3, 1.0, "last.jsonl"),
    ]


def test_bad_labels_are_named_or_skipped(filled: Store, tmp_path: Path) -> None:
    rows = [
        {"query_id": "q1", "example_id": "b", "label": 0.5},
        {"query_id": "q9", "example_id": "b", "label": 1},
        {"query_id": "q1", "example_id": "z", "label": 1},
        {"query_id": "q1", "example_id": "c", "label": "yes"},
        {"query_id": "q1", "example_id": "c"},
        {"query_id": "q1", "example_id": "c", "label": float("nan")},
    ]
    file = jsonl(tmp_path / "l.jsonl", rows)
    message = refused(filled, lambda: ingest_labels(filled, [file]))
    assert message.split("\n  ")[:5] == [
        f"{file}, line 2: no query 'q9'",
        f"{file}, line 3: no example 'z'",
        f"{file}, line 4: the label 'yes' is not a number",
        f"{file}, line 5: no 'label'",
        message.split("\n  ")[4],
    ]
    assert message.split("\n  ")[4].startswith(f"{file}, line 6: the label 'NaN' is not a number")
    assert ingest_labels(filled, [file], skip_bad=True) == Counts(added=1, skipped=5)


def test_labels_that_disagree(filled: Store, tmp_path: Path) -> None:
    pair = {"query_id": "q1", "example_id": "b"}
    one, two = ({**pair, "label": 1}, {**pair, "label": 0})
    file = jsonl(tmp_path / "l.jsonl", [one, {**one, "label": 1.0}, two])
    message = refused(filled, lambda: ingest_labels(filled, [file]))
    assert message.startswith(f"query 'q1', example 'b': 1 ({file}, line 1) and 0 ({file}, line 3)\n")
    changed = jsonl(tmp_path / "m.jsonl", [{**LABELS[0], "label": 3}])
    message = refused(filled, lambda: ingest_labels(filled, [changed]))
    assert message.startswith(f"{changed}, line 1: the label of 'q1, a' differs from the store's\n")
    assert ingest_labels(filled, [changed], replace=True) == Counts(replaced=1)
    assert filled.rows("SELECT label, origin FROM labels WHERE query_id = 1") == [(3.0, "m.jsonl")]


# Refusals


def test_files_that_are_not_there_or_not_known(filled: Store, tmp_path: Path) -> None:
    def refuse(name: Path) -> str:
        return refused(filled, lambda: ingest_corpus(filled, [name]))

    assert refuse(tmp_path / "no.jsonl") == f"{tmp_path}/no.jsonl: no such file."
    assert refuse(tmp_path / "no*.csv") == f"{tmp_path}/no*.csv: no file matches this pattern."
    (tmp_path / "x.txt").write_text("x")
    assert refuse(tmp_path / "x.txt").startswith(f"{tmp_path}/x.txt: attrstore does not know this extension.")
    (tmp_path / "empty").mkdir()
    assert refuse(tmp_path / "empty").startswith(f"{tmp_path}/empty: no file in this folder")
    for name in ("e.jsonl", "e.csv"):
        (tmp_path / name).write_text("")
        assert refuse(tmp_path / name) == f"{tmp_path}/{name}: no rows."
    assert "No input file" in refused(filled, lambda: ingest_corpus(filled, []))


def test_files_that_are_not_what_they_say(filled: Store, tmp_path: Path) -> None:
    for name in ("x.parquet", "x.arrow", "x.jsonl.gz", "x.csv.gz", "x.json"):
        file = tmp_path / name
        file.write_bytes(b'[{"id": 1, "text": "x"' * 20)
        message = refused(filled, lambda: ingest_corpus(filled, [file]))  # noqa: B023
        assert message.startswith(f"{file}: cannot be read"), name


def test_a_truncated_gzip_is_refused(filled: Store, tmp_path: Path) -> None:
    whole = compressed(jsonl(tmp_path / "c.jsonl", ROWS)).read_bytes()
    (tmp_path / "t.jsonl.gz").write_bytes(whole[:-20])
    message = refused(filled, lambda: ingest_corpus(filled, [tmp_path / "t.jsonl.gz"]))
    assert message.startswith(f"{tmp_path}/t.jsonl.gz: cannot be read. ")


def test_a_file_without_ids_lacks_its_first_column(filled: Store, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "none.jsonl", [{"text": "a", "source": "b"}])
    assert "no column 'id'. Its columns: text, source. " in refused(
        filled, lambda: ingest_corpus(filled, [file])
    )


def test_a_missing_column_lists_the_others(filled: Store, tmp_path: Path) -> None:
    for name in ("jsonl", "csv", "parquet", "feather"):
        file = FORMATS[name](tmp_path)
        message = refused(filled, lambda: ingest_corpus(filled, [file], text="Txt"))  # noqa: B023
        assert message == (
            f"{file}: no column 'Txt'. Its columns: id, text, source, relation. "
            "Nothing was ingested; did you mean text 'text'?"
        )
        message = refused(filled, lambda: ingest_corpus(filled, [file], source="domain"))  # noqa: B023
        assert message.endswith("Nothing was ingested; name it with source NAME.")


def test_a_column_missing_in_one_of_two_files(store: Store, tmp_path: Path) -> None:
    files = [jsonl(tmp_path / "1.jsonl", ROWS), jsonl(tmp_path / "2.jsonl", [{"id": 9, "body": "x"}])]
    message = refused(store, lambda: ingest_corpus(store, files, skip_bad=True))
    assert message.startswith(f"{files[1]}: no column 'text'. Its columns: id, body.")


def test_bad_rows_are_named_or_skipped(store: Store, tmp_path: Path) -> None:
    file = lines(
        tmp_path / "c.jsonl",
        '{"id": "a", "text": "good"}',
        '{"id": "b", "text": ',
        '{"text": "no id"}',
        '{"id": "", "text": "empty id"}',
        '{"id": "c", "text": " \\n"}',
        '{"id": "d", "text": null}',
        '{"id": "e", "text": ["a", "list"]}',
        "[1]",
        '{"id": "f", "text": "also good"}',
    )
    message = refused(store, lambda: ingest_corpus(store, [file]))
    assert message.split("\n  ") == [
        f'{file}, line 2: malformed JSON: {{"id": "b", "text": ',
        f"{file}, line 3: no 'id'",
        f"{file}, line 4: no 'id'",
        f"{file}, line 5: no 'text'",
        f"{file}, line 6: no 'text'",
        "... and 2 more\nNothing was ingested. Correct them, or leave such rows out with skip_bad.",
    ]
    assert ingest_corpus(store, [file], skip_bad=True) == Counts(added=2, skipped=7)
    assert [row[:3] for row in stored(store)] == [(1, "a", "good"), (2, "f", "also good")]


def test_bytes_that_are_not_utf8_are_named_by_line(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(b'{"id": 1, "text": "ok"}\n{"id": 2, "text": "caf\xe9"}\n')
    message = refused(store, lambda: ingest_corpus(store, [file]))
    assert message.startswith(f"{file}, line 2: malformed JSON: not UTF-8: ")
    assert ingest_corpus(store, [file], skip_bad=True) == Counts(added=1, skipped=1)
    table = tmp_path / "c.csv"
    table.write_bytes(b"id,text\n3,ok\n4,caf\xe9\n5,ok\n")
    message = refused(store, lambda: ingest_corpus(store, [table]))
    assert message.startswith(f"{table}, row 3: malformed row: invalid encoding: ")
    assert ingest_corpus(store, [table], skip_bad=True) == Counts(added=2, skipped=1)
    table.write_bytes(b"id,t\xe9xt\n3,ok\n")
    assert refused(store, lambda: ingest_corpus(store, [table])).startswith(
        f"{table}, row 1: the header cannot"
    )


@pytest.mark.parametrize(("n", "closed"), [(60, None), (60, 40), (20_000, None)])
def test_every_row_that_an_open_quote_swallows_is_counted(
    store: Store, tmp_path: Path, n: int, closed: int | None
) -> None:
    rows = [f"{i},text {i}" for i in range(n)]
    rows[3] = '3,"two\nlines"'
    rows[10] = '10,"open'
    if closed:
        rows[closed] = f'{closed},more" text'
    file = lines(tmp_path / "c.csv", "id,text", *rows)
    swallowed = (closed + 1 if closed else n) - 10
    message = refused(store, lambda: ingest_corpus(store, [file]))
    assert f"and {swallowed - 5} more" in message
    assert "inside the quote that row" in message
    assert ingest_corpus(store, [file], skip_bad=True) == Counts(added=n - swallowed, skipped=swallowed)


def test_csv_rows_that_do_not_fit_are_named_by_row(store: Store, tmp_path: Path) -> None:
    file = lines(tmp_path / "c.csv", "id,text", "1,a", "2,b,c", "3", "4,d", '5,"open')
    message = refused(store, lambda: ingest_corpus(store, [file]))
    assert message.split("\n")[0] == f"{file}, row 3: malformed row: too many columns: 2,b,c"
    assert f"{file}, row 4: malformed row: missing columns: 3" in message
    assert f'{file}, row 6: malformed row: unquoted value: 5,"open' in message
    assert ingest_corpus(store, [file], skip_bad=True) == Counts(added=2, skipped=3)
    twice = lines(tmp_path / "t.csv", "id,text,text", "1,a,b")
    assert refused(store, lambda: ingest_corpus(store, [twice])).startswith(f"{twice}, row 1: two columns")


def test_queries_keep_white_space_but_not_emptiness(store: Store, tmp_path: Path) -> None:
    rows = [{"id": 1, "prompt": "Then", "target": "\n"}, {"id": 2, "prompt": "x", "target": ""}]
    file = jsonl(tmp_path / "q.jsonl", rows)
    assert refused(store, lambda: ingest_queries(store, [file])).startswith(f"{file}, line 2: no 'target'")
    assert ingest_queries(store, [file], skip_bad=True) == Counts(added=1, skipped=1)
    assert store.rows("SELECT query_id, external_id, prompt, target, metadata FROM queries") == [
        (1, "1", "Then", "\n", None)
    ]


def test_duplicate_ids_name_both_places(store: Store, tmp_path: Path) -> None:
    one = jsonl(tmp_path / "1.jsonl", [{"id": 1, "text": "x"}, {"id": "2", "text": "y"}])
    two = jsonl(tmp_path / "2.jsonl", [{"id": "new", "text": "z"}, {"id": "1", "text": "x"}])
    for skip_bad in (False, True):
        message = refused(store, lambda: ingest_corpus(store, [one, two], skip_bad=skip_bad))  # noqa: B023
        assert message.startswith(f"id '1' twice: {one}, line 1 and {two}, line 2\n")


def test_a_failed_write_leaves_only_a_failed_run(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.execute(DERIVED)
    named = Store.named

    def full_disk(store: Store, file: str, name: str, parameters: Any = None) -> Any:
        if name == "insert_examples":
            raise attrstore.StoreError("no space left")
        return named(store, file, name, parameters)

    monkeypatch.setattr(Store, "named", full_disk)
    before = snapshot(filled)
    file = jsonl(tmp_path / "c.jsonl", [{**ROWS[0], "text": "other"}, {"id": "new", "text": "x"}])
    with pytest.raises(attrstore.StoreError):
        ingest_corpus(filled, [file], replace=True)
    after = snapshot(filled)
    del before["runs"], after["runs"]
    assert after == before
    last = filled.rows("SELECT job, rows, state, message FROM runs ORDER BY run_id DESC LIMIT 1")
    assert last == [("ingest corpus", 0, "failed", "no space left")]


def test_ctrl_c_while_reading_leaves_the_store_as_it_was(filled: Store, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = snapshot(filled)
    file = jsonl(tmp_path / "c.jsonl", [{"id": "new", "text": "x"}])
    with pytest.raises(KeyboardInterrupt):
        ingest_corpus(filled, [file], progress=stop)
    assert snapshot(filled) == before
    assert ingest_corpus(filled, [file]) == Counts(added=1)


# The command line


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_commands_print_counts_and_the_next_step(path: Path, tmp_path: Path) -> None:
    attrstore.open(path, create=True).close()
    corpus = jsonl(tmp_path / "corpus.jsonl", [{"doc": 1, "body": "x"}, {"doc": 2}])
    options = ("--id", "doc", "--text", "body")
    result = call("ingest", "corpus", path, corpus, *options, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert (
        result.stdout == f"1 example added, 1 skipped. Next: attrstore ingest queries {path} queries.jsonl\n"
    )
    queries = jsonl(tmp_path / "queries.jsonl", QUERIES)
    result = call("ingest", "queries", path, queries)
    assert result.stdout == f"2 queries added. Next: attrstore ingest labels {path} labels.jsonl\n"
    labels = delimited(tmp_path / "labels.csv", [{"qid": "q1", "doc": 1}])
    result = call("ingest", "labels", path, labels, "--query", "qid", "--example", "doc")
    assert result.stdout.startswith("1 label added. Next: attrstore ingest lexical ")
    with attrstore.open(path, writable=True) as store:
        store.execute(DERIVED)
    more = jsonl(tmp_path / "more.jsonl", [{"query_id": "q2", "example_id": 1}])
    result = call("ingest", "labels", path, more)
    assert result.stdout.startswith(
        "1 label added. 1 scoring is older than these labels, and stale: score again. Next"
    )
    jsonl(corpus, [{"doc": 1, "body": "other"}])
    result = call("ingest", "corpus", path, corpus, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {corpus}, line 1: the text of '1' differs from the store's")
    result = call("ingest", "corpus", path, corpus, *options, "--replace")
    assert result.stdout.startswith(
        "0 examples added, 1 replaced. What was derived from the replaced ones is dropped: ingest again. 1 scoring is"
    )


def test_bad_calls_exit_2_and_name_the_file(path: Path, tmp_path: Path) -> None:
    attrstore.open(path, create=True).close()
    bad = lines(tmp_path / "c.jsonl", '{"id": "a", "text": "x"}', "{")
    for arguments in (("no.jsonl",), (bad,), (bad, "--text", "body")):
        result = call("ingest", "corpus", path, *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"Error: {arguments[0]}" in result.stderr
    with attrstore.open(path) as store:
        assert store.rows("SELECT (SELECT count(*) FROM examples), (SELECT count(*) FROM runs)") == [(0, 0)]


def test_help_shows_an_example() -> None:
    for name in ("corpus", "queries", "labels"):
        result = call("ingest", name, "--help")
        assert result.exit_code == 0
        assert f"Example: attrstore ingest {name} facts.duckdb {name}.jsonl" in result.stdout


def test_ids_made_of_the_content_are_the_same_in_any_order(store: Store, tmp_path: Path) -> None:
    import hashlib

    texts = ["one", "two", "one", "three"]
    first = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    result = CliRunner().invoke(main, ["ingest", "corpus", "--help"])
    assert "ids are made of the content" in " ".join(result.output.split())
    assert ingest_corpus(store, [first], id="auto") == Counts(added=3, repeated=1)
    made = dict(store.rows("SELECT text, external_id FROM examples"))
    assert made["one"] == "auto-" + hashlib.sha256(b"one").hexdigest()[:16]
    second = jsonl(tmp_path / "b.jsonl", [{"text": text} for text in ["four", *reversed(texts)]])
    assert ingest_corpus(store, [second], id="auto") == Counts(added=1, unchanged=3, repeated=1)
    asked = jsonl(tmp_path / "q.jsonl", [{"prompt": "a", "target": " b"}, {"prompt": "a ", "target": "b"}])
    assert ingest_queries(store, [asked], id="auto").added == 2  # where the target begins is content too


def test_a_replaced_text_leaves_the_scorings_and_marks_them(filled: Store, tmp_path: Path) -> None:
    filled.execute(
        "INSERT INTO scorings VALUES ('s', 'bm25', 'retrieval', 'bm25', '{}', NULL, 3, now(), '0')"
    )
    filled.execute("INSERT INTO scoring_inputs SELECT 's', input, n, digest FROM present_inputs")
    assert filled.value("SELECT stale FROM scoring_status") is False
    file = jsonl(tmp_path / "new.jsonl", [{**ROWS[0], "text": "Ada left."}])
    ingest_corpus(filled, [file], replace=True)
    assert filled.value("SELECT stale FROM scoring_status") is True
