"""Hold the store open only while it is read: an open reader keeps every writer out."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

import attrstore

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from pathlib import Path

    from attrstore.store import Store

# How many results of a kind are kept, of one state of the file: a list of queries may be long, a page is short.
KEPT = {"listed": 4, "page": 512}
KEPT_OTHERS = 64
LINGER = 0.25  # seconds: opening takes longer than most pages, and a page is followed by the next

Stamp = tuple[int, int, int]
Kept = TypeVar("Kept")
_MISSING = object()


@dataclass(frozen=True)
class Snapshot:
    """The store in one state, and what was already found out about it."""

    store: Store
    kept: dict[str, OrderedDict[Hashable, object]] = field(default_factory=dict)

    def once(self, kind: str, make: Callable[[Store], Kept], key: Hashable = None) -> Kept:
        """Return what `make` gives for the store, from memory if a page asked for it already."""
        of_kind = self.kept.setdefault(kind, OrderedDict())
        found = of_kind.get(key, _MISSING)
        if found is _MISSING:
            made = make(self.store)
            of_kind[key] = made
            if len(of_kind) > KEPT.get(kind, KEPT_OTHERS):
                of_kind.popitem(last=False)
            return made
        return cast("Kept", found)


class Lease:
    """One store that many requests read at once, closed when they are done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._store: Store | None = None
        self._stamp: Stamp | None = None
        self._kept: dict[str, OrderedDict[Hashable, object]] = {}
        self._readers = 0
        self._idle_since = 0.0

    @contextmanager
    def open(self) -> Iterator[Snapshot]:
        """Give a connection of its own to the store as it is now.

        Raises `StoreError` while another process writes.
        """
        with self._changed:
            # A file that was replaced is opened anew, once those who read the old one are done.
            self._changed.wait_for(lambda: self._readers == 0 or self._stamp == stamp(self.path))
            if self._store is not None and self._stamp != stamp(self.path):
                self._close()
            if self._store is None:
                now = stamp(self.path)
                self._store = attrstore.open(self.path)
                if now != self._stamp:
                    self._stamp, self._kept = now, {}
                threading.Thread(target=self._close_when_idle, daemon=True).start()
            store = copy.copy(self._store)
            store.connection = self._store.connection.cursor()
            kept = self._kept
            self._readers += 1
        try:
            yield Snapshot(store, kept)
        finally:
            store.close()
            with self._changed:
                self._readers -= 1
                self._idle_since = time.monotonic()
                self._changed.notify_all()

    def close(self) -> None:
        """Close the file when the last reader is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._readers == 0)
            self._close()

    def _close_when_idle(self) -> None:
        with self._changed:
            while self._store is not None:
                left = self._idle_since + LINGER - time.monotonic()
                if self._readers == 0 and left <= 0:
                    self._close()
                    return
                self._changed.wait(max(left, 0.01) if self._readers == 0 else None)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
            self._changed.notify_all()


def stamp(path: Path) -> Stamp | None:
    """Return what changes with the file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)
