"""Scan encodings on Ray: from the queries' side and some of the table's rows to both ends of the order of these."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import attrstore
from attrstore import cluster
from attrstore.statements import statement
from attrstore.vectors import scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow

    from attrstore.methods.linear_map import Side
    from attrstore.store import Store
    from attrstore.vectors.ends import Ends

CHUNKS = 16  # of a part, at most
PARTS = 32  # at least, where there are as many chunks


@dataclass(frozen=True)
class Scan:
    """What every worker is told."""

    path: Path
    side: Side
    ends: Ends  # of nothing yet
    selected: pyarrow.Table | None  # ids of the examples to rank; None: all

    @property
    def n_bytes(self) -> int:
        """About how many bytes that is."""
        tensors = [self.side.vectors, *(self.side.whitening or ())]
        return sum(t.nbytes for t in tensors) + (0 if self.selected is None else self.selected.nbytes)


class Scanner:
    """In a worker: the store, open for reading only, and what scores its codes."""

    def __init__(self, asked: Scan) -> None:
        self.asked, self.opened = asked, ExitStack()
        self.store = self.opened.enter_context(attrstore.open(asked.path))
        if asked.selected is not None:
            self.opened.enter_context(self.store.registered(selected_examples=asked.selected))
        self.store.execute("SET threads = $n", {"n": torch.get_num_threads()})
        self.score = asked.side.scorer(self.store)

    def close(self) -> None:
        """Close the store."""
        self.opened.close()

    def scanned(self, first: int, last: int) -> Ends:
        """Rank the rows from `first` to `last` of the table of encodings."""
        side = self.asked.side
        name = "all_encoded_part" if self.asked.selected is None else "encoded_part"
        with torch.inference_mode(), self.store.cache_of(scan.CACHE_BYTES):
            ends = copy.deepcopy(self.asked.ends)
            for chunk in scan.chunks(
                self.store, side.encoder, name, side.vectors.device, first=first, last=last
            ):
                ends.add(chunk.example_ids, self.score(chunk))
        return ends


def on_ray(store: Store, side: Side, ends: Ends, *, n: int | None = None) -> Iterator[Ends]:
    """Have the rows of a side's encoder scanned by `n` workers, and yield what each part of them gave.

    A part whose worker died is scanned again. The workers open the store where it lies: all must see it there.
    """
    everything = store.value(statement("scoring", "all_are_selected"))
    selected = None if everything else store.sql("FROM selected_examples").to_arrow_table()
    asked = Scan(store.path.absolute(), side, ends, selected)
    with cluster.crew(partial(Scanner, asked), n, side.vectors.device.type, asked.n_bytes) as crew:
        yield from crew.each("scanned", parts(store, side))


def parts(store: Store, side: Side) -> list[tuple[int, int]]:
    """Cut the rows of the table that hold the codes to scan: the first and last row of each part."""
    size = scan.rows_at_once(side.encoder)
    n_chunks = int(store.value("SELECT count(*) FROM selected_examples")) // size
    of_part = {
        "encoder": side.encoder.encoder_id,
        "size": size * max(1, min(CHUNKS, n_chunks // PARTS)),
    }
    return store.named("scoring", "parts", of_part).fetchall()
