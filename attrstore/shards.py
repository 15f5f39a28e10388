"""Encodings in a folder: Parquet files of some examples each, every one with a manifest that says what it is.

A manifest is written last, so a file without one is unfinished, and whoever makes the shards makes it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from attrstore.errors import InputError, MismatchError
from attrstore.runs import recorded
from attrstore.vectors import encoders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow

    from attrstore.progress import Progress
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

CHECKPOINT_AT = "1GB"  # of log: as of the job that writes codes itself
SUFFIX = ".parquet"
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


def write(folder: Path, part: int, encoder: Encoder, table: pyarrow.Table) -> Path:
    """Write encodings with their `content_hash` as one file; it and its manifest appear whole or not at all."""
    import pyarrow.parquet

    ids = table["example_id"].to_pylist()
    digest = hashlib.sha256("\n".join(map(str, table.select(IDENTITY).to_pylist())).encode()).hexdigest()
    file = folder / f"{part:08d}-{digest[:8]}{SUFFIX}"
    temporary = folder / f".{uuid4().hex}.tmp"
    try:
        pyarrow.parquet.write_table(table, temporary, compression="none", use_dictionary=False)
        shard = Shard(
            part=part,
            encoder=encoder.encoder_id,
            encoder_name=encoder.name,
            first=min(ids),
            last=max(ids),
            rows=len(table),
            bytes=temporary.stat().st_size,
            sha256=_sha256(temporary),
        )
        _publish(temporary, file)
        temporary.write_text(json.dumps(asdict(shard), indent=1), encoding="utf-8")
        _publish(temporary, _manifest(file))
    finally:
        temporary.unlink(missing_ok=True)
    return file


def _publish(temporary: Path, file: Path) -> None:
    """Give a file its name once its bytes are on the disk."""
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(temporary, file)


def _manifest(file: Path) -> Path:
    return file.with_suffix(".json")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def finished(folder: Path) -> tuple[dict[Path, Shard], list[str]]:
    """Return the shards that have a manifest, in order, and what is wrong with the others that have one."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of shards.")
    shards, wrong = {}, []
    for manifest in sorted(folder.glob("*.json")):
        file = manifest.with_suffix(SUFFIX)
        try:
            shard = Shard(**json.loads(manifest.read_text(encoding="utf-8")))
            if [type(value).__name__ for value in asdict(shard).values()] != [f.type for f in fields(Shard)]:
                raise TypeError("a value is of another type")
        except (ValueError, TypeError) as error:
            wrong.append(
                f"{manifest}: not the manifest of a shard ({error}). Delete it, or use another folder."
            )
            continue
        if not file.is_file():
            wrong.append(f"{file}: gone, and its manifest is there. Delete {manifest.name}.")
        elif file.stat().st_size != shard.bytes:
            wrong.append(
                f"{file}: torn: {file.stat().st_size:,} bytes, and its manifest says {shard.bytes:,}. {AGAIN}"
            )
        else:
            shards[file] = shard
    return shards, wrong


def of_encoder(folder: Path, encoder: Encoder) -> dict[Path, Shard]:
    """Return the finished shards of a folder; refuse it where one is torn or another encoder's."""
    shards, wrong = finished(folder)
    for file, shard in shards.items():
        if shard.encoder != encoder.encoder_id:
            wrong.append(
                f"{file}: a shard of the encoder {shard.encoder_name} ({shard.encoder}), and this one is "
                f"{encoder.name} ({encoder.encoder_id}). Use another folder."
            )
    _refuse(wrong)
    return shards


def identities(files: Sequence[Path]) -> pyarrow.Table:
    """Return which examples, with which texts, are in the files: example_id, content_hash."""
    import pyarrow.parquet

    schema = pyarrow.schema([("example_id", pyarrow.int64()), ("content_hash", pyarrow.string())])
    tables = [pyarrow.parquet.read_table(file, columns=IDENTITY).cast(schema) for file in files]
    return pyarrow.concat_tables([schema.empty_table(), *tables])


def faults(store: Store, folder: Path) -> Iterator[str]:
    """Yield what is wrong with the shards of a folder, and what they and the store lack."""
    shards, wrong = finished(folder)
    yield from wrong
    yield from _unfit(store, shards)
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        if not _manifest(file).exists():
            yield f"{file}: has no manifest, so it is unfinished. {AGAIN}"
    for encoder in {shard.encoder: shard for shard in shards.values()}.values():
        files = [file for file, shard in shards.items() if shard.encoder == encoder.encoder]
        with store.registered(sharded=identities(files)):
            lacking = store.named("shards", "lacking", {"encoder": encoder.encoder}).fetchall()
        for n, example in lacking:
            if n:
                yield (
                    f"{folder}: {n:,} examples have no encoding of {encoder.encoder_name} here or in the store, "
                    f"for one {example}. Run the same attrstore ingest with --shards again."
                )


def attach(store: Store, folder: Path, progress: Progress) -> Attached:
    """Bring the encodings of a folder of shards into the store: those that it does not have.

    Every file's hash and encoder is checked before the first row is written; a file is one transaction, so what was
    stopped goes on.

    Raises:
        InputError: the folder has no finished shard.
        MismatchError: a shard is torn, altered or of an encoder that the store does not have; each is named.
    """
    store.require_writable()
    shards, wrong = finished(folder)
    _refuse([*wrong, *_unfit(store, shards)])
    if not shards:
        raise InputError(
            f"{folder}: no finished shard. Make them: attrstore ingest gradients --shards {folder}"
        )
    done = Attached(sorted({shard.encoder_name for shard in shards.values()}), len(shards))
    total = sum(shard.rows for shard in shards.values())
    store.execute("SET checkpoint_threshold = $size", {"size": CHECKPOINT_AT})
    with recorded(store, "attach", folder=str(folder), shards=len(shards)) as run:
        for file, shard in shards.items():
            where = {"file": str(file), "encoder": shard.encoder, "first": shard.first, "last": shard.last}
            with store.transaction():
                ((fitting,),) = store.named("shards", "fitting", {"file": str(file)}).fetchall()
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


def _unfit(store: Store, shards: dict[Path, Shard]) -> Iterator[str]:
    known = {encoder.encoder_id for encoder in encoders.load_all(store)}
    for file, shard in shards.items():
        if shard.encoder not in known:
            yield (
                f"{file}: a shard of the encoder {shard.encoder_name} ({shard.encoder}), which {store.path} does "
                "not have. Attach it to the store that it was made from."
            )
        elif (found := _sha256(file)) != shard.sha256:
            yield (
                f"{file}: altered: its sha256 is {found[:16]}..., and its manifest says {shard.sha256[:16]}.... {AGAIN}"
            )


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise MismatchError("\n".join(wrong))
