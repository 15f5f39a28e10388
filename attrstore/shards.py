"""Encodings in a folder, of a disk or an object store: Parquet files, each with a manifest that says what it is.

A manifest is written last, so a file without one is unfinished, and whoever makes the shards makes it again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from attrstore.errors import InputError, MismatchError
from attrstore.runs import recorded
from attrstore.vectors import encoders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow

    from attrstore.folders import Folder
    from attrstore.progress import Progress
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

CHECKPOINT_AT = "1GB"  # of log: as of the job that writes codes itself
SUFFIX, MANIFEST = ".parquet", ".json"
IDENTITY = ["example_id", "content_hash"]  # of a row: an example, and the text that it had
AGAIN = "Delete it and its manifest, and run the same attrstore ingest with --shards again."


@dataclass(frozen=True)
class Shard:
    """What a manifest says of its file."""

    part: int  # of the work: the range of example ids that it is of
    encoder: str
    encoder_name: str
    first: int  # of its example ids
    last: int
    rows: int
    bytes: int
    sha256: str


@dataclass
class Attached:
    """What came into a store from shards."""

    encoders: list[str] = field(default_factory=list)  # their names
    shards: int = 0
    rows: int = 0
    known: int = 0  # rows that the store had
    other_texts: int = 0  # rows left out: the store's text is another now, or the example is gone
    missing: int = 0  # examples that have no encoding yet


def write(folder: Folder, part: int, encoder: Encoder, table: pyarrow.Table) -> str:
    """Write encodings with their `content_hash` as one file, and its manifest; return the file's name."""
    import pyarrow.parquet

    ids = table["example_id"].to_pylist()
    digest = hashlib.sha256("\n".join(map(str, table.select(IDENTITY).to_pylist())).encode()).hexdigest()
    name = f"{part:08d}-{digest[:8]}"
    out = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, out, compression="none", use_dictionary=False)
    content = out.getvalue().to_pybytes()
    shard = Shard(
        part=part,
        encoder=encoder.encoder_id,
        encoder_name=encoder.name,
        first=min(ids),
        last=max(ids),
        rows=len(table),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    folder.put(name + SUFFIX, content)
    folder.put(name + MANIFEST, json.dumps(asdict(shard), indent=1).encode())
    return name + SUFFIX


def _sha256(folder: Folder, name: str) -> str:
    with folder.open(name) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]


def finished(folder: Folder) -> tuple[dict[str, Shard], list[str]]:
    """Return the shards that have a manifest, by name, and what is wrong with the others that have one."""
    sizes = folder.sizes()
    if sizes is None:
        raise InputError(f"{folder}: no such folder of shards.")
    return _finished(folder, sizes)


def _finished(folder: Folder, sizes: dict[str, int]) -> tuple[dict[str, Shard], list[str]]:
    shards, wrong = {}, []
    for manifest in (name for name in sizes if name.endswith(MANIFEST)):
        name = manifest.removesuffix(MANIFEST) + SUFFIX
        file = folder.called(name)
        try:
            with folder.open(manifest) as opened:
                shard = Shard(**json.loads(opened.read()))
            if [type(value).__name__ for value in asdict(shard).values()] != [f.type for f in fields(Shard)]:
                raise TypeError("a value is of another type")
        except (ValueError, TypeError) as error:
            wrong.append(
                f"{folder.called(manifest)}: not the manifest of a shard ({error}). Delete it, or use another folder."
            )
            continue
        if name not in sizes:
            wrong.append(f"{file}: gone, and its manifest is there. Delete {manifest}.")
        elif sizes[name] != shard.bytes:
            wrong.append(
                f"{file}: torn: {sizes[name]:,} bytes, and its manifest says {shard.bytes:,}. {AGAIN}"
            )
        else:
            shards[name] = shard
    return shards, wrong


def of_encoder(folder: Folder, encoder: Encoder) -> dict[str, Shard]:
    """Return the finished shards of a folder; refuse it where one is torn or another encoder's."""
    shards, wrong = _finished(folder, folder.sizes() or {})
    for name, shard in shards.items():
        if shard.encoder != encoder.encoder_id:
            wrong.append(
                f"{folder.called(name)}: a shard of the encoder {shard.encoder_name} ({shard.encoder}), and this one "
                f"is {encoder.name} ({encoder.encoder_id}). Use another folder."
            )
    _refuse(wrong)
    return shards


def identities(folder: Folder, names: Iterable[str]) -> pyarrow.Table:
    """Return which examples, with which texts, are in the files: example_id, content_hash."""
    import pyarrow

    schema = pyarrow.schema([("example_id", pyarrow.int64()), ("content_hash", pyarrow.string())])
    tables = [_read(folder, name, IDENTITY).cast(schema) for name in names]
    return pyarrow.concat_tables([schema.empty_table(), *tables])


def _read(folder: Folder, name: str, columns: list[str] | None = None) -> pyarrow.Table:
    import pyarrow.parquet

    with folder.open(name) as opened:
        return pyarrow.parquet.read_table(opened, columns=columns)


def faults(store: Store, folder: Folder) -> Iterator[str]:
    """Yield what is wrong with the shards of a folder, and what they and the store lack."""
    shards, wrong = finished(folder)
    yield from wrong
    yield from _unfit(store, folder, shards)
    sizes = folder.sizes() or {}
    for name in (name for name in sizes if name.endswith(SUFFIX)):
        if name.removesuffix(SUFFIX) + MANIFEST not in sizes:
            yield f"{folder.called(name)}: has no manifest, so it is unfinished. {AGAIN}"
    for encoder in {shard.encoder: shard for shard in shards.values()}.values():
        names = [name for name, shard in shards.items() if shard.encoder == encoder.encoder]
        with store.registered(sharded=identities(folder, names)):
            lacking = store.named("shards", "lacking", {"encoder": encoder.encoder}).fetchall()
        for n, example in lacking:
            if n:
                yield (
                    f"{folder}: {n:,} examples have no encoding of {encoder.encoder_name} here or in the store, "
                    f"for one {example}. Run the same attrstore ingest with --shards again."
                )


def attach(store: Store, folder: Folder, progress: Progress) -> Attached:
    """Bring the encodings of a folder of shards into the store: those that it does not have.

    Every file's hash and encoder is checked before the first row is written; a file is one transaction, so what was
    stopped goes on.

    Raises:
        InputError: the folder has no finished shard.
        MismatchError: a shard is torn, altered or of an encoder that the store does not have; each is named.
    """
    import pyarrow

    store.require_writable()
    shards, wrong = finished(folder)
    _refuse([*wrong, *_unfit(store, folder, shards)])
    if not shards:
        raise InputError(
            f"{folder}: no finished shard. Make them: attrstore ingest gradients --shards {folder}"
        )
    done = Attached(sorted({shard.encoder_name for shard in shards.values()}), len(shards))
    total = sum(shard.rows for shard in shards.values())
    store.execute("SET checkpoint_threshold = $size", {"size": CHECKPOINT_AT})
    with recorded(store, "attach", folder=str(folder), shards=len(shards)) as run:
        for name, shard in shards.items():
            where = {"encoder": shard.encoder, "first": shard.first, "last": shard.last}
            rows = _read(folder, name)
            rows = rows.append_column("place", pyarrow.array(range(len(rows))))
            with store.transaction(), store.registered(shard=rows):
                ((fitting,),) = store.named("shards", "fitting").fetchall()
                ((added,),) = store.named("shards", "attach", where).fetchall()
            run.rows += added
            done.known += fitting - added
            done.other_texts += shard.rows - fitting
            progress(done.known + done.other_texts + run.rows, total)
    done.rows = run.rows
    for encoder in {shard.encoder for shard in shards.values()}:
        ((missing,),) = store.named("shards", "missing", {"encoder": encoder}).fetchall()
        done.missing += missing
    return done


def _unfit(store: Store, folder: Folder, shards: dict[str, Shard]) -> Iterator[str]:
    known = {encoder.encoder_id for encoder in encoders.load_all(store)}
    for name, shard in shards.items():
        file = folder.called(name)
        if shard.encoder not in known:
            yield (
                f"{file}: a shard of the encoder {shard.encoder_name} ({shard.encoder}), which {store.path} does "
                "not have. Attach it to the store that it was made from."
            )
        elif (found := _sha256(folder, name)) != shard.sha256:
            yield (
                f"{file}: altered: its sha256 is {found[:16]}..., and its manifest says {shard.sha256[:16]}.... {AGAIN}"
            )


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise MismatchError("\n".join(wrong))
