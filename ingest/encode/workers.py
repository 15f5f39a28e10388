"""Encode with several processes of one machine: each writes shards, and what they wrote is attached at the end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attrstore import shards
from attrstore.errors import IN_SHELL, AttrstoreError, InputError, Interrupted, flag
from attrstore.ingest.encode.sharded import Tell, Waiting, write_shards
from attrstore.ingest.encode.worker import Worker
from attrstore.ingest.stopping import ctrl_c
from attrstore.progress import Progress, silent

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from attrstore.shards import Attached

START = "spawn"  # a process that was forked cannot use a GPU
PAUSE = 0.1  # seconds between two looks at the workers


def encode_with_workers(
    path: str | Path,
    kind: str,
    n: int | None = None,
    *,
    folder: str | Path | None = None,
    devices: Sequence[str] = (),
    progress: Progress = silent,
    tell: Tell = lambda line: None,
    **options: Any,
) -> Attached:
    """Encode all that has no encoding with `n` processes, and attach it.

    Args:
        path: the store; nobody may have it open in this process.
        kind: of encoder: gradient, representation, embedding.
        n: how many; one a device, if not given.
        folder: of the shards, which then stay; if not given, `STORE.shards`, which is removed when it is attached.
        devices: what each worker's model runs on, in turn; the recipe's, if not given.
        progress: called with the examples encoded and those to encode.
        tell: called with a line when it has to wait.
        options: as for `write_shards`.

    Raises:
        InputError: a worker could not begin, or the model or an option is unusable.
        AttrstoreError: a worker stopped or failed; the message names it, and the same call goes on.
    """
    n = len(devices) if n is None else n
    if n < 1:
        raise InputError(f"{flag('workers')} {n}: must be at least 1")
    into = Path(folder) if folder else Path(f"{path}.shards")
    team = _Team(n, Path(path), kind, into, list(devices), options, IN_SHELL.get())
    team.run(progress)
    with Waiting(Path(path), tell).open(writable=True) as store:
        attached = shards.attach(store, into, silent)
    if folder is None:
        shutil.rmtree(into)
    return attached


@dataclass
class _Team:
    """The processes, and what they share: how far each is, whether to stop, what went wrong."""

    n: int
    path: Path
    kind: str
    folder: Path
    devices: list[str]
    options: dict[str, Any]
    in_shell: bool

    def run(self, progress: Progress) -> None:
        """Run all workers to their end."""
        context: Any = multiprocessing.get_context(START)
        counts = context.Array("q", 2 * self.n)  # of each worker: done, total
        stop, wrong = context.Event(), context.SimpleQueue()
        team = [
            context.Process(target=_work, args=(self, rank, counts, stop, wrong), daemon=True)
            for rank in range(self.n)
        ]
        with ctrl_c() as stopped:
            for process in team:
                process.start()
            while any(process.is_alive() for process in team):
                if stopped[0]:
                    stop.set()
                progress(sum(counts[0::2]), sum(counts[1::2]))
                time.sleep(PAUSE)
        if stopped[0]:
            raise Interrupted(
                f"stopped; every finished file is in {self.folder}. Run the same command again to go on."
            )
        self._refuse(team, wrong)

    def _refuse(self, team: Sequence[BaseProcess], wrong: Any) -> None:
        said = []
        while not wrong.empty():
            said.append(wrong.get())
        for rank, process in enumerate(team):
            if process.exitcode and not any(of == rank for of, _ in said):
                said.append((rank, f"ended with exit code {process.exitcode}"))
        if said:
            lines = "\n".join(f"worker {rank} of {self.n}: {message}" for rank, message in sorted(said))
            raise AttrstoreError(
                f"{lines}\nEvery finished file is in {self.folder}. Run the same command again to go on."
            )


def _work(team: _Team, rank: int, counts: Any, stop: Any, wrong: Any) -> None:
    """Be one worker; Ctrl-C is for the process that started it, and without that it ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(max(1, torch.get_num_threads() // team.n))
    IN_SHELL.set(team.in_shell)
    parent = os.getppid()

    def progress(done: int, total: int) -> None:
        counts[2 * rank], counts[2 * rank + 1] = done, total
        if stop.is_set() or os.getppid() != parent:
            raise Interrupted("stopped")

    device = {"device": team.devices[rank % len(team.devices)]} if team.devices else {}
    try:
        write_shards(
            team.path,
            team.kind,
            team.folder,
            Worker(rank, team.n),
            progress=progress,
            **(team.options | device),
        )
    except AttrstoreError as error:
        wrong.put((rank, str(error)))
        raise SystemExit(1) from error
