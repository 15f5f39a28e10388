"""How attrstore shows things: lines and tables that fit the terminal, and text that stays text.

Texts, ids and names come from anywhere. What would move a cursor, set a title or turn the direction of writing is
shown as a picture or a number and never sent; nothing in them is read as markup.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from attrstore.errors import OutputError

SHORT = 300  # characters of a text that a table shows unless it is asked for all
NARROWEST = 40  # columns; in fewer no table can be read
TEXT = 36  # a column wider than this may be broken between words, down to TEXT_LEAST
TEXT_LEAST = 24
GAP = "  "
# What a row is about, repeated in each of several tables below one another.
KEYS = (
    "subset_set", "name", "scoring", "other_scoring", "query", "example", "value", "encoder", "rank",
)  # fmt: skip
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # parts of words and of emoji, without effect on what is around them

Row = Sequence[object]


def width() -> int:
    """Return the columns there are: those of COLUMNS or of the terminal, 80 in a pipe."""
    return max(NARROWEST, shutil.get_terminal_size().columns)


def plain(text: str, keep: str = "") -> str:
    """Return `text` with every control character made visible, but for those in `keep`.

    U+001B is shown as ␛, U+009B and U+202E, which have no picture, as `\\u009b` and `\\u202e`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _is_control(c) else _picture(c) for c in text)


def say(text: str = "", *, err: bool = False) -> None:
    """Write lines to stdout, or to stderr, without control characters."""
    stream = sys.stderr if err else sys.stdout
    with writing(stream):
        stream.write(plain(text, keep="\n") + "\n")
        stream.flush()


def say_wrapped(text: str, *, indent: int = 0, err: bool = False) -> None:
    """Write a sentence in lines of the terminal's width; all but the first are indented."""
    first, *others = wrap(plain(text), width() - indent)
    say("\n".join([first, *(" " * indent + other for other in others)]), err=err)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Row],
    *,
    title: str | None = None,
    full: bool = False,
    once: bool = False,
) -> None:
    """Print rows as tables on stdout that fit its width: several below one another where one is too wide.

    Numbers are right-aligned. A text is cut after 300 characters unless `full`. With
    `once`, a text that all rows have is said once, before them, where the table is too wide.
    """
    rows = [list(row) for row in rows]
    lines = table_lines(columns, rows, width(), full=full, once=once)
    say("\n".join([title, *lines] if title else lines))


def table_lines(
    columns: Sequence[str], rows: Sequence[Row], room: int, *, full: bool = False, once: bool = False
) -> list[str]:
    """Return the lines of `print_table` for `room` columns; a single row that is too wide is one line a column."""
    cells = [[cell(value, full=full) for value in row] for row in rows]
    made = [
        Column(plain(name), [row[i] for row in cells], any(_is_number(row[i]) for row in rows))
        for i, name in enumerate(columns)
    ]
    if len(rows) < 2:
        return _record(made, room) if rows and _taken(made) > room else _panels(made, room)
    if once and _taken(made) > room:
        same = [column for column in made if not column.numeric and len(set(column.cells)) == 1]
        others = [column for column in made if column not in same]
        if same and others:
            return [*_record(same, room), "", *_panels(others, room)]
    return _panels(made, room)


class Column:
    """One column of cells, with the least and the most room that it takes."""

    def __init__(self, name: str, cells: list[str], numeric: bool) -> None:
        self.name, self.cells, self.numeric = name, cells, numeric
        widest = max(map(_length, cells), default=0)
        words = (word for text in (name, *cells) for word in text.split(" "))
        self.most = max(widest, _length(name))
        least = max(widest, *map(_length, name.split(" ")))
        breaks = widest > TEXT and any(" " in text for text in cells)
        self.least = min(least, max(TEXT_LEAST, *map(_length, words))) if breaks else least


def print_pairs(title: str, pairs: Mapping[str, object]) -> None:
    """Print names and values, one pair a line, values aligned."""
    names = max((_length(plain(name)) for name in pairs), default=0)
    values = {name: f"{value:,}" if isinstance(value, int) else cell(value) for name, value in pairs.items()}
    most = max(map(_length, values.values()), default=0)
    lines = [
        f"{plain(name)}{' ' * (names - _length(plain(name)))}{GAP}{value:>{most}}"
        for name, value in values.items()
    ]
    say("\n".join([title, *lines]))


def panels(columns: list[Column], room: int) -> Iterator[list[Column]]:
    """Yield the columns in as many tables as `room` needs, each beginning with what its rows are about."""
    if not columns or _taken(columns) <= room:
        yield columns
        return
    keys = _keys(columns, room)
    current: list[Column] = []
    for column in (column for column in columns if column not in keys):
        if current and _taken([*keys, *current, column]) > room:
            yield [*keys, *current]
            current = []
        current.append(column)
    yield [*keys, *current]


def cell(value: object, *, full: bool = True) -> str:
    """One value as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, float):
        if abs(value) >= 1e3:
            return f"{value:,.0f}"
        return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"
    text = str(value)
    return plain(text if full or len(text) <= SHORT else text[: SHORT - 1] + "…").replace("␊", "␊ ")


def wrap(text: str, room: int) -> list[str]:
    """Break a text between words into lines of at most `room` columns; a word that is longer is cut."""
    lines: list[str] = []
    line: str | None = None
    for word in text.split(" "):
        joined = word if line is None else f"{line} {word}"
        if _length(joined) <= room:
            line = joined
            continue
        lines += [] if line is None else [line]
        while _length(word) > room:
            head = _head(word, room)
            lines.append(head)
            word = word[len(head) :]
        line = word
    return [*lines, line or ""]


@contextmanager
def writing(stream: TextIO | None) -> Iterator[None]:
    """Turn what goes wrong with an output into an `OutputError`; a reader that has left is none."""
    if stream is None:
        raise OutputError("the output is closed: there is nowhere to write to.")
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None:  # another file's
            raise
        raise OutputError(f"the output cannot be written: {error.strerror or error}.") from error


# Parts


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE and character not in _JOINERS


def _picture(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _length(text: str) -> int:
    """Return how many columns a text takes: two for a wide character, none for one that is combined."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or character in _JOINERS:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _head(word: str, room: int) -> str:
    taken = 0
    for i, character in enumerate(word):
        taken += _columns(character)
        if taken > room:
            return word[: max(i, 1)]
    return word


def _taken(columns: Sequence[Column]) -> int:
    return sum(column.least for column in columns) + len(GAP) * (len(columns) - 1)


def _keys(columns: list[Column], room: int) -> list[Column]:
    """Return the columns that name a row, as far as they fit in half of the room; or the rows' numbers."""
    keys: list[Column] = []
    for column in columns:
        if column.name.replace(" ", "_") in KEYS and _taken([*keys, column]) <= room // 2:
            keys.append(column)
    if keys:
        return keys
    return [Column("#", [str(i + 1) for i in range(len(columns[0].cells))], True)]


def _panels(columns: list[Column], room: int) -> list[str]:
    lines: list[str] = []
    for part in panels(columns, room):
        lines += ([""] if lines else []) + _panel(part, room)
    return lines


def _panel(columns: list[Column], room: int) -> list[str]:
    widths = _widths(columns, room)
    heads = [wrap(column.name, size) for column, size in zip(columns, widths, strict=True)]
    lines = _lines(columns, widths, heads)
    lines.append("─" * (sum(widths) + len(GAP) * (len(widths) - 1)))
    for row in zip(*(column.cells for column in columns), strict=True):
        lines += _lines(columns, widths, [wrap(text, size) for text, size in zip(row, widths, strict=True)])
    return lines


def _widths(columns: list[Column], room: int) -> list[int]:
    """Share the room that is left among the columns of text, or cut the widest until the table fits."""
    widths = [column.least for column in columns]
    spare = room - _taken(columns)
    while spare < 0 and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
        spare += 1
    while spare > 0:
        wanting = [i for i, column in enumerate(columns) if widths[i] < column.most]
        if not wanting:
            break
        for i in wanting[:spare]:
            widths[i] += 1
        spare -= len(wanting[:spare])
    return widths


def _lines(columns: list[Column], widths: list[int], parts: list[list[str]]) -> list[str]:
    lines = []
    for i in range(max(map(len, parts), default=0)):
        texts = [part[i] if i < len(part) else "" for part in parts]
        padded = [
            " " * (size - _length(text)) + text if column.numeric else text + " " * (size - _length(text))
            for column, size, text in zip(columns, widths, texts, strict=True)
        ]
        lines.append(GAP.join(padded).rstrip())
    return lines


def _record(columns: list[Column], room: int) -> list[str]:
    """Return the first row as a line for each of its values."""
    names = max(_length(column.name) for column in columns)
    lines = []
    for column in columns:
        first, *others = wrap(column.cells[0], max(1, room - names - len(GAP)))
        lines.append(f"{column.name}{' ' * (names - _length(column.name))}{GAP}{first}")
        lines += [" " * names + GAP + other for other in others]
    return lines


def from_here(path: str) -> str:
    """Return a path as it is from the current folder where it lies in that, and whole elsewhere."""
    here, there = Path.cwd(), Path(path)
    return str(there.relative_to(here)) if there.is_relative_to(here) else path
