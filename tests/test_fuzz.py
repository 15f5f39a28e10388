"""Whatever bytes, arguments and addresses come in: a result or one line that says what is wrong, never a crash."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from starlette.testclient import TestClient

import attrstore
from attrstore.cli import COMMANDS, main
from attrstore.statements import named
from attrstore.vectors.codes import decode
from attrstore.vectors.encoders import Block
from attrstore.vectors.quantisations import CODES
from attrstore.web.address import Address
from attrstore.web.app import application
from tests import scored, tiny

EXAMPLES, QUERIES = 7, 3
HOST = "127.0.0.1:8642"
few = settings(
    max_examples=15, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
many = settings(few, max_examples=100)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "s.duckdb"
    with attrstore.open(path, create=True) as opened:
        tiny.fill(opened, tiny.sentences(EXAMPLES), [("a", " b"), ("c", " d"), ("e", " f")], [(0, 6), (1, 0)])
    return path


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def arrow(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(out, table.schema) as file:
        file.write_table(table)
    return out.getvalue()


def npy(matrix: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, matrix)
    return out.getvalue()


CORPUS = [{"id": f"n{i}", "text": f"text {i}, é", "metadata": {"a": i}} for i in range(4)]
ASKED = [{"id": f"n{i}", "prompt": f"where is {i}", "target": f" in {i}"} for i in range(3)]
MATRIX = np.arange(QUERIES * EXAMPLES, dtype=np.float32).reshape(QUERIES, EXAMPLES)
PAIR = [{"query_id": "q-0", "prompt": "a", "target": " b", "proponents": [{"id": "e-1", "score": 2.0}]}]
# The file as it should be, and the command that takes it.
FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "corpus, jsonl": ("c.jsonl", lines(CORPUS), ["ingest", "corpus"]),
    "corpus, json": ("c.json", json.dumps(CORPUS).encode(), ["ingest", "corpus"]),
    "corpus, csv": ("c.csv", b'id,text\nn1,"a ""quoted"", b"\nn2,\xc3\xa9\n', ["ingest", "corpus"]),
    "corpus, parquet": ("c.parquet", parquet(CORPUS), ["ingest", "corpus"]),
    "corpus, arrow": ("c.arrow", arrow(CORPUS), ["ingest", "corpus"]),
    "corpus, skipping": ("c.jsonl", lines(CORPUS), ["ingest", "corpus", "--skip-bad"]),
    "queries": ("q.jsonl", lines(ASKED), ["ingest", "queries"]),
    "labels": ("l.csv", b"query_id,example_id,label\nq-0,e-1,1\nq-1,e-2,0.5\n", ["ingest", "labels"]),
    "matrix, npy": ("m.npy", npy(MATRIX), ["import", "scores"]),
    "matrix, csv": (
        "m.csv",
        "\n".join(",".join(map(str, row)) for row in MATRIX).encode(),
        ["import", "scores"],
    ),
    "matrix, safetensors": ("m.safetensors", save({"all_modules": MATRIX}), ["import", "scores"]),
    "ranking, trec": ("r.trec", b"q-0 Q0 e-1 1 2.5 run\nq-0 Q0 e-2 2 1.5 run\n", ["import", "ranking"]),
    "ranking, pair": ("r.jsonl", lines(PAIR), ["import", "ranking"]),
    "qrels": ("r.qrels", b"q-0 0 e-1 1\nq-2 0 e-3 0\n", ["import", "qrels"]),
}

edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1, max_size=5,
)  # fmt: skip


def edited(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, share, bytes_ in changes:
        at = int(share * len(data))
        if what == "flip":
            data = data[:at] + bytes([(data[at] if at < len(data) else 0) ^ bytes_[0]]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at] if bytes_[0] % 2 else data[at:]
        elif what == "insert":
            data = data[:at] + bytes_ + data[at:]
        else:
            data = data[:at] + data[at : at + 40] * (1 + bytes_[0] % 4) + data[at:]
    return data


def ends_well(arguments: list[str]) -> None:
    """A result, or one line and the exit code of an error."""
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
    assert done.exit_code in (0, 1, 2), (arguments, done.output)
    if done.exit_code:
        assert "Error: " in done.stderr or "Usage: " in done.stderr or "WRONG" in done.stdout, (
            arguments,
            done.output,
        )
    assert "Traceback" not in done.output


def take(store: Path, folder: Path, what: str, changes: list[tuple[str, float, bytes]]) -> None:
    name, data, command = FILES[what]
    file = folder / name
    file.write_bytes(edited(data, changes))
    more = {"import scores": ["--name", "given"], "import ranking": ["--name", "given"]}
    ends_well([*command, str(store), str(file), *more.get(" ".join(command), [])])


@pytest.mark.parametrize("what", FILES)
@pytest.mark.slow
@settings(few, max_examples=20)
@given(changes=edits)
def test_files(store: Path, tmp_path: Path, what: str, changes: list[tuple[str, float, bytes]]) -> None:
    take(store, tmp_path, what, changes)


@few
@given(what=st.sampled_from(sorted(FILES)), changes=edits)
def test_a_few_files(store: Path, tmp_path: Path, what: str, changes: list[tuple[str, float, bytes]]) -> None:
    take(store, tmp_path, what, changes)


@settings(few, max_examples=40)
@given(name=st.sampled_from(sorted(CODES)), data=st.data())
def test_any_bytes_of_the_right_length_are_directions(name: str, data: st.DataObject) -> None:
    code, lengths = CODES[name], data.draw(st.lists(st.sampled_from([16, 32, 64]), min_size=1, max_size=3))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    blocks = [Block(f"b{i}", start, n) for i, (start, n) in enumerate(zip(starts, lengths, strict=True))]
    n_bytes = code.n_bytes(sum(lengths))
    given_bytes = data.draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    codes = torch.tensor(list(given_bytes), dtype=torch.uint8).reshape(1, -1)
    scales = torch.tensor(
        list(data.draw(st.binary(min_size=2 * len(blocks), max_size=2 * len(blocks)))), dtype=torch.uint8
    )
    values, norms = decode(codes, scales.reshape(1, -1), blocks, code)
    assert (values.shape, norms.shape) == ((1, sum(lengths)), (1, len(blocks)))
    for block in blocks:
        part = values[0, block.offset : block.offset + block.length].double()
        if part.isfinite().all():  # float16 can say infinity, which `check` finds
            assert float(part.norm()) == pytest.approx(1, abs=1e-3) or not part.any()


@settings(few, max_examples=100)
@given(text=st.text("-nameuxy: \n_1;'éA", max_size=80))
def test_any_text_gives_named_statements_or_an_error(text: str) -> None:
    text = f"-- name: one\nSELECT 1;\n{text}"
    names = re.findall(r"(?m)^-- name: ([a-z0-9_]+)[ \t]*$", text)
    if len(set(names)) < len(names):
        with pytest.raises(ValueError, match=r"x\.sql has two statements of one name"):
            named(text, "x.sql")
    else:
        assert list(named(text, "x.sql")) == names


KNOWN = (
    "--help --name --top --format json csv -1 0 nan 1e999 cosine bm25 example query -- --yes STORE no.duckdb"
)
words = st.one_of(
    st.sampled_from([*KNOWN.split(), "", "SELECT 1"]),
    st.text(max_size=6).filter(lambda text: "\0" not in text),
)
SAFE = sorted(set(COMMANDS) - {"demo", "serve", "retrain"})  # these run for minutes, or for ever


def call(store: Path, command: str, arguments: list[str]) -> None:
    ends_well([command, *(str(store) if word == "STORE" else word for word in arguments)])


@few
@given(command=st.sampled_from(SAFE), arguments=st.lists(words, max_size=5))
def test_a_few_command_lines(store: Path, command: str, arguments: list[str]) -> None:
    call(store, command, arguments)


@pytest.mark.slow
@many
@given(command=st.sampled_from(SAFE), arguments=st.lists(words, max_size=5))
def test_command_lines(
    store: Path, command: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # `init x` makes a file called x
    call(store, command, ["STORE", *arguments])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, dict[str, str]], int]:
    path = tmp_path_factory.mktemp("page") / "store.duckdb"
    with attrstore.open(path, create=True) as opened:
        scored.fill(opened)
    web = TestClient(
        application(path, token="secret", hosts=frozenset({HOST})),
        base_url=f"http://{HOST}",
        raise_server_exceptions=True,
    )
    web.get("/?token=secret")
    return lambda at, parameters: int(web.get(at, params=parameters).status_code)


keys = st.sampled_from([field.name for field in fields(Address)])


places = st.sampled_from(
    ["/", "/query", "/overview", "/sql", "/sql.csv", "/example", "/why", "/static/../app.py"]
)
values = st.one_of(st.text(max_size=12), st.sampled_from(["q-0", "cosine", "-1", "1e99", "nan"]))


@few
@given(at=places, parameters=st.dictionaries(keys, values))
def test_addresses(page: Callable[[str, dict[str, str]], int], at: str, parameters: dict[str, str]) -> None:
    assert page(at, parameters) < 500
