"""A recipe text -> vector: its spec, its id, its blocks, and its row in `encoders`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from attrstore.errors import InputError, MismatchError, flag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attrstore.store import Store

# kind of encoder: the command that makes its encodings
COMMANDS = {
    "gradient": "attrstore ingest gradients",
    "representation": "attrstore ingest representations",
    "embedding": "attrstore ingest embeddings",
}


class Block(NamedTuple):
    """A contiguous part of a vector that has its own norm and its own curvature."""

    name: str
    offset: int
    length: int
    rows: int | None = None  # of the matrix that it is, row by row, if it is one


@dataclass(frozen=True)
class Encoder:
    """A recipe. Two recipes with the same spec have the same id, in every store."""

    kind: str  # gradient, representation, embedding
    name: str
    model_fingerprint: str
    spec: Mapping[str, Any]
    blocks: tuple[Block, ...]

    @property
    def encoder_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of kind and spec, keys sorted."""
        canonical = json.dumps([self.kind, self.spec], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def dimensions(self) -> int:
        """Length of the whole vector."""
        return sum(block.length for block in self.blocks)

    @property
    def rank(self) -> int | None:
        """Singular pairs that an encoder of low rank keeps of each block."""
        rank = self.spec.get("rank")
        return None if rank is None else int(rank)

    @property
    def principal(self) -> bool:
        """Whether the directions of an encoder of low rank are coordinates on principal ones."""
        return self.spec.get("principal") is not None

    @property
    def scale_bytes(self) -> int:
        """Length of an example's scales: of each block its norm, and of low rank what each pair holds of it."""
        return (2 + (self.rank or 0)) * len(self.blocks)

    def shape(self, block: Block) -> tuple[int, int]:
        """Return the rows and columns of a block as a matrix; raises `InputError` where it is none."""
        k = int(self.spec.get("projection_dim", 0))
        rows = block.rows or (k if block.length == k * k else 0)
        if not rows:
            raise InputError(
                f"{self.name}: the block {block.name} of {block.length} numbers is not a {k} x {k} matrix, and "
                "its shape was not recorded, so it has no Kronecker factors. Use the method influence or "
                "datainf, or ingest gradients again into a new store."
            )
        return rows, block.length // rows

    @property
    def code(self) -> str:
        """The quantisation of the encodings: a key of `attrstore.vectors.codes.CODES`."""
        return str(self.spec["code"])


def make_blocks(lengths: Sequence[tuple[str, int]]) -> tuple[Block, ...]:
    """Lay blocks out one after the other."""
    blocks: list[Block] = []
    offset = 0
    for name, length in lengths:
        blocks.append(Block(name, offset, length))
        offset += length
    return tuple(blocks)


def save(store: Store, encoder: Encoder) -> None:
    """Write the encoder's row unless it is there; runs inside the caller's transaction."""
    store.execute(
        "INSERT INTO encoders VALUES ($id, $kind, $name, $model, $spec, $blocks, now()) ON CONFLICT DO NOTHING",
        {
            "id": encoder.encoder_id,
            "kind": encoder.kind,
            "name": encoder.name,
            "model": encoder.model_fingerprint,
            "spec": json.dumps(encoder.spec, sort_keys=True),
            "blocks": json.dumps([block._asdict() for block in encoder.blocks]),
        },
    )


def known(store: Store, encoder: Encoder) -> bool:
    """Whether the store has the encoder."""
    count = "SELECT count(*) FROM encoders WHERE encoder_id = $id"
    return bool(store.value(count, {"id": encoder.encoder_id}))


def load_all(store: Store, kind: str | None = None) -> list[Encoder]:
    """Read the store's encoders, oldest first."""
    rows = store.rows(
        "SELECT kind, name, model_fingerprint, spec, blocks, encoder_id FROM encoders "
        "WHERE $kind IS NULL OR kind = $kind ORDER BY created, encoder_id",
        {"kind": kind},
    )
    encoders = []
    for row_kind, name, model, spec, blocks, encoder_id in rows:
        encoder = Encoder(
            row_kind, name, model, json.loads(spec), tuple(Block(**block) for block in json.loads(blocks))
        )
        if encoder.encoder_id != encoder_id:
            raise MismatchError(
                f"{store.path}: encoder {encoder_id} ({name}) does not match its own spec, whose id is "
                f"{encoder.encoder_id}. The row was edited; ingest again into a new store."
            )
        encoders.append(encoder)
    return encoders


def choose(
    store: Store,
    kind: str,
    wanted: str | None = None,
    *,
    model: str | None = None,
    fits: Callable[[Encoder], bool] = lambda encoder: True,
) -> Encoder:
    """Return the encoder called `wanted` (its name or the start of its id), or the first that was made of its kind.

    The first, because a later ingest should not change what a command means.

    Args:
        model: fingerprint of the model, where it is known which one is meant.
        fits: what is wanted where none is named; only those that fit are chosen from, if any does.

    Raises `InputError` where there is none, where the name is not clear, or where encoders of several models leave
    open which one is meant.
    """
    encoders = [e for e in load_all(store, kind) if model is None or e.model_fingerprint == model]
    if not encoders:
        raise InputError(
            f"{store.path}: no {kind} encodings yet. Make them: {COMMANDS[kind]} {store.path} --model PATH"
        )
    if wanted is None:
        fitting = [encoder for encoder in encoders if fits(encoder)] or encoders
        _refuse_several_models(store, fitting)
        return fitting[0]
    matches = [e for e in encoders if e.name == wanted or e.encoder_id.startswith(wanted)]
    if len(matches) != 1:
        known = ", ".join(f"{e.name} ({e.encoder_id[:6]})" for e in encoders)
        problem = "no" if not matches else "more than one"
        raise InputError(
            f"{flag('encoder')} {wanted}: {problem} {kind} encoder of that name; there are: {known}"
        )
    return matches[0]


def _refuse_several_models(store: Store, encoders: Sequence[Encoder]) -> None:
    """Refuse to guess whose encodings are meant."""
    if len({encoder.model_fingerprint for encoder in encoders}) < 2:
        return
    paths = dict(store.rows("SELECT fingerprint, path FROM models"))
    there = "".join(f"\n  {e.name}: {paths.get(e.model_fingerprint, e.model_fingerprint)}" for e in encoders)
    raise InputError(
        f"{store.path}: which model? It has {encoders[0].kind} encodings of several. Give "
        f"{flag('encoder')} NAME, one of{there}"
    )
