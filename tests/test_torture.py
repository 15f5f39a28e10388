"""The short form of `make torture`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_store_survives_a_short_torture() -> None:
    command = [sys.executable, "-m", "tests.torture", "--minutes", "0.5", "--kills", "5", "--flips", "20"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
