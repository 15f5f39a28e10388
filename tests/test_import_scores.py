"""Imported matrices: every format, order and sign, ranks against numpy, class attribution by hand, refusals."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import InputError, Store
from attrstore.check import check
from attrstore.cli import main
from attrstore.evaluation.report import tabulate

N_QUERIES, N_EXAMPLES = 5, 12


def fill(store: Store, n_queries: int = N_QUERIES, n_examples: int = N_EXAMPLES) -> None:
    """Ids that do not sort as they were ingested, classes 0..2, and surrogate keys with gaps."""
    store.execute(
        "INSERT INTO examples SELECT 3 * i + 7, 'e' || ($n - i), 'text', NULL, json_object('class', i % 3), "
        "md5_number('text') "
        "FROM range($n) t(i)",
        {"n": n_examples},
    )
    store.execute(
        "INSERT INTO queries SELECT 2 * i + 1, 'q' || ($n - i), 'p', 't', json_object('class', i % 3), "
        "md5_number('p' || chr(31) || 't') "
        "FROM range($n) t(i)",
        {"n": n_queries},
    )


def imported(store: Store, matrix: Path, **options: Any) -> None:
    from attrstore.ingest.files.scores import import_scores

    import_scores(store, matrix, **{"name": "m", **options})


def by_rank(store: Store, name: str = "m") -> dict[int, list[tuple[int, int, float]]]:
    """(rank, column, score) of each row of the matrix, in the order of the whole ranking."""
    found: dict[int, list[tuple[int, int, float]]] = {}
    for query, example, rank, score in store.rows(
        "SELECT query_id, example_id, rank, score FROM scores JOIN scorings USING (scoring_id) "
        "WHERE name = $name ORDER BY query_id, position_of(rank, n_examples)",
        {"name": name},
    ):
        found.setdefault((query - 1) // 2, []).append((rank, (example - 7) // 3, score))
    return found


def expected(matrix: np.ndarray, top_k: int) -> dict[int, list[tuple[int, int, float]]]:
    """Both ends of each row, strongest first, equal scores in order of the columns."""
    found = {}
    for row, scores in enumerate(matrix):
        order = [column for _, column in sorted((-score, column) for column, score in enumerate(scores))]
        n = len(order)
        found[row] = [
            (place if place <= top_k else place - n - 1, column, float(scores[column]) + 0.0)
            for place, column in enumerate(order, 1)
            if place <= top_k or place > n - top_k
        ]
    return found


@pytest.fixture
def matrix() -> np.ndarray:
    """Few distinct values, so that ties are common; negative zero and exact halves survive every format."""
    return np.random.default_rng(3).integers(-4, 5, (N_QUERIES, N_EXAMPLES)) / 2


def csv_text(matrix: np.ndarray, header: list[str] | None, index: list[str] | None) -> str:
    rows = [[str(float(cell)) for cell in row] for row in matrix]
    if index:
        rows = [[name, *row] for name, row in zip(index, rows, strict=True)]
    return "\n".join(",".join(row) for row in ([header] if header else []) + rows) + "\n"


COUNTED, WORDS = [str(i) for i in range(N_EXAMPLES)], [f"sentence {i}" for i in range(N_EXAMPLES)]
NUMBERED = [str(i) for i in range(N_QUERIES)]


@pytest.mark.parametrize(
    ("header", "index"),
    [
        (None, None),
        (COUNTED, None),
        (WORDS, None),
        (None, NUMBERED),
        (["", *COUNTED], NUMBERED),
        (["row", *WORDS], [f"q-{i}" for i in range(N_QUERIES)]),
        (COUNTED, NUMBERED),  # nothing over the index column
        ([str(i) for i in range(N_EXAMPLES + 1)], NUMBERED),  # it counts on over the index column
    ],
)
def test_csv_with_and_without_header_and_index(
    store: Store, tmp_path: Path, matrix: np.ndarray, header: list[str] | None, index: list[str] | None
) -> None:
    fill(store)
    file = tmp_path / "m.csv"
    file.write_text(csv_text(matrix, header, index), encoding="utf-8")
    imported(store, file)
    assert by_rank(store) == expected(matrix, N_EXAMPLES // 2)
    assert [finding for finding in check(store) if not finding.ok] == []


def test_every_format_gives_the_same_scores(store: Store, tmp_path: Path, matrix: np.ndarray) -> None:
    fill(store)
    text = csv_text(matrix, None, None)
    (tmp_path / "a.tsv").write_text(text.replace(",", "\t"), encoding="utf-8")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text.encode()))
    np.save(tmp_path / "c.npy", matrix.astype(np.float32))
    np.save(tmp_path / "d.npy", np.asfortranarray(np.column_stack([np.arange(N_QUERIES), matrix])))
    columns = {name: pa.array(matrix[:, i]) for i, name in enumerate(WORDS)}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    pq.write_table(pa.table({"id": pa.array(WORDS[:N_QUERIES]), **columns}), tmp_path / "f.parquet")
    pq.write_table(
        pa.table({**columns, "__index_level_0__": pa.array(range(N_QUERIES))}), tmp_path / "g.parquet"
    )
    for file in sorted(tmp_path.glob("[a-g].*")):
        imported(store, file, name=file.name)
        assert by_rank(store, file.name) == expected(matrix, N_EXAMPLES // 2), file.name


def test_ids_in_header_and_index_decide_the_order(store: Store, tmp_path: Path, matrix: np.ndarray) -> None:
    fill(store)
    file = tmp_path / "m.csv"
    # q1 was ingested last and e1 too: named so, the matrix is upside down and back to front.
    header = ["", *(f"e{i + 1}" for i in range(N_EXAMPLES))]
    file.write_text(csv_text(matrix, header, [f"q{i + 1}" for i in range(N_QUERIES)]), encoding="utf-8")
    imported(store, file)
    assert by_rank(store) == expected(matrix[::-1, ::-1], N_EXAMPLES // 2)
    file.write_text(csv_text(matrix, [*header[:-1], "e99"], NUMBERED), encoding="utf-8")
    with pytest.raises(InputError, match=r"columns are named by the store's ids, but 'e99' is not in"):
        imported(store, file)


def test_lower_is_stronger_turns_the_sign(store: Store, tmp_path: Path, matrix: np.ndarray) -> None:
    fill(store)
    np.save(tmp_path / "m.npy", matrix)
    imported(store, tmp_path / "m.npy", lower_is_stronger=True, method="datainf")
    assert by_rank(store) == expected(-matrix, N_EXAMPLES // 2)
    assert store.value("SELECT count(*) FROM scores WHERE score = 0 AND signbit(score)") == 0
    row = store.rows("SELECT family, method, encoder_id, n_examples, spec FROM scorings")[0]
    assert row[:4] == ("influence", "datainf", None, N_EXAMPLES)
    assert json.loads(row[4]) == {
        "file": "m.npy", "shape": [5, 12], "sign": "lower is stronger", "top_k": 6, "where": None,
    }  # fmt: skip
    assert store.rows("SELECT job, state, rows FROM runs") == [("import scores", "finished", 60)]
    assert store.value("SELECT list(query_id ORDER BY query_id) FROM scoring_queries") == [1, 3, 5, 7, 9]


def test_labelled_pairs_keep_their_exact_rank(
    store: Store, tmp_path: Path, matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attrstore.ingest.files import scores

    monkeypatch.setattr(scores, "CELLS_AT_A_TIME", 2 * N_EXAMPLES)  # three blocks
    fill(store)
    store.execute("INSERT INTO labels SELECT query_id, example_id, 1, 'all' FROM queries, examples")
    np.save(tmp_path / "m.npy", matrix)
    imported(store, tmp_path / "m.npy", top_k=2)
    whole = expected(matrix, N_EXAMPLES)
    ends = {row: [r for r, _, _ in ranking] for row, ranking in expected(matrix, 2).items()}
    for row, ranking in by_rank(store).items():
        assert [pair[1:] for pair in ranking] == [pair[1:] for pair in whole[row]]
        assert [rank for rank, _, _ in ranking] == [1, 2, *range(3, 11), -2, -1]
        assert ends[row] == [1, 2, -2, -1]


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_as_many_opponents_are_kept_as_proponents(
    store: Store, tmp_path: Path, matrix: np.ndarray, top_k: int
) -> None:
    fill(store)
    np.save(tmp_path / "m.npy", matrix)
    imported(store, tmp_path / "m.npy", top_k=top_k)
    assert by_rank(store) == expected(matrix, top_k)
    ranks = [rank for rank, _, _ in by_rank(store)[0]]
    assert ranks == [*range(1, top_k + 1), *range(-top_k, 0)]


def test_class_attribution_by_hand(path: Path, store: Store, tmp_path: Path) -> None:
    """Classes of the six examples a b c a b c; depth is 6 / 3 = 2."""
    fill(store, n_queries=3, n_examples=6)
    scores = np.array(
        [
            [9, 1, 1, 8, 1, 1],  # class a: a a -> right, 2 of 2
            [9, 8, 1, 1, 1, 1],  # class b: a b -> wrong, 1 of 2
            [9, 1, 1, 8, 1, 1],  # class c: a a -> wrong, 0 of 2
        ]
    )
    np.save(tmp_path / "m.npy", scores)
    imported(store, tmp_path / "m.npy")
    record = tabulate(store, class_column="class").records()[0]
    assert (record["accuracy"], record["cover"]) == (pytest.approx(1 / 3), pytest.approx(0.5))
    imported(store, tmp_path / "m.npy", name="shallow", top_k=1)
    shallow = tabulate(store, class_column="class")
    record = next(r for r in shallow.records() if r["name"] == "shallow")
    assert (record["accuracy"], record["cover"]) == (pytest.approx(1 / 3), None)
    assert "top_k 2" in shallow.notes[0]
    store.close()
    with duckdb.connect(str(path), read_only=True) as plain:
        names = plain.execute("SELECT name, queries FROM method_report ORDER BY name").fetchall()
    assert names == [("m", 3), ("shallow", 3)]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1,2,3\n4,5,6\n", {}, r"2 rows of 3 numbers, and the store has 2 queries \(rows\) and 4 examples"),
        ("1,2\n1,2\n1,2\n1,2\n", {}, "transposed"),
        ("9,1,2,3,4\n7,1,2,3,4\n", {}, "index_column"),
        ("9,1,2,3\n7,1,2,3\n4,1,1,1\n", {}, "header"),
        ("1,2,3,4\n1,2,x,4\n", {}, "row 2, column 3: 'x' is not a number"),
        ("a,b,c,d\n1,2,3,4\n1,,3,4\n", {}, "row 3, column 2: '' is not a number"),
        ("i,a,b,c,d\nu,1,2,3,4\nv,1,2,3,nan\n", {}, r"row 3, column 5: no number \(NaN\)"),
        ("1,2,3,4\n1,2,inf,4\n", {}, r"row 2, column 3: \+inf there, which is no score"),
        ("i,a,b,c,d\nu,1,-inf,3,4\nv,1,2,3,4\n", {}, r"row 2, column 3: -inf there, which is no score"),
        ("1,2,3,4\n1,2,3\n", {}, "row 2 has 3"),
        ("1,2,3,4\n1,2,3,4\n1,2\n", {}, "row 3: 2 columns"),
        ("", {}, "empty"),
        ("1,2,3,4\n1,2,3,4\n", {"top_k": 0}, "top_k 0"),
        ("1,2,3,4\n1,2,3,4\n", {"header": True}, "1 rows"),
        ("1,2,3,4\n1,2,3,4\n", {"index_column": True}, "3 numbers"),
    ],
)
def test_a_bad_matrix_is_refused_and_nothing_is_written(
    store: Store, tmp_path: Path, text: str, options: dict[str, object], message: str
) -> None:
    fill(store, n_queries=2, n_examples=4)
    file = tmp_path / "m.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        imported(store, file, **options)
    assert store.rows("SELECT (SELECT count(*) FROM scorings), (SELECT count(*) FROM scores)") == [(0, 0)]


def test_other_files_are_refused(store: Store, tmp_path: Path) -> None:
    fill(store, n_queries=2, n_examples=4)
    np.save(tmp_path / "one.npy", np.zeros(8))
    np.save(tmp_path / "pickled.npy", np.array([[object()]]), allow_pickle=True)
    np.save(tmp_path / "nan.npy", np.array([[1, 2, 3, 4], [1, 2, np.nan, 4]]))
    pq.write_table(
        pa.table({"a": [1, 2], "b": [1, 2], "c": ["x", "y"], "d": [1, 2]}), tmp_path / "text.parquet"
    )
    pq.write_table(
        pa.table({"a": [1, None], "b": [1, 2], "c": [1, 2], "d": [1, 2]}), tmp_path / "null.parquet"
    )
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "m.xlsx").write_bytes(b"")
    for name, message in {
        "absent.csv": "no such file",
        "m.xlsx": "not a format for a matrix",
        "one.npy": r"float64 of shape \(8,\)",
        "pickled.npy": "cannot be read as a matrix",
        "nan.npy": "row 2, column 3: no number",
        "text.parquet": "column 'c': holds string",
        "null.parquet": "row 2, column 1: no number",
        "broken.parquet": "cannot be read as a matrix",
    }.items():
        with pytest.raises(InputError, match=message):
            imported(store, tmp_path / name)
    with pytest.raises(InputError, match="for csv"):
        imported(store, tmp_path / "nan.npy", header=True)


def test_names_and_empty_stores(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.eye(2, 4))
    with pytest.raises(InputError, match="no corpus yet"):
        imported(store, tmp_path / "m.npy")
    fill(store, n_queries=2, n_examples=4)
    imported(store, tmp_path / "m.npy")
    with pytest.raises(InputError, match="there is a scoring called m"):
        imported(store, tmp_path / "m.npy", replace=False)
    imported(store, tmp_path / "m.npy", lower_is_stronger=True)
    assert store.rows("SELECT count(*), max(spec ->> 'sign') FROM scorings") == [(1, "lower is stronger")]
    assert store.value("SELECT count(*) FROM scores") == 8


def test_the_command(path: Path, tmp_path: Path) -> None:
    with attrstore.open(path, create=True) as opened:
        fill(opened, n_queries=2, n_examples=4)
    file = tmp_path / "m.csv"
    file.write_text("0,1,2,3\n3,2,1,0\n", encoding="utf-8")  # counts, but every row is a query: no header
    arguments = ["import", "scores", str(path), str(file), "--name", "theirs", "--lower-is-stronger"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "theirs: 4 examples ranked, 8 pairs kept." in result.output
    with attrstore.open(path) as opened:
        assert by_rank(opened, "theirs")[0] == [(1, 0, 0.0), (2, 1, -1.0), (-2, 2, -2.0), (-1, 3, -3.0)]
    result = CliRunner().invoke(main, [*arguments, "--header"])
    assert result.exit_code == 2
    assert "1 rows of 4 numbers" in result.output
    for command in (["import"], ["import", "scores"]):
        assert (
            f"Example: attrstore {' '.join(command)} "
            in CliRunner().invoke(main, [*command, "--help"]).output
        )
