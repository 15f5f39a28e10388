"""Import what models trained on subsets of the corpus lose on the queries' targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrstore.errors import InputError, flag
from attrstore.evaluation import subsets as chosen
from attrstore.ingest.files.staging import (
    SHOWN,
    Column,
    Counts,
    Staged,
    job_parameters,
    listed,
    staged,
    written,
)
from attrstore.progress import Progress, silent
from attrstore.runs import writes

if TYPE_CHECKING:
    from attrstore.ingest.files.given import Given
    from attrstore.store import Store


@writes
def import_losses(
    store: Store,
    files: Given,
    *,
    subsets: str,
    seed: int = 0,
    subset: str = "subset",
    query: str = "query_id",
    loss: str = "loss",
    replace: bool = False,
    progress: Progress = silent,
) -> Counts:
    """Add the losses of `files` to `subset_losses`; all of them or, on an error, none.

    Args:
        store: an open, writable store that has the subsets and queries.
        files: a name, glob or folder of jsonl, csv, tsv, parquet or Arrow files, or several; or rows: an
            iterable of dictionaries, or a table of polars, pandas or Arrow.
        subsets: name of the set.
        seed: of the retraining; the losses of several seeds are averaged.
        subset: the column with the subset's number.
        query: the column with the query's own id.
        loss: the column with the loss, summed over the target's tokens, in nats: minus its log-probability.
        replace: let another loss for a known subset, query and seed replace the old one.
        progress: called with the bytes read and the bytes to read.

    Raises:
        InputError: what is wrong, by file and line; the store is as it was.
        MismatchError: the corpus has changed since the set was made.
    """
    chosen.require(store, subsets)
    columns = [Column("subset", subset), Column("query", query), Column("loss", loss)]
    key = {"set": subsets, "seed": seed}
    with staged(store, files, columns, progress) as rows:
        store.named("losses", "check", {"set": subsets})
        rows.skipped(skip_bad=False)
        _refuse_duplicates(rows)
        store.named("losses", "decide", key)
        actions = rows.actions(what="the loss", replace=replace)
        counts = Counts(**actions)
        if set(actions) <= {"unchanged"}:
            return counts
        asked = {**key, "origins": [file.path.name for file in rows.files]}
        parameters = job_parameters(files, columns, replace=replace)
        with written(store, "import losses", counts, **parameters, subsets=subsets, seed=seed):
            store.named("losses", "forget_replaced", key)
            store.named("losses", "insert", asked)
    return counts


def _refuse_duplicates(rows: Staged) -> None:
    found = rows.store.named("losses", "duplicates", {"limit": SHOWN}).fetchall()
    if found:
        raise InputError(
            listed(
                [
                    f"subset {subset}, query {query!r} twice: {' and '.join(rows.place(**place) for place in places)}"
                    for subset, query, places, _ in found
                ],
                found[0][-1],
                f"Nothing was imported. A retraining has one loss for a query; import each with its "
                f"own {flag('seed')}.",
            )
        )
