"""Write docs/schema.md, every table, view and macro of a store, from the comments of sql/schema and sql/face.

python -m docs.schema
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import attrstore
from attrstore.statements import scripts

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).with_name("schema.md")
HEAD = """# Tables, views and macros

Everything in an attrstore file, and what its own comments say of it. Any DuckDB client sees the same. Made by
`python -m docs.schema`.
"""
# Of released tables that say nothing of themselves, and whose script is not edited any more.
UNSAID = {
    "meta": "The store's own settings: schema_version, and a digest of the views and macros that it has.",
    "models": "A model that encoded, scored or measured something.",
    "terms": "A term of the index, and in how many examples it stands.",
    "stems": "What a token was stemmed to; empty without a stemmer.",
    "postings": "How often a term stands in an example.",
    "lexical_stats": "How many tokens an indexed example has.",
}
_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")
_ADDED = re.compile(r"ALTER TABLE (\w+) ADD COLUMN (?:IF NOT EXISTS )?(\w+)[^-]*(?:-- (.*))?")
_COLUMN = re.compile(r"\s+(\w+) [^-]*?(?:-- (.*))?$")
_FACE = re.compile(r"CREATE OR REPLACE (VIEW|MACRO) (\w+)(\([^)]*\))?( AS TABLE)?")


class Thing(NamedTuple):
    """A view or a macro of the face."""

    kind: str  # view, table macro, macro
    name: str
    call: str  # the name with its parameters
    comment: list[str]


def tables() -> tuple[dict[str, list[str]], dict[tuple[str, str], str]]:
    """Read the migrations: the comment of each table, and of each column."""
    of_table: dict[str, list[str]] = {}
    of_column: dict[tuple[str, str], str] = {}
    for script in scripts():
        if script.number >= 100:
            continue
        table, last = "", [""]  # a comment may stand above several tables
        for above, line in _lines(script.text):
            last = above if above and not table else last
            if made := _TABLE.match(line):
                table = made[1]
                of_table[table] = [UNSAID[table]] if table in UNSAID else last
            if added := _ADDED.match(line):
                of_column[added[1], added[2]] = added[3] or " ".join(above)
            elif table and not made and (column := _COLUMN.match(line)):
                of_column[table, column[1]] = column[2] or " ".join(above)
            if line.rstrip().endswith(";") or ");" in line:
                table = ""
    return of_table, of_column


def face() -> Iterator[Thing]:
    """Read the views and macros that say what they are, in their order."""
    for script in scripts():
        if script.number < 100:
            continue
        for above, line in _lines(script.text):
            found = _FACE.match(line)
            if found and above:
                kind = "view" if found[1] == "VIEW" else "table macro" if found[4] else "macro"
                yield Thing(kind, found[2], f"{found[2]}{found[3] or ''}", above)


def _lines(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield each line that is no comment, with the comment lines directly above it."""
    above: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("--"):
            above.append(line.lstrip()[2:].removeprefix(" ").rstrip())
        else:
            yield above, line
            above = []


def page() -> str:
    """Return the page."""
    of_table, of_column = tables()
    parts = [HEAD, "## Tables\n"]
    with tempfile.TemporaryDirectory() as folder, attrstore.open(f"{folder}/s.duckdb", create=True) as store:
        columns: dict[str, list[tuple[str, str]]] = {}
        for thing, name, kind in store.rows(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
        ):
            columns.setdefault(thing, []).append((name, kind))
        for table, comment in of_table.items():
            if table in columns:
                rows = [
                    f"| `{name}` | {kind} | {_cell(of_column.get((table, name), ''))} |"
                    for name, kind in columns[table]
                ]
                parts.append(
                    _section(table, comment)
                    + "\n| column | type | |\n|---|---|---|\n"
                    + "\n".join(rows)
                    + "\n"
                )
    parts.append("## Views\n")
    things = list(face())
    for view in [thing for thing in things if thing.kind == "view"]:
        names = ", ".join(f"`{name}`" for name, _ in columns[view.name])
        parts.append(f"{_section(view.name, view.comment)}\nColumns: {names}\n")
    for kind, title in (("table macro", "Table macros"), ("macro", "Macros")):
        parts.append(f"## {title}\n")
        parts += [_section(thing.call, thing.comment) for thing in things if thing.kind == kind]
    return "\n".join(parts)


def _section(title: str, comment: list[str]) -> str:
    """Set a comment: lines that stand in are lists and examples, and keep their places."""
    text = [f"### `{title}`", ""]
    inside = False
    for line in comment:
        if line.startswith("  ") != inside:
            inside = not inside
            text += ["", "```"] if inside else ["```", ""]
        text.append(line)
    return "\n".join(text + (["```"] if inside else [])) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
