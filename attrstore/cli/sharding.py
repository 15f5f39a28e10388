"""Encoding by several processes or machines: the options of the ingest commands, and `attach`."""

from __future__ import annotations

import os
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.errors import InputError, flag
from attrstore.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrstore.shards import Attached

OPTIONS = (
    click.option(
        "--shards", metavar="FOLDER",
        help="Write what is encoded there, as files, and leave the store open to readers; attrstore attach brings it "
        "in. Or a URL that fsspec knows, such as s3://bucket/shards.",
    ),
    click.option(
        "--shard-rank", type=int, metavar="N",
        help="With --shards: which worker this is, from 0.  [default: RANK, SLURM_ARRAY_TASK_ID or "
        "JOB_COMPLETION_INDEX, where set]",
    ),
    click.option(
        "--world-size", type=int, metavar="N",
        help="With --shards: how many workers there are.  [default: WORLD_SIZE or SLURM_ARRAY_TASK_COUNT, where set]",
    ),
    click.option(
        "--workers", type=int, metavar="N",
        help="Encode with N processes of this machine, by way of shards, and attach them.",
    ),
    click.option(
        "--devices", metavar="NAMES",
        help="Of the workers, one each in turn: cuda:0,cuda:1. Without --workers as many as these.",
    ),
    click.option(
        "--engine", type=click.Choice(("processes", "ray")),
        help="What the workers are: processes of this machine, or of a Ray cluster: the one at RAY_ADDRESS, else one "
        "of this machine.  [default: processes]",
    ),
)  # fmt: skip


def shardable(kind: str, scores: str) -> Callable[[Any], Any]:
    """Give a command that encodes the options of shards; with one of them it writes these and not the store.

    Args:
        kind: of encoder.
        scores: the method that reads its encodings, for what comes next.
    """

    def decorate(function: Any) -> Any:
        @wraps(function)
        def command(store: Path, **given: Any) -> None:
            names = ("shards", "shard_rank", "world_size", "workers", "devices", "engine")
            sharding = {name: given.pop(name) for name in names}
            if all(value is None for value in sharding.values()):
                function(store, **given)
                return
            if given.pop("run", None) is not None or given["model"] is None:
                raise InputError(
                    "shards are of one model: give each checkpoint as --model, with its own folder."
                )
            if all(sharding[name] is None for name in ("workers", "devices", "engine")):
                _write_shards(store, kind, sharding, given)
            else:
                _run_workers(store, kind, scores, sharding, given)

        for option in reversed(OPTIONS):
            option(command)
        return command

    return decorate


def _write_shards(store: Path, kind: str, sharding: dict[str, Any], options: dict[str, Any]) -> None:
    from attrstore.ingest.encode.sharded import write_shards
    from attrstore.ingest.encode.worker import chosen

    folder = sharding["shards"]
    if folder is None:
        raise InputError(f"{flag('shard_rank')} and {flag('world_size')} need {flag('shards')} FOLDER.")
    worker = chosen(sharding["shard_rank"], sharding["world_size"], os.environ)
    with counted("encoding examples") as progress:
        done = write_shards(store, kind, folder, worker, progress=progress, tell=_tell, **options)
    say(
        f"{done.encoder}: worker {worker.rank} of {worker.size} encoded {done.rows:,} examples; "
        f"{done.shards:,} files written in {folder}."
    )
    say(f"Next, when all workers are done: attrstore attach {store} {folder}")


def _run_workers(
    store: Path, kind: str, scores: str, sharding: dict[str, Any], options: dict[str, Any]
) -> None:
    from attrstore.ingest.encode.workers import encode_with_workers

    if sharding["shard_rank"] is not None or sharding["world_size"] is not None:
        raise InputError(
            f"{flag('workers')}, {flag('devices')} and {flag('engine')} number their own workers: leave "
            f"{flag('shard_rank')} and {flag('world_size')} out."
        )
    devices = [name.strip() for name in (sharding["devices"] or "").split(",") if name.strip()]
    with counted("encoding examples") as progress:
        attached = encode_with_workers(
            store, kind, sharding["workers"], engine=sharding["engine"] or "processes", folder=sharding["shards"],
            devices=devices, progress=progress, tell=_tell, **options,
        )  # fmt: skip
    _report(store, attached)
    say(f"Next: attrstore score {store} {scores}")


@click.command("attach")
@store_argument
@click.argument("folder")
def attach_command(store: Path, folder: str) -> None:
    """Bring in the encodings that attrstore ingest with --shards wrote in a folder.

    Every file is held against the hash and the encoder in its manifest first; one that is torn, altered or of another
    encoder is named, and the store stays as it was. What the store has already is left out. The files stay. FOLDER may
    be a URL, as for --shards.

    \b
    Example: attrstore attach facts.duckdb shards
    """
    from attrstore.folders import folder_at
    from attrstore.shards import attach

    with attrstore.open(store, writable=True) as opened, counted("attaching encodings") as progress:
        attached = attach(opened, folder_at(folder), progress)
    _report(store, attached)


def _report(store: Path, attached: Attached) -> None:
    say(
        f"{store}: {attached.rows:,} encodings of {', '.join(attached.encoders)} from {attached.shards:,} files."
    )
    for n, what in (
        (attached.known, "were in the store already"),
        (attached.other_texts, "are left out: the store has another text of the example, or none"),
        (attached.missing, "examples have no encoding yet: run the same attrstore ingest again"),
    ):
        if n:
            say(f"  {n:,} {what}")


def _tell(line: str) -> None:
    say(line, err=True)
