"""Hold the store open only while it is read: an open reader keeps every writer out."""

from __future__ import annotations

import copy
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrstore
from attrstore.web.kept import Kept, Snapshot

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path

    from attrstore.store import Store

LINGER = 0.25  # seconds: opening takes longer than most pages, and a page is followed by the next
PAGES = 2  # threads that make pages; with more they wait for each other
LEASES = 500  # of one opening: until it is closed, DuckDB keeps some bytes of every statement
TRUSTED = 1.0  # seconds that a kept page is given out without asking whether another process writes

Stamp = tuple[tuple[int, ...] | None, tuple[int, ...] | None]
State = tuple[Stamp | None, Kept]


class Lease:
    """One store that many requests read at once, closed when they are done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._store: Store | None = None
        self._state: State = (
            None,
            Kept(),
        )  # one value, so that no thread sees the new file with the old results
        self._readers = 0
        self._leases = 0
        self._idle_since = 0.0
        self._opened = float("-inf")

    @contextmanager
    def open(self) -> Iterator[Snapshot]:
        """Give a connection of its own to the store as it is now.

        Raises `StoreError` while another process writes.
        """
        with self._changed:
            # A file that was replaced is opened anew, once those who read the old one are done.
            self._changed.wait_for(lambda: self._readers == 0 or not self._outdated())
            if self._store is not None and self._outdated():
                self._close()
            opened = self._store or self._open()
            store = copy.copy(opened)
            store.connection = opened.connection.cursor()
            kept = self._state[1]
            self._readers += 1
            self._leases += 1
        try:
            yield Snapshot(store, kept)
        finally:
            store.close()
            with self._changed:
                self._readers -= 1
                self._idle_since = time.monotonic()
                self._changed.notify_all()

    def kept_page(self, key: Hashable) -> bytes | None:
        """Return a page that was made of the file as it is now, without opening it; None where there is none.

        Every `TRUSTED` seconds one caller gets None all the same, opens the file, and so sees whether it is being
        written. The others need not wait for that: until a writer commits, the file is as it was.
        """
        now, (of, kept) = time.monotonic(), self._state
        if of != stamp(self.path):
            return None
        if now - self._opened > TRUSTED:
            self._opened = now
            return None
        found = kept.find("page", key)
        return found if isinstance(found, bytes) else None

    def close(self) -> None:
        """Close the file when the last reader is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._readers == 0)
            self._close()

    def _outdated(self) -> bool:
        return self._leases >= LEASES or self._state[0] != stamp(self.path)

    def _open(self) -> Store:
        self._opened = float("-inf")  # while it cannot be opened, no kept page is given out either
        while True:
            before = stamp(self.path)
            opened = attrstore.open(self.path)
            # Many pages at once share the processor better than the parts of one page.
            threads: int = opened.value("SELECT current_setting('threads')")
            opened.execute("SET threads = $n", {"n": max(1, threads // PAGES)})
            if before == stamp(self.path):  # or it was replaced meanwhile, and which of the two was opened?
                break
            opened.close()
        if before != self._state[0]:
            self._state = (before, Kept())
        self._store, self._opened, self._leases = opened, time.monotonic(), 0
        threading.Thread(target=self._close_when_idle, daemon=True).start()
        return opened

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


def stamp(path: Path) -> Stamp:
    """Return what changes when the file or its log is written or replaced.

    The log counts: a writer that was killed leaves in it what it committed. So does the time of the last change of
    the entry, which a copy with the old times (`cp -p`) cannot set back.
    """
    return _stamp(path), _stamp(path.with_name(f"{path.name}.wal"))


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
