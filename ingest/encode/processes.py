"""Encode with several processes of one machine, each its own share of the ranges."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from attrstore.errors import IN_SHELL, AttrstoreError, InputError, Interrupted, flag
from attrstore.ingest.encode.sharded import write_shards
from attrstore.ingest.encode.worker import Worker
from attrstore.ingest.stopping import ctrl_c

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from attrstore.ingest.encode.team import Team
    from attrstore.progress import Progress

START = "spawn"  # a process that was forked cannot use a GPU
PAUSE = 0.1  # seconds between two looks at the workers


def run(team: Team, progress: Progress) -> None:
    """Run as many processes as the team says, or one a device, to their end."""
    n = len(team.devices) if team.n is None else team.n
    if team.n is None and not team.devices:
        raise InputError(f"{flag('engine')} processes: say how many, with {flag('workers')} N.")
    if n < 1:
        raise InputError(f"{flag('workers')} {n}: must be at least 1")
    context: Any = multiprocessing.get_context(START)
    counts = context.Array("q", 2 * n)  # of each worker: done, total
    stop, wrong = context.Event(), context.SimpleQueue()
    shared = _Shared(IN_SHELL.get(), counts, stop, wrong)
    started = [
        context.Process(target=_work, args=(team, Worker(rank, n), shared), daemon=True) for rank in range(n)
    ]
    with ctrl_c() as stopped:
        for process in started:
            process.start()
        while any(process.is_alive() for process in started):
            if stopped[0]:
                stop.set()
            progress(sum(counts[0::2]), sum(counts[1::2]))
            time.sleep(PAUSE)
    if stopped[0]:
        raise Interrupted(team.stopped)
    _refuse(team, started, wrong)


def _refuse(team: Team, started: Sequence[BaseProcess], wrong: Any) -> None:
    said = []
    while not wrong.empty():
        said.append(wrong.get())
    for rank, process in enumerate(started):
        if process.exitcode and not any(of == rank for of, _ in said):
            said.append((rank, f"ended with exit code {process.exitcode}"))
    if said:
        lines = "\n".join(f"worker {rank} of {len(started)}: {message}" for rank, message in sorted(said))
        raise AttrstoreError(f"{lines}\n{team.kept[0].upper()}{team.kept[1:]}")


@dataclass(frozen=True)
class _Shared:
    """What the processes share: how far each is, whether to stop, what went wrong."""

    in_shell: bool
    counts: Any
    stop: Any
    wrong: Any


def _work(team: Team, worker: Worker, shared: _Shared) -> None:
    """Be one worker; Ctrl-C is for the process that started it, and without that it ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(max(1, torch.get_num_threads() // worker.size))
    IN_SHELL.set(shared.in_shell)
    parent = os.getppid()

    def progress(done: int, total: int) -> None:
        shared.counts[2 * worker.rank : 2 * worker.rank + 2] = done, total
        if shared.stop.is_set() or os.getppid() != parent:
            raise Interrupted("stopped")

    device = {"device": team.devices[worker.rank % len(team.devices)]} if team.devices else {}
    options = team.options | device
    try:
        write_shards(team.path, team.kind, team.folder, worker, progress=progress, **options)
    except AttrstoreError as error:
        shared.wrong.put((worker.rank, str(error)))
        raise SystemExit(1) from error
