"""Import an index of gradients that bergson built, as an encoder: its vectors are scanned as our own are."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attrstore.errors import InputError, flag
from attrstore.ingest.files import foreign
from attrstore.ingest.files.scores import in_order
from attrstore.progress import Progress, silent
from attrstore.runs import recorded, writes
from attrstore.vectors import encoders
from attrstore.vectors.encoders import Block, Encoder
from attrstore.vectors.quantisations import CODES

if TYPE_CHECKING:
    from torch import Tensor

    from attrstore.store import Store

DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # bergson's name: how numpy maps it
ROWS = 1024  # read at a time
_SETTING = r"^\s*{}: *'?([^'\n]*?)'? *$"


@dataclass(frozen=True)
class Index:
    """A folder that `bergson build` wrote: one gradient a row."""

    folder: Path
    sizes: dict[str, int]  # module: numbers of its gradient, in the order of a row
    dtype: str
    rows: np.ndarray[Any, Any]  # [items, numbers], mapped from the file

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Map the file; raises `InputError` where the folder is no such index, or one of tokens."""
        try:
            about = json.loads((folder / "info.json").read_text(encoding="utf-8"))
            sizes = {str(name): int(size) for name, size in about["grad_sizes"].items()}
            n, n_gradients, dtype = int(about["num_items"]), int(about["num_grads"]), str(about["base_dtype"])
            flat: Any = np.memmap(folder / "gradients.bin", dtype=DTYPES.get(dtype, "u1"), mode="r")
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{folder}: not an index of bergson (info.json and gradients.bin). {error}"
            ) from error
        if about.get("attribute_tokens") or n_gradients != n:
            raise InputError(
                f"{folder}: holds {n_gradients:,} gradients of tokens of {n:,} items; one of each item is read. Build "
                "it without attribute_tokens."
            )
        if dtype not in DTYPES:
            raise InputError(f"{folder}: its numbers are {dtype}; {', '.join(DTYPES)} are read.")
        wanted = n * sum(sizes.values())
        if len(flat) != wanted:
            raise InputError(
                f"{folder}: gradients.bin holds {len(flat):,} numbers, and info.json says {wanted:,}."
            )
        return cls(folder, sizes, dtype, flat.reshape(n, -1))

    def setting(self, name: str, default: str = "") -> str:
        """Return a setting of config.yaml or processor_config.yaml, as it is written there."""
        for file in ("config.yaml", "processor_config.yaml"):
            if (self.folder / file).is_file():
                text = (self.folder / file).read_text(encoding="utf-8")
                if found := re.search(_SETTING.format(name), text, flags=re.MULTILINE):
                    return found[1]
        return default

    def vectors(self) -> Iterator[Tensor]:
        """Yield the rows in order: float32 [at most ROWS, numbers]; raises `InputError` where one is not finite."""
        import torch

        for start in range(0, len(self.rows), ROWS):
            part = torch.from_numpy(np.array(self.rows[start : start + ROWS]))
            part = part.view(torch.bfloat16).float() if self.dtype == "bfloat16" else part.float()
            if not bool(part.isfinite().all()):
                row = start + int((~part.isfinite().all(dim=1)).nonzero()[0])
                raise InputError(
                    f"{self.folder}: row {row + 1} of gradients.bin has a number that is not finite."
                )
            yield part

    def column(self, name: str) -> list[Any]:
        """Return a column of the data set beside it, or None for each row."""
        return foreign.column(self.folder, name) or [None] * len(self.rows)

    @property
    def digest(self) -> str:
        """Of the numbers: 16 hexadecimal digits."""
        with (self.folder / "gradients.bin").open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@dataclass(frozen=True)
class Imported:
    """What came in."""

    encoder: str
    examples: int
    queries: int


@writes
def import_gradients(
    store: Store,
    index: str | Path,
    *,
    queries: str | Path,
    name: str,
    code: str = "fp16",
    progress: Progress = silent,
) -> Imported:
    """Make an encoder of two indexes that bergson built: one of the store's examples, one of its queries.

    Rows are in the order of the ingest, or named by the column `id` of the data set beside an index. Every method that
    scans encodings takes them; new texts cannot be encoded, since bergson's projections are not the store's.

    Args:
        index: folder that `bergson build` wrote over the corpus.
        queries: folder that it wrote over the queries.
        name: of the encoder.
        code: quantisation of the examples.
        progress: called with the examples read and those to read.

    Raises:
        InputError: a folder is no index, does not fit the store or the other one, or the store has an encoder of that
            name, or this index already; the store is as it was.
    """
    if code not in CODES:
        raise InputError(f"{flag('code')} {code}: there are {', '.join(CODES)}")
    corpus, asked = Index.open(Path(index)), Index.open(Path(queries))
    if asked.sizes != corpus.sizes:
        different = sorted(set(asked.sizes.items()) ^ set(corpus.sizes.items()))
        raise InputError(
            f"{asked.folder}: has other modules than {corpus.folder}, {different[0][0]} for one. Build both with the "
            "same settings."
        )
    example_ids = _ids(store, corpus, "example")
    query_ids = _ids(store, asked, "query")
    encoder = _encoder(corpus, asked, name, code)
    for known in encoders.load_all(store):
        if known.name == name or known.encoder_id == encoder.encoder_id:
            raise InputError(
                f"{store.path}: has the encoder {known.name} already. Give another {flag('name')}, or remove it first: "
                f"attrstore delete {store.path} encoder {known.name}"
            )
    with (
        recorded(store, "import gradients", encoder=encoder.encoder_id, index=str(index)) as run,
        store.transaction(),
    ):
        _model(store, encoder, corpus)
        encoders.save(store, encoder)
        _write(store, encoder, (asked, query_ids), "query", lambda done: None)
        n = len(example_ids)
        _write(store, encoder, (corpus, example_ids), "example", lambda done: progress(done, n))
        run.rows = n + len(query_ids)
    return Imported(name, len(example_ids), len(query_ids))


def _ids(store: Store, index: Index, what: str) -> list[int]:
    """Return the store's ids of the rows."""
    plural = {"example": "examples", "query": "queries"}[what]
    ids = dict(store.named("import", f"{plural}_in_order").fetchall())
    if len(ids) != len(index.rows):
        raise InputError(
            f"{index.folder}: holds {len(index.rows):,} gradients, and the store has {len(ids):,} {plural}. Build it "
            f"over the same {plural}."
        )
    names = index.column("id")
    return in_order(index.folder, "row", None if None in names else list(map(str, names)), ids)


def _encoder(corpus: Index, asked: Index, name: str, code: str) -> Encoder:
    width = int(corpus.setting("projection_dim", "0") or 0)
    blocks, offset = [], 0
    for module, size in corpus.sizes.items():
        blocks.append(Block(module, offset, size, width if width and size == width * width else None))
        offset += size
    model = corpus.setting("model", "unknown")
    spec = {
        "imported": f"bergson {corpus.setting('bergson_version')}".strip(),
        "code": code,
        "index": corpus.digest,
        "queries": asked.digest,
        "model": model,
        "projection_dim": width,
        "correction": "imported" if corpus.setting("optimizer_state") else "none",
        "optimizer_state": corpus.setting("optimizer_state") or None,
        "kronecker": None,
    }
    fingerprint = hashlib.sha256(f"bergson/{model}".encode()).hexdigest()[:16]
    return Encoder("gradient", name, fingerprint, spec, tuple(blocks))


def _model(store: Store, encoder: Encoder, index: Index) -> None:
    """Record the model under the name that bergson was given; its weights are not known here."""
    store.execute(
        "INSERT INTO models VALUES ($id, 'unknown', $path, NULL, 'unknown', 0) ON CONFLICT DO NOTHING",
        {"id": encoder.model_fingerprint, "path": str(encoder.spec["model"])},
    )


def _write(
    store: Store, encoder: Encoder, of: tuple[Index, list[int]], what: str, progress: Callable[[int], None]
) -> None:
    """Write the rows of an index; runs inside the caller's transaction."""
    import pyarrow

    from attrstore.vectors import packing

    index, ids = of
    lengths, losses = index.column("length"), index.column("loss")
    statement = "insert_encodings" if what == "example" else "insert_query_encodings"
    done = 0
    for vectors in index.vectors():
        rows = slice(done, done + len(vectors))
        done += len(vectors)
        if what == "example":
            packed = dict(zip(("code", "scales"), packing.examples(encoder, vectors), strict=True))
        else:
            packed = {"vector": packing.queries(encoder, vectors)}
        table = pyarrow.table({
            f"{what}_id": pyarrow.array(ids[rows], pyarrow.int64()),
            **{name: [row.tobytes() for row in part.contiguous().numpy()] for name, part in packed.items()},
            "n_tokens": pyarrow.array(lengths[rows], pyarrow.int32()),
            "loss": pyarrow.array(losses[rows], pyarrow.float32()),
            "status": ["ok"] * len(vectors),
        })  # fmt: skip
        with store.registered(encoded=table):
            store.named("encodings", statement, {"encoder": encoder.encoder_id})
        progress(done)
