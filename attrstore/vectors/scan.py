"""Stream codes out of DuckDB in bounded memory."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow
import torch
from torch import Tensor

from attrstore.statements import statement
from attrstore.vectors import codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

CHUNK_BYTES = 2**26  # of vectors held at a time, if they were float32
BATCH_BYTES = 2**20  # of codes asked of DuckDB at a time: small enough for its memory to be used again
CHUNKS_ALIVE = 3  # one in use, one waiting, one being read
CACHE_BYTES = 2**29  # of pages that DuckDB may hold during a scan


class Chunk(NamedTuple):
    """Some examples as they are stored. Its memory is used again two chunks later."""

    example_ids: Tensor  # int64 [n]
    code: Tensor  # uint8 [n, bytes]
    scales: Tensor  # uint8 [n, encoder.scale_bytes]: of the blocks' norms


def rows_at_once(encoder: Encoder) -> int:
    """Return how many examples a chunk holds."""
    return max(64, min(16384, CHUNK_BYTES // (4 * encoder.dimensions)))


def chunks(
    store: Store,
    encoder: Encoder,
    name: str = "encoded",
    device: torch.device | str = "cpu",
    **parameters: int,
) -> Iterator[Chunk]:
    """Yield the codes that the statement `name` of `sql/statements/scoring.sql` selects, on `device`.

    The next chunk is read while the caller works on one.
    """
    if name == "encoded" and store.value(statement("scoring", "all_are_selected")):
        name = "all_encoded"  # a join costs more than the reading
    relation = store.sql(statement("scoring", name), {"encoder": encoder.encoder_id, **parameters})
    for chunk in _ahead(_gathered(relation, encoder, rows_at_once(encoder))):
        yield Chunk(*(part.to(device) for part in chunk))


def _gathered(relation: duckdb.DuckDBPyRelation, encoder: Encoder, size: int) -> Iterator[Chunk]:
    """Yield chunks of `size` rows, copied out of DuckDB's batches into memory that goes round."""
    width = codes.CODES[encoder.code].n_bytes(encoder.dimensions)
    ring = cycle(
        Chunk(
            torch.empty(size, dtype=torch.int64),
            torch.empty(size, width, dtype=torch.uint8),
            torch.empty(size, encoder.scale_bytes, dtype=torch.uint8),
        )
        for _ in range(CHUNKS_ALIVE)
    )
    chunk, n = next(ring), 0
    for batch in relation.to_arrow_reader(min(size, max(64, BATCH_BYTES // width))):
        columns = _example_ids(batch.column(0)), blob_matrix(batch.column(1)), blob_matrix(batch.column(2))
        done = 0
        while done < len(batch):
            taken = min(len(batch) - done, size - n)
            for part, column in zip(chunk, columns, strict=True):
                part[n : n + taken] = column[done : done + taken]
            n, done = n + taken, done + taken
            if n == size:
                yield chunk
                chunk, n = next(ring), 0
    if n:
        yield Chunk(*(part[:n] for part in chunk))


def _ahead(items: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield what `items` does, prepared in a thread, one ahead of the caller."""
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = reader.submit(next, items, None)
            yield item


def _example_ids(column: pyarrow.Array) -> Tensor:
    return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())


def blob_matrix(column: pyarrow.Array) -> Tensor:
    """View a column of n blobs of one length as uint8 [n, length], without a copy; not to be written to."""
    wide = pyarrow.types.is_large_binary(column.type)
    offsets = np.frombuffer(column.buffers()[1], np.int64 if wide else np.int32)[column.offset :]
    values = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[len(column)]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the memory is read-only
        return torch.from_numpy(values.reshape(len(column), -1))
