"""Which share of a sharded ingest a process does: one of as many workers as there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attrstore.errors import InputError, flag

# The variables that number the processes of one job, and that count them: torchrun, SLURM arrays, indexed jobs of
# Kubernetes, which count nothing.
NUMBERED = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("JOB_COMPLETION_INDEX", "WORLD_SIZE"),
)


@dataclass(frozen=True)
class Worker:
    """The worker of this rank, from 0, among `size`."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"{flag('world_size')} {self.size}: must be at least 1")
        if not 0 <= self.rank < self.size:
            raise InputError(
                f"{flag('shard_rank')} {self.rank}: must be between 0 and {self.size - 1}, as there are {self.size} "
                "workers"
            )

    def does(self, part: int) -> bool:
        """Whether this part of the work is its own."""
        return part % self.size == self.rank


def chosen(rank: int | None, size: int | None, environment: Mapping[str, str]) -> Worker:
    """Return the worker that the options say, or the variables of whatever started the process; else the only one."""
    if rank is not None and size is not None:
        return Worker(rank, size)
    if rank is not None or size is not None:
        raise InputError(f"{flag('shard_rank')} and {flag('world_size')} go together: give both.")
    for of_rank, of_size in NUMBERED:
        if of_rank in environment:
            if of_size not in environment:
                raise InputError(
                    f"{of_rank} is set and {of_size} is not: say how many workers there are, with {of_size} or with "
                    f"{flag('shard_rank')} and {flag('world_size')}."
                )
            first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0) if of_rank.startswith("SLURM") else 0
            return Worker(_number(environment, of_rank) - first, _number(environment, of_size))
    return Worker()


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, default)
    try:
        return int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} {value}: must be a whole number") from error
