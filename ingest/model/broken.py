"""Say plainly what is wrong with a folder whose files no library can make sense of."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrstore.errors import AttrstoreError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORDS = 300  # characters of another library's message that are shown


@contextmanager
def named(message: str) -> Iterator[None]:
    """Turn whatever a broken file makes a library raise into an `InputError` that begins with `message`.

    Files of wrong types or lengths fail anywhere, with any exception; memory that runs out is not the file's fault.
    """
    try:
        yield
    except (AttrstoreError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        raise InputError(f"{message} {type(error).__name__}: {reason[:_WORDS]}") from error


def json_object(file: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; `what` begins the message of the `InputError` that says why not."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{what}: {file.name} is not JSON. {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{what}: {file.name} holds a {type(content).__name__} and no JSON object.")
    return content
