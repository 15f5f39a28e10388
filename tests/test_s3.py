"""Shards on an object store: what lies in a bucket is what would lie in a folder, and is refused alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import shards
from attrstore.cli import main
from attrstore.errors import AttrstoreError, InputError
from attrstore.folders import Folder, folder_at
from attrstore.ingest.encode import job, processes
from attrstore.ingest.encode.sharded import write_shards
from attrstore.ingest.encode.worker import Worker
from attrstore.ingest.encode.workers import encode_with_workers
from attrstore.progress import silent
from tests import tiny

SMALL: dict[str, Any] = {"projection_dim": 4, "batch_tokens": 64}
TABLES = ("FROM encodings ORDER BY example_id", "FROM query_encodings ORDER BY ALL")


@pytest.fixture
def path(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job, "SHARD", 16)
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, tiny.sentences(40), [("a b c", " d")])
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """An S3 server of this process; fsspec keeps its address."""
    import boto3
    from moto.server import ThreadedMotoServer

    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="corpus")
        yield
    started.stop()


@pytest.fixture
def url(server: None, path: Path) -> str:
    return f"s3://corpus/{path.parent.name}/shards"


def tables(path: Path) -> list[list[tuple[Any, ...]]]:
    with attrstore.open(path) as store:
        return [store.rows(query) for query in TABLES]


def contents(folder: Folder) -> dict[str, bytes]:
    return {name: folder.open(name).read() for name in folder.sizes() or {}}


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.slow
def test_a_bucket_is_as_good_as_a_folder(
    url: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.checkpoint(tmp_path / "model")
    here = path.with_name("here.duckdb")
    here.write_bytes(path.read_bytes())
    for store, folder in ((here, tmp_path / "shards"), (path, url)):
        for rank in (1, 0):
            write_shards(store, "gradient", folder, Worker(rank, 2), model=model, **SMALL)
    local, remote = folder_at(tmp_path / "shards"), folder_at(url)
    assert contents(remote) == contents(local)
    assert len(contents(local)) == 6
    assert write_shards(path, "gradient", url, model=model, **SMALL).rows == 0
    assert "ok     shards are whole" in run("check", path, "--shards", url)
    assert run("attach", path, url) == f"{path}: 40 encodings of k4-halfbit from 3 files.\n"
    run("attach", here, tmp_path / "shards")
    assert tables(path) == tables(here)


@pytest.mark.slow
def test_what_is_wrong_in_a_bucket_is_named(url: str, path: Path, tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model")
    write_shards(path, "gradient", url, model=model, **SMALL)
    folder = folder_at(url)
    first, second, third = (name for name in folder.sizes() or {} if name.endswith(".parquet"))
    content = contents(folder)
    folder.put(first, content[first][:-7])
    folder.put(second, bytes([*content[second][:99], content[second][99] ^ 1, *content[second][100:]]))
    folder.put(third.replace(".parquet", ".json"), b"{}")
    output = run("check", path, "--shards", url, code=1)
    output = " ".join(output.split())
    for name, said in ((first, "torn: "), (second, "altered: its sha256 is")):
        assert f"{url}/{name}: {said}" in output
    assert f"{url}/{third.replace('.parquet', '.json')}: not the manifest of a shard" in output
    with attrstore.open(path, writable=True) as store:
        with pytest.raises(InputError, match=r"(?s)torn: .*altered: "):
            shards.attach(store, folder, silent)
        with pytest.raises(InputError, match=r"s3://corpus/nothing: no such folder of shards"):
            shards.attach(store, folder_at("s3://corpus/nothing"), silent)
        assert store.value("SELECT count(*) FROM encodings") == 0
    with pytest.raises(AttrstoreError, match=r"s3://none/shards: \S+ cannot be written\. \w+: "):
        write_shards(path, "gradient", "s3://none/shards", model=model, **SMALL)


@pytest.mark.slow
def test_processes_of_one_machine_write_to_a_bucket(
    url: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "START", "fork")
    done = encode_with_workers(
        path, "gradient", 2, folder=url, model=tiny.checkpoint(tmp_path / "model"), **SMALL
    )
    assert (done.rows, done.shards) == (40, 3)
    assert len(shards.finished(folder_at(url))[0]) == 3


def test_a_url_of_no_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nonsense://a/b: no such folder\. Protocol not known: nonsense"):
        folder_at("nonsense://a/b")

    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(InputError, match=r's3://a/b: .* is not installed: pip install "attrstore\[s3\]"'):
        folder_at("s3://a/b")


def test_any_file_system_of_fsspec_will_do(path: Path, tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model")
    write_shards(path, "gradient", "memory://made/shards", model=model, **SMALL)
    folder = folder_at("memory://made/shards")
    write_shards(path, "gradient", tmp_path / "shards", model=model, **SMALL)
    assert contents(folder) == contents(folder_at(tmp_path / "shards"))
    with attrstore.open(path, writable=True) as store:
        assert shards.attach(store, folder, silent).rows == 40
        columns = "example_id, code, scales, n_tokens, loss, status"
        attached = store.rows(f"SELECT {columns} FROM encodings ORDER BY example_id")
    with duckdb.connect() as plain:  # a plain DuckDB reads the files
        files = f"read_parquet('{tmp_path}/shards/*.parquet')"
        assert plain.execute(f"SELECT {columns} FROM {files} ORDER BY example_id").fetchall() == attached
