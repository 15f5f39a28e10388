"""Import a matrix of scores that another tool computed: a row for each query, a column for each example."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from attrstore.errors import InputError, flag
from attrstore.ingest.files.matrices import Expected, Matrix, is_counting, open_matrix
from attrstore.ingest.files.options import MatrixFields, MatrixOptions
from attrstore.methods import Ranking
from attrstore.progress import Progress, silent
from attrstore.runs import recorded, writes
from attrstore.scoring import Scoring, write_scoring

if TYPE_CHECKING:
    import pyarrow

    from attrstore.store import Store

EVERY_PAIR = 2**20  # a matrix with so many cells, or fewer, is kept whole
CELLS_AT_A_TIME = 2**22


@writes
def import_scores(
    store: Store,
    matrix: str | Path,
    options: MatrixOptions | None = None,
    *,
    name: str,
    replace: bool = True,
    progress: Progress = silent,
    **fields: Unpack[MatrixFields],
) -> Scoring:
    """Rank the examples by the numbers in `matrix` and keep the result under `name`, as an influence scoring.

    Rows are queries and columns examples, in the order of their ingest; a header or an index column that
    holds the examples' or queries' own ids decides their order instead.

    Args:
        store: an open, writable store that holds the queries and the examples.
        matrix: a .csv, .tsv (also as .gz), .npy, .parquet or .safetensors file, or a folder that `bergson score`
            wrote. What bergson did not write is not ranked, and such a query has no opponents.
        options: how the matrix is read, and what of it is kept; the default ones, if not given. With
            `lower_is_stronger` the sign is turned, so that in the store higher is stronger. `top_k` is by default half
            the examples, so that every pair is kept, of a matrix of up to 2**20 cells; 100 of a larger one.
        name: of the scoring. A scoring of that name is replaced.
        replace: whether a scoring of that name may be replaced.
        progress: called with the queries ranked and the queries to rank.
        fields: of the options, `MatrixOptions`, that are to be otherwise: `lower_is_stronger=True, top_k=10`.

    Raises:
        InputError: no such file, another shape than queries × examples, or a cell that is not a number; the
            store is as it was.
    """
    asked = dataclasses.replace(options or MatrixOptions(), **fields)
    path = Path(matrix)
    if not replace and store.value("SELECT count(*) FROM scorings WHERE name = $name", {"name": name}):
        raise InputError(f"{store.path}: there is a scoring called {name}. Choose another {flag('name')}.")
    queries = dict(store.named("import", "queries_in_order").fetchall())
    examples = dict(store.named("import", "examples_in_order").fetchall())
    if not queries or not examples:
        missing = "corpus" if not examples else "queries"
        raise InputError(
            f"{store.path}: no {missing} yet. First: attrstore ingest {missing} {store.path} FILE"
        )
    expected = Expected(list(queries.values()), list(examples.values()))
    opened = open_matrix(path, expected, header=asked.header, index_column=asked.index_column)
    check_shape(path, opened, expected)
    query_ids = in_order(path, "row", opened.row_names, queries)
    example_ids = in_order(path, "column", opened.column_names, examples)
    top_k = asked.top_k
    if top_k is None:
        small = len(queries) * len(examples) <= EVERY_PAIR
        top_k = (len(examples) + 1) // 2 if small else 100
    spec = {
        "file": path.name,
        "shape": list(opened.shape),
        "sign": "lower is stronger" if asked.lower_is_stronger else "higher is stronger",
        "top_k": top_k,
        "where": None,
    }
    with recorded(
        store, "import scores", name=name, method=asked.method, **{**spec, "file": str(path)}
    ) as run:
        pairs = ranked(
            store, path, opened, query_ids, example_ids,
            top_k=top_k, sign=-1 if asked.lower_is_stronger else 1, progress=progress,
        )  # fmt: skip
        scoring = Scoring(name, uuid.uuid4().hex[:12], len(examples), len(pairs), spec)
        ranking = Ranking(pairs, len(examples), spec, query_ids=query_ids)
        write_scoring(store, scoring, ranking, family="influence", method=asked.method)
        run.rows = scoring.n_scores
    return scoring


def check_shape(path: Path, matrix: Matrix, expected: Expected) -> None:
    """Refuse a matrix that is not queries × examples, showing both."""
    wanted = (len(expected.rows), len(expected.columns))
    if matrix.shape == wanted:
        return
    hint = ""
    if matrix.shape == wanted[::-1]:
        hint = " It looks transposed: rows must be queries."
    elif matrix.shape[1] == wanted[1] + 1:
        hint = f" If the first column numbers the rows: {flag('index_column')}."
    elif matrix.shape[0] == wanted[0] + 1:
        hint = f" If the first row names the columns of a csv: {flag('header')}."
    raise InputError(
        f"{path}: {matrix.shape[0]:,} rows of {matrix.shape[1]:,} numbers, and the store has {wanted[0]:,} "
        f"queries (rows) and {wanted[1]:,} examples (columns).{hint}"
    )


def in_order(path: Path, what: str, names: Sequence[str] | None, ids: dict[int, str]) -> list[int]:
    """Return the store's ids in the order of the matrix: by name if the names are the store's own."""
    if names is None:
        return list(ids)
    by_name = {external: own for own, external in ids.items()}
    if set(names) == by_name.keys():
        return [by_name[name] for name in names]
    unknown = [name for name in names if name not in by_name]
    # Words of the file's own, or numbers, leave the order of the ingest. Some of the store's ids do not.
    if len(unknown) == len(names) or is_counting(names):
        return list(ids)
    odd = unknown[0] if unknown else next(name for name in names if list(names).count(name) > 1)
    trouble = "is not in the store" if unknown else "comes twice"
    raise InputError(f"{path}: the {what}s are named by the store's ids, but {odd!r} {trouble}.")


def ranked(
    store: Store,
    path: Path,
    matrix: Matrix,
    query_ids: Sequence[int],
    example_ids: Sequence[int],
    *,
    top_k: int,
    sign: int,
    progress: Progress,
) -> pyarrow.Table:
    """Rank the matrix in blocks of rows, as `attrstore.methods.base.Ranking` wants its pairs."""
    import pyarrow as pa

    # Columns in order of example_id, so that a stable sort breaks ties by it.
    by_id = np.argsort(example_ids)
    ids = np.asarray(example_ids, dtype=np.int64)[by_id]
    column_of = {own: column for column, own in enumerate(ids.tolist())}
    labelled: dict[int, list[int]] = {}
    for query, example in store.named("scoring", "labelled_pairs").fetchall():
        labelled.setdefault(query, []).append(column_of[example])
    tables, done = [], 0
    progress(0, len(query_ids))
    for block in matrix.blocks(max(1, CELLS_AT_A_TIME // len(ids))):
        _check_numbers(path, matrix, done, block)
        own = np.asarray(query_ids[done : done + len(block)], dtype=np.int64)
        keep = np.zeros(block.shape, dtype=bool)
        for row, query in enumerate(own.tolist()):
            keep[row, labelled.get(query, [])] = True
        rows, columns, ranks, scores = top_and_bottom(sign * block[:, by_id] + 0.0, keep, top_k)
        if matrix.lacks_some:
            there, ranks = _written(block, rows, ranks, scores, keep[rows, columns], top_k)
            rows, columns, ranks, scores = rows[there], columns[there], ranks[there], scores[there]
        tables.append(
            pa.table({"query_id": own[rows], "example_id": ids[columns], "rank": ranks, "score": scores})
        )
        done += len(block)
        progress(done, len(query_ids))
    return pa.concat_tables(tables)


def top_and_bottom(
    scores: np.ndarray, keep: np.ndarray, top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rank whole rows: the `top_k` at both ends, and the cells of `keep` between them.

    Args:
        scores: [rows, columns], higher is stronger; equal ones rank in the order of the columns.
        keep: bool [rows, columns].
        top_k: kept at each end; a column at both ends is a proponent.

    Returns (row, column, rank, score) of the kept cells, parallel.
    """
    n = scores.shape[1]
    order = np.argsort(-scores, axis=1, kind="stable")
    place = np.arange(1, n + 1)
    ends = (place <= top_k) | (place > n - top_k)
    rows, positions = np.nonzero(ends | np.take_along_axis(keep, order, axis=1))
    columns = order[rows, positions]
    ranks = np.where(place <= max(top_k, n - top_k), place, place - n - 1).astype(np.int32)
    return rows, columns, ranks[positions], scores[rows, columns]


def _written(
    block: np.ndarray, rows: np.ndarray, ranks: np.ndarray, scores: np.ndarray, wanted: np.ndarray, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which ranked cells were written, and their ranks: a query that lacks some ranks from the strong end alone."""
    lacking = np.isnan(block).any(axis=1)[rows]
    place = np.where(ranks > 0, ranks, ranks + block.shape[1] + 1)  # NaN sorts last
    there = ~np.isnan(scores) & (~lacking | (place <= top_k) | wanted)
    return there, np.where(lacking, place, ranks).astype(np.int32)


def _check_numbers(path: Path, matrix: Matrix, first_row: int, block: np.ndarray) -> None:
    wrong = np.isinf(block) if matrix.lacks_some else ~np.isfinite(block)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        value = block[row, column]
        there = "no number (NaN) there" if np.isnan(value) else f"{value:+} there, which is no score"
        raise InputError(f"{path}, {matrix.place(first_row + row, column)}: {there}.")
