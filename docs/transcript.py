"""Run the Python and the commands of a page, in order, in the current folder, and write what the commands print.

    python docs/transcript.py docs/journey.md

A block `console` holds commands after `$ `, each followed by what it printed, at 80 columns.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from attrstore.cli import main

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def transcript(page: str) -> str:
    """Return the page with the output of its commands as it is today; files appear in the current folder."""
    names: dict[str, Any] = {}
    os.environ["COLUMNS"] = "80"

    def ran(block: re.Match[str]) -> str:
        if block[1] == "python":
            exec(compile(block[2], "page", "exec"), names)
            return block[0]
        lines = [line for line in block[2].splitlines() if line.startswith("$ ")]
        return "```console\n" + "\n".join(f"{line}\n{output(line[2:])}" for line in lines) + "```"

    return BLOCK.sub(ran, page)


def output(command: str) -> str:
    """Return what one command of attrstore prints on stdout."""
    program, *arguments = shlex.split(command)
    if program != "attrstore":
        raise ValueError(f"{command}: not a command of attrstore")
    result = CliRunner().invoke(main, arguments)
    if result.exit_code:
        raise ValueError(f"{command}: {result.output}")
    return result.stdout


def rewrite(path: Path) -> None:
    """Put today's output into the page."""
    here, text = Path.cwd(), path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            text = transcript(text)
        finally:
            os.chdir(here)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
