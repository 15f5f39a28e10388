"""Encode with several workers, of this machine or of a Ray cluster, and attach what they wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrstore import shards
from attrstore.errors import InputError, flag
from attrstore.folders import folder_at
from attrstore.ingest.encode import on_ray, processes
from attrstore.ingest.encode.sharded import Tell, Waiting
from attrstore.ingest.encode.team import Team
from attrstore.progress import Progress, silent

if TYPE_CHECKING:
    from attrstore.shards import Attached

# name: what has a team's ranges encoded, to the last
ENGINES: dict[str, Callable[[Team, Progress], None]] = {"processes": processes.run, "ray": on_ray.run}


def encode_with_workers(
    path: str | Path,
    kind: str,
    n: int | None = None,
    *,
    engine: str = "processes",
    folder: str | Path | None = None,
    devices: Sequence[str] = (),
    progress: Progress = silent,
    tell: Tell = lambda line: None,
    **options: Any,
) -> Attached:
    """Encode all that has no encoding with `n` workers, and attach it.

    Args:
        path: the store; nobody may have it open in this process.
        kind: of encoder: gradient, representation, embedding.
        n: how many; if not given, one a device, and with Ray one for each GPU or CPU of the cluster.
        engine: processes, of this machine, or ray: of the cluster at RAY_ADDRESS, else of this machine. All of them
            must see the store and the folder at the same place.
        folder: or URL, of the shards, which then stay; if not given, `STORE.shards`, which is removed at the end.
        devices: what each process's model runs on, in turn; the recipe's, if not given.
        progress: called with the examples encoded and those to encode.
        tell: called with a line when it has to wait.
        options: as for `write_shards`.

    Raises:
        InputError: a worker could not begin, or the model or an option is unusable.
        AttrstoreError: a worker stopped or failed; the message names it, and the same call goes on.
    """
    if engine not in ENGINES:
        raise InputError(
            f"{flag('engine')} {engine}: there is no such choice; there are {', '.join(ENGINES)}"
        )
    into = str(folder or f"{path}.shards")
    ENGINES[engine](Team(n, Path(path), kind, into, list(devices), options), progress)
    with Waiting(Path(path), tell).open(writable=True) as store:
        attached = shards.attach(store, folder_at(into), silent)
    if folder is None:
        shutil.rmtree(into)
    return attached
