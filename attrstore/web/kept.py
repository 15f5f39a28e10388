"""What pages found out about one state of a store, kept within bounds, and found out once at a time."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from attrstore.store import Store

# How many results of a kind are kept: a list of queries may be long, a page is short.
KEPT = {"listed": 4, "page": 4_096, "stretch": 4_096}
KEPT_OTHERS = 64
KEPT_BYTES = {"stretch": 8 << 20}
KEPT_BYTES_OTHERS = 16 << 20  # of pages: what else is kept is small

Made = TypeVar("Made")
_MISSING = object()


class Kept:
    """Results by kind and key. The one asked for longest ago goes first; several threads may ask at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, OrderedDict[Hashable, object]] = {}
        self._making: dict[tuple[str, Hashable], Future[object]] = {}
        self._bytes: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def find(self, kind: str, key: Hashable = None) -> object | None:
        """Return a result, or None where it is not kept."""
        with self._lock:
            found = self._found(kind, key)
        return None if found is _MISSING else found

    def once(self, kind: str, make: Callable[[], Made], key: Hashable = None) -> Made:
        """Return what `make` gives, from memory if it was made already; whoever asks meanwhile waits for it."""
        with self._lock:
            found = self._found(kind, key)
            if found is not _MISSING:
                return cast("Made", found)
            waiting = self._making.get((kind, key))
            if waiting is None:
                mine = self._making[kind, key] = Future[object]()
        if waiting is not None:
            return cast("Made", waiting.result())
        try:
            made = make()
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(made)
            with self._lock:
                self._keep(kind, key, made)
            return made
        finally:
            with self._lock:
                del self._making[kind, key]

    def _found(self, kind: str, key: Hashable) -> object:
        of_kind = self._kinds.get(kind)
        if of_kind is None or key not in of_kind:
            return _MISSING
        of_kind.move_to_end(key)
        return of_kind[key]

    def _keep(self, kind: str, key: Hashable, made: object) -> None:
        of_kind = self._kinds.setdefault(kind, OrderedDict())
        of_kind[key] = made
        self._bytes[kind] += _size(made)
        most, most_bytes = KEPT.get(kind, KEPT_OTHERS), KEPT_BYTES.get(kind, KEPT_BYTES_OTHERS)
        while len(of_kind) > 1 and (len(of_kind) > most or self._bytes[kind] > most_bytes):
            self._bytes[kind] -= _size(of_kind.popitem(last=False)[1])


def _size(made: object) -> int:
    return len(made) if isinstance(made, bytes) else getattr(made, "nbytes", 0)


@dataclass(frozen=True)
class Snapshot:
    """The store in one state, and what was already found out about it."""

    store: Store
    kept: Kept = field(default_factory=Kept)

    def once(self, kind: str, make: Callable[[Store], Made], key: Hashable = None) -> Made:
        """Return what `make` gives for the store, from memory if a page asked for it already."""
        return self.kept.once(kind, lambda: make(self.store), key)

    def totals(self) -> tuple[int, int, int]:
        """Return how many examples, queries and labelled pairs there are."""
        (row,) = self.once("totals", lambda s: s.named("web", "totals").fetchall())
        return row[0], row[1], row[2]
