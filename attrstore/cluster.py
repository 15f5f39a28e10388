"""Ray: processes that each make something once, keep it, and do one part of a piece of work after another.

The cluster is the one at RAY_ADDRESS, or the one that this process has joined; else one is started on this machine
for as long as it is needed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from attrstore.errors import IN_SHELL, AttrstoreError, InputError, extras_named, flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RETRIES = 3  # times that a process is started again when it died, and its part done again
OBJECTS = 100_000_000  # bytes that a cluster of this machine holds between its processes, at least


class Keepable(Protocol):
    """What a process keeps."""

    def close(self) -> None:
        """Let go of what is open."""


class Kept:
    """In a process of the cluster: what it keeps, made when first asked, so again where it was started again."""

    def __init__(self, in_shell: bool) -> None:
        self.in_shell = in_shell
        self.kept: Keepable | None = None

    def ready(self) -> None:
        """Answer, as soon as there is room for the process."""

    def ask(self, make: list[Any], verb: str, *arguments: object) -> object:
        """Call a method of what is kept; what makes it lies in the cluster, and is fetched where it is needed."""
        import ray

        IN_SHELL.set(self.in_shell)
        if self.kept is None:
            self.kept = ray.get(make[0])()
        return getattr(self.kept, verb)(*arguments)

    def close(self) -> None:
        """Let go of what is kept."""
        if self.kept is not None:
            self.kept.close()
            self.kept = None


class Crew:
    """The processes; one for which the cluster has no room yet is given nothing to do."""

    def __init__(self, actors: Sequence[Any], make: list[Any]) -> None:
        self.actors, self.make = actors, make

    def first(self, verb: str, *arguments: object) -> Any:
        """Ask the first that there is room for."""
        import ray

        waiting = {actor.ready.remote(): actor for actor in self.actors}
        (found, *_), _ = ray.wait(list(waiting))
        return _got(waiting[found].ask.remote(self.make, verb, *arguments))

    def each(self, verb: str, parts: Sequence[tuple[object, ...]]) -> Iterator[Any]:
        """Ask for every part, each of whoever is free, and yield the answers as they come."""
        import ray

        left = iter(parts)
        idle = {actor.ready.remote(): actor for actor in self.actors}
        busy: dict[Any, Any] = {}
        answered = 0
        while answered < len(parts):
            (done, *_), _ = ray.wait([*busy, *idle])
            actor = busy.pop(done, None)
            answer = _got(done)
            if actor is None:
                actor = idle.pop(done)
            else:
                answered += 1
                yield answer
            part = next(left, None)
            if part is not None:
                busy[actor.ask.remote(self.make, verb, *part)] = actor

    def close(self) -> None:
        """Have them let go of what they hold, but those that never began."""
        import ray

        waiting = {actor.ready.remote(): actor for actor in self.actors}
        begun, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=1)
        for closed in [waiting[ready].close.remote() for ready in begun]:
            _got(closed)


def _got(reference: Any) -> Any:
    """Return an answer; an error of attrstore is raised as it is."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AttrstoreError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise AttrstoreError(
            f"a Ray worker died, and again each of the {RETRIES} times that it was started anew; Ray's logs say why. "
            "What is finished stays: run the same command again to go on."
        ) from error


@contextmanager
def crew(
    make: Callable[[], Keepable], n: int | None, device: str = "auto", n_bytes: int = 0
) -> Iterator[Crew]:
    """Start `n` processes, each of which keeps what `make` returns there.

    Args:
        n: how many; if not given, one for each GPU of the cluster, or for each CPU where it has none.
        device: that they compute on: auto is a GPU each where the cluster has any.
        n_bytes: of `make`, which is sent to all of them.

    Raises `InputError` where there is no cluster at RAY_ADDRESS, or no GPU in it.
    """
    if n is not None and n < 1:
        raise InputError(f"{flag('workers')} {n}: must be at least 1")
    with extras_named(), connected(n or 1, n_bytes):
        import ray

        there = ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        on_gpu = device.startswith("cuda") or (device == "auto" and gpus > 0)
        if on_gpu and not gpus:
            raise InputError(
                f"{flag('device')} {device}: no machine of the Ray cluster has a GPU. Leave it out."
            )
        n = n or (gpus if on_gpu else cpus)
        options = {"num_cpus": max(1, cpus // n), "num_gpus": int(on_gpu)}
        worker = ray.remote(Kept).options(max_restarts=RETRIES, max_task_retries=RETRIES, **options)
        actors = [worker.remote(IN_SHELL.get()) for _ in range(n)]
        try:
            started = Crew(actors, [ray.put(make)])
            yield started
            started.close()
        finally:
            for actor in actors:
                ray.kill(actor)


@contextmanager
def connected(n: int, n_bytes: int) -> Iterator[None]:
    """Be in a cluster: the one that this process has joined, the one at RAY_ADDRESS, or one of `n` processes here.

    Ray asks nobody and tells nobody how it is used. `n_bytes` is what will be sent to the processes.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    where: dict[str, object] = {"address": address}
    if not address:
        where = {
            "address": "local",
            "num_cpus": max(n, os.cpu_count() or 1),
            "object_store_memory": OBJECTS + 2 * n_bytes,
            "include_dashboard": False,
        }
    try:
        ray.init(**where, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise AttrstoreError(
            f"Ray at {address or 'this machine'}: cannot be reached. Set RAY_ADDRESS to a cluster that runs, or leave "
            "it unset for one on this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
