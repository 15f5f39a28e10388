"""Import what models trained on subsets of the corpus lose on the queries' targets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from attrstore.errors import InputError, flag
from attrstore.evaluation import subsets as chosen
from attrstore.ingest.files.options import LossFields, LossOptions
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
    options: LossOptions | None = None,
    *,
    subsets: str,
    progress: Progress = silent,
    **fields: Unpack[LossFields],
) -> Counts:
    """Add the losses of `files` to `subset_losses`; all of them or, on an error, none.

    Args:
        store: an open, writable store that has the subsets and queries.
        files: a name, glob or folder of jsonl, csv, tsv, parquet or Arrow files, or several; or rows: an
            iterable of dictionaries, or a table of polars, pandas or Arrow.
        options: of which retraining, and in which columns; the default ones, if not given. A loss is summed over the
            target's tokens, in nats: minus its log-probability.
        subsets: name of the set.
        progress: called with the bytes read and the bytes to read.
        fields: of the options, `LossOptions`, that are to be otherwise: `seed=1, loss="nll"`.

    Raises:
        InputError: what is wrong, by file and line; the store is as it was.
        MismatchError: the corpus has changed since the set was made.
    """
    asked = replace(options or LossOptions(), **fields)
    chosen.require(store, subsets)
    columns = [Column("subset", asked.subset), Column("query", asked.query), Column("loss", asked.loss)]
    key = {"set": subsets, "seed": asked.seed}
    with staged(store, files, columns, progress) as rows:
        store.named("losses", "check", {"set": subsets})
        rows.skipped(skip_bad=False)
        _refuse_duplicates(rows)
        store.named("losses", "decide", key)
        actions = rows.actions(what="the loss", replace=asked.replace)
        counts = Counts(**actions)
        if set(actions) <= {"unchanged"}:
            return counts
        inserted = {**key, "origins": [file.path.name for file in rows.files]}
        parameters = job_parameters(files, columns, replace=asked.replace)
        with written(store, "import losses", counts, **parameters, subsets=subsets, seed=asked.seed):
            store.named("losses", "forget_replaced", key)
            store.named("losses", "insert", inserted)
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
