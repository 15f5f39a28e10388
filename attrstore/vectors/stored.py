"""What vector methods read from a store: the queries' vectors, the corpus's, and its curvature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.errors import InputError
from attrstore.vectors.encoders import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from attrstore.store import Store
    from attrstore.vectors.encoders import Block, Encoder

CURVATURE_ROWS = 65_536  # of the corpus; more would not change a matrix of some hundred rows


def query_vectors(store: Store, encoder: Encoder) -> tuple[list[int], Tensor]:
    """Return the ids of the encoded queries, ascending, and their vectors: float32 [q, D], of low rank [q, E]."""
    from attrstore.vectors import packing

    rows = store.named("scoring", "query_vectors", {"encoder": encoder.encoder_id}).fetchall()
    if not rows:
        raise InputError(
            f"{store.path}: no query is encoded under {encoder.name}. First: attrstore ingest queries "
            f"{store.path} FILE, then {COMMANDS[encoder.kind]} again."
        )
    return [query_id for query_id, _ in rows], packing.unpacked_queries(encoder, [blob for _, blob in rows])


def refuse_missing(store: Store, encoder: Encoder) -> None:
    """Refuse to rank while selected examples have not been looked at by the encoder."""
    ((missing,),) = store.named("scoring", "not_encoded", {"encoder": encoder.encoder_id}).fetchall()
    if missing:
        raise InputError(
            f"{store.path}: {missing:,} of the examples to rank are not encoded under {encoder.name}. "
            f"Run the same {COMMANDS[encoder.kind]} command again: it encodes what is missing."
        )


def refuse_missing_queries(store: Store, encoder: Encoder) -> None:
    """Refuse to rank while queries have not been looked at by the encoder: they would drop out of every mean."""
    ((missing, total),) = store.named(
        "scoring", "queries_not_encoded", {"encoder": encoder.encoder_id}
    ).fetchall()
    if missing:
        raise InputError(
            f"{store.path}: {missing:,} of {total:,} queries are not encoded under {encoder.name}. "
            f"Run the same {COMMANDS[encoder.kind]} command again: it encodes what is missing."
        )


def corpus_rows(store: Store, encoder: Encoder, device: torch.device) -> Iterator[Tensor]:
    """Yield the encodings [n, D] that stand for the corpus: all, or a fixed sample of a large one."""
    from attrstore.vectors import codes, low_rank, scan

    low_rank.refuse(encoder, "an inverse of the whole curvature")

    for chunk in scan.chunks(store, encoder, "curvature_rows", device, one_in=one_in(store, encoder)):
        rows, norms = codes.decode(chunk.code, chunk.scales, encoder.blocks, codes.CODES[encoder.code])
        for which, where, length in codes.runs_of_equal_length(encoder.blocks):
            part = rows[:, where].unflatten(1, (-1, length))  # a view: the directions are scaled in place
            part *= norms[:, which].unsqueeze(2)
        yield rows


def one_in(store: Store, encoder: Encoder) -> int:
    """Return one in how many encodings a curvature is measured on."""
    return max(1, _encoded(store, encoder) // CURVATURE_ROWS)


def _encoded(store: Store, encoder: Encoder) -> int:
    count = "SELECT count(code) FROM encodings WHERE encoder_id = $e"
    return int(store.value(count, {"e": encoder.encoder_id}))


def corpus_curvature(store: Store, encoder: Encoder, device: torch.device) -> list[Tensor]:
    """Return the second moment of the corpus's encodings, block by block; kept in the store if it is small.

    It is kept when it takes less than a tenth of the codes' own bytes. On a smaller corpus reading it would
    save less than the file would grow, and it is computed anew.
    """
    from attrstore.vectors import codes, curvature

    key = {"encoder": encoder.encoder_id, "side": "corpus"}
    encoded = _encoded(store, encoder)
    kept = {
        block: (n, scale, matrix)
        for block, n, scale, matrix in store.named("scoring", "curvature", key).fetchall()
    }
    if kept and next(iter(kept.values()))[0] == encoded:
        return [
            curvature.unpack(kept[b.name][1], kept[b.name][2], b.length).to(device) for b in encoder.blocks
        ]
    moment = curvature.SecondMoment(encoder.blocks, device)
    for rows in corpus_rows(store, encoder, device):
        moment.add(rows)
    if not moment.n:
        raise InputError(
            f"{store.path}: the encoder {encoder.name} has no encodings to take a curvature from."
        )
    matrices = moment.matrices()
    size = sum(block.length * (block.length + 1) for block in encoder.blocks)
    if size * 10 < encoded * codes.CODES[encoder.code].n_bytes(encoder.dimensions):
        packed = [curvature.pack(matrix.cpu()) for matrix in matrices]
        if store.writable:
            _keep(store, key, encoded, dict(zip(encoder.blocks, packed, strict=True)))
        # As the next call will read them, so that it gives the same scores.
        matrices = [
            curvature.unpack(*of_block, block.length).to(device)
            for of_block, block in zip(packed, encoder.blocks, strict=True)
        ]
    return matrices


def _keep(store: Store, key: dict[str, str], encoded: int, packed: dict[Block, tuple[float, bytes]]) -> None:
    """Write a curvature, in the place of one of fewer encodings."""
    import pyarrow

    table = pyarrow.table(
        {
            "block": [block.name for block in packed],
            "n": pyarrow.array([encoded] * len(packed), pyarrow.int64()),
            "scale": [scale for scale, _ in packed.values()],
            "matrix": pyarrow.array([matrix for _, matrix in packed.values()], pyarrow.large_binary()),
        }
    )
    with store.transaction(), store.registered(moments=table):
        store.named("scoring", "drop_curvature", key)
        store.named("scoring", "insert_curvature", key)
