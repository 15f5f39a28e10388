"""Record which places of the code each test reaches, as a plugin of pytest.

    python -m pytest -p tests.recorder --reached build/reached.json

writes, for each test, its seconds and the places that it reached: functions as `file:line`, named statements as
`file#name`. Caches are emptied before each test, and what a shared fixture reached counts for every test of its
module. What a test does in another process is not seen.
"""

from __future__ import annotations

import functools
import gc
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from tests.reached import CODE


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
