"""What pages read of a query, read together with that of its neighbours.

Planning a statement takes longer than reading what it says of one query, and who reads one query reads the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attrstore.store import Store
    from attrstore.web.kept import Snapshot

    Column = np.ndarray[tuple[int], np.dtype[np.float64]]

LENGTH = 16  # queries; more make the first page of each stretch slower than they make the others quicker


class Stretch:
    """Rows about queries with consecutive ids, by columns, those of one query together."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        order = np.argsort(columns["query_id"], kind="stable")
        self._queries, *self._columns = (column[order] for column in columns.values())

    @property
    def nbytes(self) -> int:
        """How many bytes it holds."""
        return sum(column.nbytes for column in (self._queries, *self._columns))

    def of(self, query_id: int) -> list[tuple[Any, ...]]:
        """Return the rows of one query, without its id."""
        first, end = np.searchsorted(self._queries, (query_id, query_id + 1))
        return list(zip(*(column[first:end].tolist() for column in self._columns), strict=True))


def rows(snapshot: Snapshot, name: str, query_id: int, **asked: object) -> list[tuple[Any, ...]]:
    """Return what the named statement, whose first column is `query_id`, says of a query."""
    first = query_id - query_id % LENGTH

    def make(store: Store) -> Stretch:
        ends = {"first": first, "last": first + LENGTH - 1}
        return Stretch(store.named("web", name, {**ends, **asked}).fetchnumpy())

    return snapshot.once("stretch", make, (name, first, *asked.values())).of(query_id)
