"""Which tests run a place of the code: what a mutant there must be tried against.

    python -m pytest -p tests.reached --reached build/reached.json

writes, for each test, its seconds and the places that it reached: functions as `file:line`, named statements as
`file#name`. Caches are emptied before each test, and what a shared fixture reached counts for every test of its
module. What a test does in another process is not seen.
"""

from __future__ import annotations

import ast
import functools
import gc
import json
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

CODE = ("attrstore/", "ingest/")
_DEFINED = re.compile(r"^CREATE (?:OR REPLACE )?(?:TEMP )?(?:VIEW|MACRO|TABLE MACRO) (\w+)", re.MULTILINE)
_NAMED = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


class Reached:
    """What a record says, asked for one place."""

    def __init__(self, root: Path, record: Path) -> None:
        self.root = root
        self.tests: dict[str, dict[str, Any]] = json.loads(record.read_text(encoding="utf-8"))
        self.places: dict[str, set[str]] = {test: set(found["places"]) for test, found in self.tests.items()}
        self.imported = self.places.pop("", set())

    def of(self, file: str, start: int) -> list[str]:
        """Return the tests that reach the text at `start` of `file`, those that reach little else first."""
        text = (self.root / file).read_text(encoding="utf-8")
        if file.endswith(".py"):
            line = text.count("\n", 0, start) + 1
            place = f"{file}:{_function(ast.parse(text), line)}"
            wanted = {place}
            if place.endswith(":0") or place in self.imported:  # runs when the file is imported
                wanted = self._functions_of({file, *self._importers(file)})
        elif "/statements/" in file:
            names = [found for found in _NAMED.finditer(text) if found.start() <= start]
            wanted = {f"{file}#{names[-1][1]}"} if names else set()
        else:
            found = [found for found in _DEFINED.finditer(text) if found.start() <= start]
            return self._that_name(found[-1][1]) if found else self._ordered(list(self.places))
        return self._ordered([test for test, places in self.places.items() if places & wanted])

    def seconds(self, test: str) -> float:
        """Return how long the test took."""
        return float(self.tests[test]["seconds"])

    def _ordered(self, tests: list[str]) -> list[str]:
        return sorted(tests, key=lambda test: len(self.places[test]) * (0.1 + self.seconds(test)))

    def _functions_of(self, files: set[str]) -> set[str]:
        return {place for places in self.places.values() for place in places if place.split(":")[0] in files}

    def _importers(self, file: str) -> list[str]:
        module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        module = f"attrstore.{module}" if module.startswith("ingest") else module
        named = re.compile(rf"\b{re.escape(module)}\b")
        return [name for name, text in self._code.items() if named.search(text)]

    @cached_property
    def _code(self) -> dict[str, str]:
        files = [path for part in CODE for path in sorted((self.root / part).rglob("*.py"))]
        return {path.relative_to(self.root).as_posix(): path.read_text(encoding="utf-8") for path in files}

    # The face: whoever names a view or macro, or one that is built on it, reaches it.

    @cached_property
    def _face(self) -> dict[str, set[str]]:
        """The words of each view and macro."""
        words: dict[str, set[str]] = defaultdict(set)
        for path in sorted((self.root / "sql/face").glob("*.sql")):
            text = path.read_text(encoding="utf-8")
            found = [*_DEFINED.finditer(text)]
            for one, end in zip(found, [*(f.start() for f in found[1:]), len(text)], strict=True):
                words[one[1]] |= _words(text[one.end() : end])
        return words

    @cached_property
    def _said(self) -> dict[str, set[str]]:
        """The names of the face in each file of code, each named statement and each test."""
        texts = {name: _literals(text) for name, text in self._code.items()}
        for path in (self.root / "sql/statements").glob("*.sql"):
            parts = _NAMED.split(path.read_text(encoding="utf-8"))
            file = path.relative_to(self.root).as_posix()
            texts |= {f"{file}#{name}": text for name, text in zip(parts[1::2], parts[2::2], strict=True)}
        for path in (self.root / "tests").glob("test_*.py"):
            texts |= _tests(path.relative_to(self.root).as_posix(), path.read_text(encoding="utf-8"))
        return {name: _words(text) & self._face.keys() for name, text in texts.items()}

    def _that_name(self, name: str) -> list[str]:
        wanted, before = {name}, set[str]()
        while wanted != before:
            before = wanted
            wanted = before | {other for other, words in self._face.items() if words & before}
        saying = {name for name, said in self._said.items() if said & wanted}
        by_itself = [test for test in self.places if test.split("[")[0] in saying]
        others = [
            test
            for test, places in self.places.items()
            if test.split("::")[0] in saying or any(place.split(":")[0] in saying for place in places)
        ]
        return list(dict.fromkeys([*self._ordered(by_itself), *self._ordered(others)]))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _literals(code: str) -> str:
    return " ".join(
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _tests(file: str, text: str) -> dict[str, str]:
    """Return the text of each test by its id, and under the file's name that of all they share."""
    shared, found = [], {}
    for node in ast.parse(text).body:
        own = ast.get_source_segment(text, node) or ""
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            found[f"{file}::{node.name}"] = own
        else:
            shared.append(own)
    return {file: "\n".join(shared), **found}


def _function(tree: ast.AST, line: int) -> int:
    """Return where the innermost function around `line` begins, or 0."""
    begins = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if first <= line <= (node.end_lineno or first):
                begins = max(begins, first)
    return begins


# The record: a plugin of pytest


class Recorder:
    """Notes each function that is called and each statement that is looked up."""

    def __init__(self, root: Path, record: Path) -> None:
        self.root, self.record = root.resolve(), record
        self.called: dict[int, CodeType] = {}
        self.looked_up: set[str] = set()
        self.shared: dict[str, set[str]] = defaultdict(set)
        self.tests: dict[str, dict[str, Any]] = {}
        self.module = ""
        self.caches: list[Any] = []

    def trace(self, frame: FrameType, event: str, given: object) -> None:
        self.called[id(frame.f_code)] = frame.f_code

    def taken(self) -> set[str]:
        """Return what was reached since the last time."""
        found, self.looked_up = self.looked_up, set()
        called, self.called = self.called, {}
        for code in list(called.values()):
            path = Path(code.co_filename)
            if "attrstore" not in code.co_filename and "ingest" not in code.co_filename:
                continue
            if path.resolve().is_relative_to(self.root):
                file = path.resolve().relative_to(self.root).as_posix()
                if file.startswith(CODE):
                    found.add(f"{file}:{code.co_firstlineno}")
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        self._watch_statements()
        self._start()
        try:
            return (yield)
        finally:
            self._stop()
            self.tests[""] = {"seconds": 0, "places": sorted(self.taken())}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._empty_caches(item.nodeid.split("::")[0])
        self.taken()
        began = time.perf_counter()
        self._start()
        try:
            return (yield)
        finally:
            self._stop()
            seconds = round(time.perf_counter() - began, 3)
            self.tests[item.nodeid] = {"seconds": seconds, "places": self.taken()}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
        if fixturedef.scope == "function":
            return (yield)
        before = self.called, self.looked_up
        self.called, self.looked_up = {}, set()
        try:
            return (yield)
        finally:
            found = self.taken()
            self.called, self.looked_up = before[0], before[1] | found
            module = request.node.nodeid.split("::")[0] if fixturedef.scope != "session" else ""
            self.shared[module] |= found

    def pytest_sessionfinish(self) -> None:
        for test, found in self.tests.items():
            shared = self.shared[test.split("::")[0]] if test else set()
            found["places"] = sorted({*found["places"], *shared})
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self.record.write_text(json.dumps(self.tests), encoding="utf-8")

    def _empty_caches(self, module: str) -> None:
        if module != self.module:  # looking for them takes a while
            self.module = module
            found = (one for one in gc.get_objects() if isinstance(one, functools._lru_cache_wrapper))
            self.caches = [cached for cached in found if _is_ours(cached)]
        for cached in self.caches:
            cached.cache_clear()

    def _start(self) -> None:
        threading.settrace(self.trace)
        sys.settrace(self.trace)

    def _stop(self) -> None:
        sys.settrace(None)
        threading.settrace(None)

    def _watch_statements(self) -> None:
        from attrstore import statements

        known = statements.statements
        looked_up = self

        class Watched(dict[str, str]):
            def __init__(self, file: str) -> None:
                super().__init__(known(file))
                self.file = file

            def __getitem__(self, name: str) -> str:
                looked_up.looked_up.add(f"sql/statements/{self.file}.sql#{name}")
                return super().__getitem__(name)

            def items(self) -> Any:
                looked_up.looked_up |= {f"sql/statements/{self.file}.sql#{name}" for name in self}
                return super().items()

        statements.statements = Watched  # type: ignore[assignment]


def _is_ours(cached: Any) -> bool:
    module = getattr(cached, "__module__", None) or ""
    return module.startswith(("attrstore", "test"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reached", help="Write which places each test reaches to this file.")


def pytest_configure(config: pytest.Config) -> None:
    if record := config.getoption("--reached"):
        config.pluginmanager.register(Recorder(config.rootpath, config.rootpath / record))
