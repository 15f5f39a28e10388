"""Draw docs/demo.svg, the end of what the demo prints, as a terminal shows it.

python docs/picture.py docs/demo.txt docs/demo.svg
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

WIDTH = 80


def case(printed: str) -> str:
    """Return the part about one query."""
    lines = printed.splitlines()
    first = next(i for i, line in enumerate(lines) if line.endswith("…"))
    return "\n".join(lines[first:])


def svg(text: str) -> str:
    """Return the text as a picture of a terminal of 80 columns."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(text))
    # Without the fonts that rich would have the reader's browser fetch.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title="attrstore demo", unique_id="demo", code_format=form)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(svg(case(source.read_text(encoding="utf-8"))), encoding="utf-8")
