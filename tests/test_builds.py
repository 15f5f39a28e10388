"""However the source comes, what is built from it is the same: a checkout with links or without, and an sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"
READ = """
import site, sys
site.addsitedir(sys.argv[1])
sys.path.append(sys.argv[2])  # what it depends on; an attrstore installed there is not looked for
import attrstore
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.lexical import ingest_lexical
with attrstore.open("s.duckdb", create=True) as store:
    ingest_corpus(store, ["c.jsonl"])
    ingest_lexical(store)
    print(attrstore.__file__, store.value("SELECT count(*) FROM bm25('river')"))
"""


def source(folder: Path, *, links: bool) -> Path:
    """Copy what is built. Without links each is a small file that holds its target, as git leaves them on Windows."""
    for part in ("attrstore", "ingest", "sql"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    if not links:
        for link in [path for path in (folder / "attrstore").iterdir() if path.is_symlink()]:
            target = os.readlink(link)
            link.unlink()
            link.write_text(target, encoding="utf-8")
    return folder


def built(kind: str, folder: Path, out: Path) -> Path:
    """Build by the package's own backend, without a network."""
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(out)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("linked")
    return contents(built("wheel", source(folder / "source", links=True), folder / "out"))


def test_a_checkout_without_links_builds_the_same_wheel(wheel: dict[str, bytes], tmp_path: Path) -> None:
    found = contents(built("wheel", source(tmp_path / "source", links=False), tmp_path / "out"))
    assert found.keys() == wheel.keys()
    assert found == wheel


def test_an_sdist_builds_the_same_wheel(wheel: dict[str, bytes], tmp_path: Path) -> None:
    sdist = built("sdist", source(tmp_path / "source", links=True), tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    found = contents(built("wheel", unpacked, tmp_path / "out"))
    assert found.keys() == wheel.keys()
    assert found == wheel


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False])
def test_an_editable_install_has_every_room(tmp_path: Path, *, links: bool) -> None:
    checkout = source(tmp_path / "source", links=links)
    with zipfile.ZipFile(built("editable", checkout, tmp_path / "out")) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "north river"}\n', encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", READ, str(tmp_path / "site"), sysconfig.get_path("purelib")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [str(checkout / "attrstore" / "__init__.py"), "1"], done.stderr
