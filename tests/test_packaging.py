"""What a user installs: the list of packages, the wheel, and the documentation's commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from attrstore.methods import METHODS

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def sources(top: str, pattern: str = "*.py") -> list[Path]:
    """Files of one top-level folder; the links in attrstore/ are not followed."""
    return [
        Path(folder) / name
        for folder, _, names in os.walk(ROOT / top)
        for name in names
        if fnmatch(name, pattern)
    ]


def shipped(file: Path) -> Path:
    """Where the wheel has a file."""
    relative = file.relative_to(ROOT)
    return relative if relative.parts[0] == "attrstore" else "attrstore" / relative


def test_every_folder_with_code_is_a_listed_package() -> None:
    found = {
        ".".join(shipped(file).parent.parts)
        for top in ("attrstore", "ingest", "sql")
        for file in sources(top)
    }
    assert found == set(SETTINGS["packages"])


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_statement_and_nothing_else(tmp_path: Path) -> None:
    # From a copy: setuptools builds beside the sources, and what an earlier build left there would be packed again.
    for part in ("attrstore", "ingest", "sql"):
        shutil.copytree(ROOT / part, tmp_path / "source" / part, symlinks=True)
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, tmp_path / "source")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        tmp_path,
    ]
    built = subprocess.run([*command, tmp_path / "source"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = {"attrstore/py.typed"}
    for top in ("attrstore", "ingest", "sql"):
        for file in sources(top, "*"):
            if file.suffix in {".py", ".sql"} or file.parent.name == "static":
                expected.add(str(shipped(file)))
    assert names == expected


def test_every_method_says_what_it_needs_and_when_to_use_it() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert all((method.paper, method.reads.command, method.cost, method.when)), name
