"""Matrices of scores as other tools keep them: bergson's score stores, kronfluence's and TRAK's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attrstore.errors import InputError

Blocks = Callable[[int], Iterator[np.ndarray]]
LAYOUT = ("names", "formats", "offsets", "itemsize")  # of a record, as numpy takes it
ALL_MODULES = "all_modules"  # kronfluence's name of the scores summed over the modules


def bergson(folder: Path) -> tuple[tuple[int, int], Blocks, list[str] | None]:
    """Open a folder that `bergson score` wrote.

    `scores.bin` has a record for each example: for each query a score and whether it was written. One that was not
    is NaN here.

    Returns (queries, examples), the blocks of queries, and the examples' ids, where their data set has a column `id`.

    Raises `InputError` where the folder is none, or its files do not fit each other.
    """
    try:
        about = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        layout: Any = {key: value for key, value in about["dtype"].items() if key in LAYOUT}
        record: np.dtype[Any] = np.dtype(layout)
        n_queries, n_examples = int(about["num_scores"]), int(about["num_rows"])
        records = np.memmap(folder / "scores.bin", dtype=record, mode="r")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: not a score store of bergson (info.json and scores.bin). {error}"
        ) from error
    if len(records) != n_examples:
        raise InputError(
            f"{folder}: scores.bin holds {len(records):,} examples, and info.json says {n_examples:,}."
        )

    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, n_queries, size):
            columns = range(start, min(start + size, n_queries))
            yield np.stack([
                np.where(records[f"written_{i}"], records[f"score_{i}"], np.nan).astype(np.float64)
                for i in columns
            ])  # fmt: skip

    ids = column(folder, "id")
    return (n_queries, n_examples), blocks, None if ids is None else list(map(str, ids))


def column(folder: Path, name: str) -> list[Any] | None:
    """Read a column of the data set beside a store, as `datasets.save_to_disk` writes it; None where there is none."""
    import pyarrow as pa

    values: list[Any] = []
    for file in sorted((folder / "data.hf").glob("*.arrow")):
        with pa.memory_map(str(file)) as stream:
            table = pa.ipc.open_stream(stream).read_all()
        if name not in table.schema.names:
            return None
        values += table.column(name).to_pylist()
    return values or None


def safetensors(path: Path) -> tuple[tuple[int, int], Blocks]:
    """Open scores that kronfluence saved: a matrix [queries, examples], or one for each module, which are summed.

    Raises `InputError` where the file is none, or holds something else.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise InputError(
            f'{path}: reading it needs safetensors. Install it: pip install "attrstore[model]"'
        ) from error
    try:
        with safe_open(path, framework="np") as opened:
            names = list(opened.keys())
            names = [ALL_MODULES] if ALL_MODULES in names else names
            shapes = {tuple(opened.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors. {error}") from error
    shape: tuple[int, ...] = next(iter(shapes)) if len(shapes) == 1 else ()
    if len(shape) != 2:
        raise InputError(
            f"{path}: holds {', '.join(map(str, sorted(shapes))) or 'nothing'}; scores are one matrix, queries by "
            "examples, or one of that shape for each module."
        )

    def blocks(size: int) -> Iterator[np.ndarray]:
        with safe_open(path, framework="np") as opened:
            for start in range(0, shape[0], size):
                parts = [opened.get_slice(name)[start : min(start + size, shape[0])] for name in names]
                yield np.stack(parts).sum(axis=0, dtype=np.float64)

    return (shape[0], shape[1]), blocks
