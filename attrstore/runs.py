"""Provenance: every job that writes a store leaves one row in `runs`."""

from __future__ import annotations

import json
import os
import platform
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import attrstore
from attrstore.errors import AttrstoreError, Interrupted, extras_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from attrstore.store import Store

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Run:
    """One execution of one job; the job counts the rows it committed."""

    run_id: int
    rows: int = 0
    message: str | None = None


def writes(job: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    """Make a job refuse a store that is open for reading only before it begins: no model is loaded in vain."""

    @wraps(job)
    def checked(store: Store, /, *args: P.args, **kwargs: P.kwargs) -> R:
        store.require_writable()
        with extras_named():
            return job(store, *args, **kwargs)

    return checked


@contextmanager
def recorded(store: Store, job: str, **parameters: object) -> Iterator[Run]:
    """Record the block as a run: what, parameters, version, machine, times, rows, state.

    A run that was killed stays `running`; the next run of any job marks it `killed`.
    """
    run = Run(int(store.value("SELECT coalesce(max(run_id), 0) + 1 FROM runs")))
    store.execute("UPDATE runs SET state = 'killed', finished = now() WHERE state = 'running'")
    store.execute(
        "INSERT INTO runs (run_id, job, parameters, version, machine, started, state) "
        "VALUES ($id, $job, $parameters, $version, $machine, now(), 'running')",
        {
            "id": run.run_id,
            "job": job,
            "parameters": json.dumps(parameters, default=str),
            "version": attrstore.__version__,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        },
    )
    try:
        yield run
    except KeyboardInterrupt:
        with suppress(
            AttrstoreError
        ):  # it may have left a result half read; then the next run marks this one
            _finish(store, run, "interrupted")
        raise
    except Exception as error:
        run.message = str(error)
        with suppress(AttrstoreError):  # where the disk is full, the job's own error is the one to show
            _finish(store, run, "interrupted" if isinstance(error, Interrupted) else "failed")
        raise
    _finish(store, run, "finished")


def _finish(store: Store, run: Run, state: str) -> None:
    store.execute(
        "UPDATE runs SET finished = now(), rows = $rows, state = $state, message = $message "
        "WHERE run_id = $id",
        {"rows": run.rows, "state": state, "message": run.message, "id": run.run_id},
    )
