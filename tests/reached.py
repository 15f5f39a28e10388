"""Which tests reach a place of the code, as tests/recorder.py recorded it: what a mutant there is tried against."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

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
