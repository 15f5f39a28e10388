"""Run one query of somebody else's in a child process, whose time and memory the system itself bounds.

    python -m attrstore.child < request.json > answer.json

is the child; `run` starts it, waits, and stops it where it does not stop by itself.
"""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from attrstore.errors import AttrstoreError, InputError, StoreError
from attrstore.locked import Limits, lock, require_one_query
from attrstore.store import Store, translated_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

OVERHEAD = 1 << 30  # address space of Python, DuckDB and the stacks of its threads; measured: 0.6 GiB
GRACE = 3.0  # seconds to start, open the store and answer, beyond the query's own


@dataclass(frozen=True)
class Answer:
    """The rows of a query, as values that JSON has."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    more: bool  # there are rows beyond these


def run(
    store: str | Path, sql: str, *, parameters: Sequence[object] | None = None, limits: Limits | None = None
) -> Answer:
    """Run one query on the store at this path, locked, in a child process.

    Raises:
        InputError: what is wrong with the query, or the limit that it went over.
        StoreError: the store cannot be opened.
    """
    limits = limits or Limits()
    request = {
        "store": str(store),
        "sql": sql,
        "parameters": None if parameters is None else list(parameters),
        "limits": asdict(limits),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "attrstore.child"],
            input=json.dumps(request).encode(), capture_output=True, timeout=limits.seconds + GRACE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(_too_long(limits)) from None
    if done.returncode:
        raise InputError(_stopped(done, limits))
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise (StoreError if answer["kind"] == "store" else InputError)(answer["error"])
    return Answer(**answer)


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    limits = Limits(**request["limits"])
    _bound(limits)
    try:
        answer = asdict(_answer(request["store"], request["sql"], request["parameters"], limits))
    except MemoryError:
        answer = {"kind": "input", "error": _too_large(limits)}
    except AttrstoreError as error:
        answer = {"kind": "store" if isinstance(error, StoreError) else "input", "error": str(error)}
    json.dump(answer, sys.stdout, ensure_ascii=False, allow_nan=False)


def _bound(limits: Limits) -> None:
    """Have the system end this process where it takes more; it writes no file and no core."""
    try:
        import resource
    except ImportError:  # Windows has none: the parent's clock and DuckDB's own limits remain
        return
    bounds = {
        resource.RLIMIT_AS: limits.memory + OVERHEAD,
        resource.RLIMIT_CPU: math.ceil(limits.seconds * limits.threads + GRACE),
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in bounds.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most, hard) if hard == resource.RLIM_INFINITY else (min(most, hard), hard))


def _answer(path: str, sql: str, parameters: list[object] | None, limits: Limits) -> Answer:
    with Store(path) as store:
        lock(store, limits=limits)
        require_one_query(store, sql)
        try:
            with translated_errors(store.path):
                return _fetched(store.connection.execute(sql, parameters), limits)
        except InputError:
            raise
        except AttrstoreError as error:
            out_of_memory = isinstance(error.__cause__, duckdb.OutOfMemoryException)
            raise InputError(_too_large(limits) if out_of_memory else str(error)) from error


def _fetched(cursor: duckdb.DuckDBPyConnection, limits: Limits) -> Answer:
    described = cursor.description or ()
    answer = Answer(
        [column[0] for column in described], [str(column[1]) for column in described], [], more=False
    )
    size = 0
    while batch := cursor.fetchmany(100):
        for row in batch:
            values = [_plain(value) for value in row]
            size += len(json.dumps(values, ensure_ascii=False))
            if len(answer.rows) == limits.rows or size > limits.answer:
                return replace(answer, more=True)
            answer.rows.append(values)
    return answer


def _plain(value: object) -> object:
    """The value as JSON has it; what JSON has no word for is text, and NaN and infinities are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value)


def _stopped(done: subprocess.CompletedProcess[bytes], limits: Limits) -> str:
    """Why the child did not answer."""
    last = done.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
    if -done.returncode in (signal.SIGXCPU, signal.SIGKILL):
        return _too_long(limits)
    if done.returncode < 0 or re.search("bad_alloc|MemoryError|[Oo]ut of [Mm]emory", last):
        return _too_large(limits)
    return f"the query could not be run: {last}"


def _too_long(limits: Limits) -> str:
    return f"the query ran longer than {limits.seconds:g} seconds and was stopped. Ask for less, or LIMIT it earlier."


def _too_large(limits: Limits) -> str:
    return (
        f"the query needed more than {limits.memory:,} bytes of memory and was stopped. Ask for less of it."
    )


if __name__ == "__main__":
    main()
