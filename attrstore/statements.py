"""Load the SQL that ships with attrstore: migrations, the face, and named statements."""

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_NAME = re.compile(r"^-- name: (?P<name>[a-z0-9_]+)[ \t]*$", re.MULTILINE)


class Script(NamedTuple):
    """One numbered `.sql` file."""

    number: int
    name: str
    text: str


@cache
def scripts() -> tuple[Script, ...]:
    """Numbered scripts in order: below 100 migrations, from 100 on the views and macros of the face."""
    found = []
    for room in ("schema", "face"):
        for entry in files("attrstore.sql").joinpath(room).iterdir():
            match = re.fullmatch(r"(\d{3})_(\w+)\.sql", entry.name)
            if match:
                found.append(Script(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return tuple(sorted(found))


@cache
def statements(file: str) -> dict[str, str]:
    """Return every statement of `sql/statements/FILE.sql` by its name; `ValueError` when a name stands twice."""
    text = files("attrstore.sql").joinpath("statements", f"{file}.sql").read_text(encoding="utf-8")
    return named(text, f"sql/statements/{file}.sql")


def named(text: str, place: str) -> dict[str, str]:
    """Return what follows each `-- name: NAME`; `ValueError`, which names the place, when a name stands twice."""
    parts = _NAME.split(text)
    found = {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}
    if len(found) < len(parts[1::2]):
        raise ValueError(f"{place} has two statements of one name among {', '.join(parts[1::2])}")
    return found


def statement(file: str, name: str) -> str:
    """Return the statement under `-- name: NAME` in `sql/statements/FILE.sql`; `KeyError` when there is none."""
    found = statements(file)
    if name not in found:
        raise KeyError(f"sql/statements/{file}.sql has no statement named {name}; it has {', '.join(found)}")
    return found[name]
