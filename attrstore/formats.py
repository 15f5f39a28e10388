"""Rows for programs: json, jsonl, csv, tsv and markdown, written to a stream one row at a time."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from attrstore.terminal import plain, print_table, writing

FORMATS = ("table", "json", "jsonl", "csv", "tsv", "markdown")
# What JSON may hold as it is and a terminal acts on: controls beyond ASCII's first 32, and turned directions.
_HIDDEN = re.compile(
    "[\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_BARE = re.compile(
    r'[^",\r\n\s]([^",\t\r\n]*[^",\r\n\s])?'
).fullmatch  # what csv and tsv need no quotes around


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    output_format: str = "table",
    *,
    title: str | None = None,
) -> None:
    """Print rows on stdout in one of `FORMATS`."""
    if output_format == "table":
        print_table(columns, rows, title=title)
    else:
        write(sys.stdout, output_format, columns, rows)


def write(stream: TextIO, file_format: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows in one of `FORMATS` but the table."""
    if file_format in ("json", "jsonl"):
        write_json(stream, file_format, (_record(columns, row) for row in rows))
    else:
        write_cells(stream, file_format, columns, rows)


def write_json(stream: TextIO, file_format: str, records: Iterable[str]) -> int:
    """Write JSON objects as one array, or one a line (jsonl), and return how many."""
    opening, separator, closing = ("[", ",\n", "]\n") if file_format == "json" else ("", "\n", "\n")
    n = 0
    with writing(stream):
        for record in records:
            stream.write((separator if n else opening) + _HIDDEN.sub(_escaped, record))
            n += 1
        if n:
            stream.write(closing)
        elif file_format == "json":
            stream.write("[]\n")
    return n


def write_cells(
    stream: TextIO, file_format: str, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> int:
    """Write csv, tsv or markdown and return the number of rows. A missing value is nothing, an empty text `""`.

    csv and tsv are exact in a pipe or a file; a terminal is shown control characters, as everywhere.
    """
    line = {"csv": _csv, "tsv": _tsv, "markdown": _markdown}[file_format]
    shown, n = stream.isatty(), 0
    with writing(stream):
        stream.write(line(columns))
        if file_format == "markdown":
            stream.write(_markdown(["---"] * len(columns)))
        for row in rows:
            stream.write(plain(line(row), keep="\n\t") if shown else line(row))
            n += 1
    return n


# Parts


def _record(columns: Sequence[str], row: Sequence[object]) -> str:
    finite = (None if isinstance(value, float) and not math.isfinite(value) else value for value in row)
    return json.dumps(dict(zip(columns, finite, strict=True)), ensure_ascii=False, default=str)


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def _csv(row: Sequence[object]) -> str:
    return ",".join(map(_quoted, row)) + "\n"


def _tsv(row: Sequence[object]) -> str:
    return "\t".join(map(_quoted, row)) + "\n"


def _quoted(value: object) -> str:
    """NULL is nothing and the empty text is ""; Python's own writer leaves a carriage return bare."""
    if value is None:
        return ""
    text = str(value)
    return text if _BARE(text) else '"' + text.replace('"', '""') + '"'


def _markdown(row: Sequence[object]) -> str:
    cells = ("" if value is None else plain(str(value), keep="\n") for value in row)
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", "<br>") for text in cells) + " |\n"
