"""Find encoders, codes, vectors and matrices that are not as their encoder's spec says. Needs numpy alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attrstore.vectors import encoders
from attrstore.vectors.encoders import Block, Encoder
from attrstore.vectors.quantisations import CODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow

    from attrstore.store import Store

ROWS = 1024  # read at a time
EXPONENTS = {2: 0x7C00, 4: 0x7F800000}  # bytes of a float: the bits that are all set where it is not finite
BFLOAT_EXPONENT = 0x7F80


def wrong_recipes(store: Store) -> Iterator[str]:
    """Yield the encoders whose id is not that of their spec, or whose blocks do not follow each other."""
    for row in store.rows("SELECT encoder_id, name, kind, spec, blocks FROM encoders ORDER BY encoder_id"):
        found = _encoder(row)
        if found is None:
            yield f"encoder {row[1]}: its spec or blocks cannot be read"
        elif found.encoder_id != row[0]:
            yield f"encoder {row[1]}: its spec was edited"
        elif not _consecutive(found.blocks) or found.code not in CODES:
            yield f"encoder {row[1]}: its blocks were edited"


def wrong_bytes(store: Store) -> Iterator[str]:
    """Yield the codes, scales, vectors and matrices of another length than their encoder's, or not finite."""
    rows = store.rows("SELECT encoder_id, name, kind, spec, blocks FROM encoders ORDER BY encoder_id")
    for encoder_id, encoder in ((row[0], _encoder(row)) for row in rows):
        if encoder is None or encoder.code not in CODES:
            continue  # named by wrong_recipes
        for what in _wrong_codes(store, encoder_id, encoder):
            yield f"encoding under {encoder.name} of {what}"
        for what in _wrong_vectors(store, encoder_id, encoder):
            yield f"vector under {encoder.name} of {what}"
        for what in _wrong_matrices(store, encoder_id, encoder):
            yield f"{what} under {encoder.name}"


def missing_projections(store: Store) -> Iterator[str]:
    """Yield what an encoder measured before its first encoding and the store does not hold."""
    for encoder in _readable(store, "gradient"):
        parts = {"p_in", "p_out"} if encoder.spec.get("kronecker") is not None else set()
        parts |= {"scale_in", "scale_out"} if encoder.spec.get("correction") == "factored" else set()
        key = {"encoder": encoder.encoder_id}
        held = dict(store.named("check", "projection_parts", key).fetchall())
        modules = (
            {block.name for block in encoder.blocks} if encoder.spec.get("blocks") == "module" else set()
        )
        if parts and not held.keys() | modules:
            yield f"all projections of {encoder.name}"
        for module in sorted(modules | held.keys()) if parts else ():
            for part in sorted(parts - set(held.get(module, ()))):
                yield f"{part} of {module} under {encoder.name}"


def _readable(store: Store, kind: str) -> Iterator[Encoder]:
    rows = store.rows("SELECT encoder_id, name, kind, spec, blocks FROM encoders ORDER BY encoder_id")
    for row in rows:
        found = _encoder(row)
        if found is not None and found.encoder_id == row[0] and found.kind == kind:
            yield found


def _encoder(row: tuple[Any, ...]) -> Encoder | None:
    _, name, kind, spec, blocks = row
    try:
        found = Encoder(
            kind, name, "", json.loads(spec), tuple(Block(**block) for block in json.loads(blocks))
        )
        _ = found.encoder_id, found.code, found.dimensions, found.scale_bytes
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    return found


def _consecutive(blocks: tuple[Block, ...]) -> bool:
    if not blocks or any(block.length < 1 for block in blocks):
        return False
    made = encoders.make_blocks([(block.name, block.length) for block in blocks])
    return [(b.name, b.offset) for b in made] == [(b.name, b.offset) for b in blocks]


def _wrong_codes(store: Store, encoder_id: str, encoder: Encoder) -> Iterator[str]:
    import numpy as np

    code = CODES[encoder.code]
    lengths: dict[str, Any] = {
        "encoder": encoder_id,
        "code": code.n_bytes(encoder.dimensions),
        "scales": encoder.scale_bytes,
    }
    for (example_id,) in store.named("check", "odd_lengths", lengths).fetchall():
        yield f"example {example_id}: its length"
    relation = store.sql(
        "SELECT example_id, scales, CASE WHEN $code THEN code END FROM encodings "
        "WHERE encoder_id = $encoder AND octet_length(scales) = $scales AND octet_length(code) = $length",
        {**lengths, "code": code.bits == 16, "length": lengths["code"]},
    )
    for batch in relation.to_arrow_reader(ROWS):
        scales = _matrix(batch.column(1), lengths["scales"])
        norms = np.ascontiguousarray(scales[:, : 2 * len(encoder.blocks)]).view(np.uint16)
        wrong = ((norms & BFLOAT_EXPONENT) == BFLOAT_EXPONENT).any(axis=1)
        if code.bits == 16:
            wrong |= ~_finite(_matrix(batch.column(2), lengths["code"]), 2)
        for example_id in batch.column(0).filter(_mask(wrong)).to_pylist():
            yield f"example {example_id}: a number that is not finite"


def _wrong_vectors(store: Store, encoder_id: str, encoder: Encoder) -> Iterator[str]:
    import numpy as np

    length, numbers = 4 * encoder.dimensions, 0
    if encoder.rank is not None:  # as attrstore.vectors.low_rank packs them: 8-bit entries, then float32
        pairs = int(encoder.spec.get("query_rank") or encoder.rank)
        numbers = pairs * encoder.dimensions // encoder.rank
        length = numbers + 4 * len(encoder.blocks) * (pairs + 1)
    key = {"encoder": encoder_id, "length": length}
    for (query_id,) in store.named("check", "odd_vectors", key).fetchall():
        yield f"query {query_id}: its length"
    relation = store.sql(
        "SELECT query_id, vector FROM query_encodings "
        "WHERE encoder_id = $encoder AND octet_length(vector) = $length",
        key,
    )
    for batch in relation.to_arrow_reader(ROWS):
        vectors = np.ascontiguousarray(_matrix(batch.column(1), length)[:, numbers:])
        for query_id in batch.column(0).filter(_mask(~_finite(vectors, 4))).to_pylist():
            yield f"query {query_id}: a number that is not finite"


def _wrong_matrices(store: Store, encoder_id: str, encoder: Encoder) -> Iterator[str]:
    import numpy as np

    sizes = {block.name: block.length * (block.length + 1) for block in encoder.blocks}
    for what, block, matrix in store.named("check", "matrices", {"encoder": encoder_id}).fetchall():
        if block is not None and sizes.get(block) != len(matrix):
            yield f"{what}: its length"
        elif len(matrix) % 2 or not _finite(np.frombuffer(matrix, np.uint8)[None], 2).all():
            yield f"{what}: a number that is not finite"


def _matrix(column: pyarrow.Array, width: int) -> np.ndarray:
    """View a column of n blobs of one length as uint8 [n, width]."""
    import numpy as np

    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(len(column), width)


def _finite(rows: np.ndarray, size: int) -> np.ndarray:
    """Tell which rows of uint8 [n, bytes] hold only finite floats of `size` bytes."""
    import numpy as np

    bits = rows.view({2: np.uint16, 4: np.uint32}[size])
    finite: np.ndarray = ((bits & EXPONENTS[size]) != EXPONENTS[size]).all(axis=1)
    return finite


def _mask(which: np.ndarray) -> pyarrow.Array:
    import pyarrow

    return pyarrow.array(which)
