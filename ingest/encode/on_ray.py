"""Encode on Ray: each worker keeps its model and encodes one range of examples after another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attrstore import cluster
from attrstore.errors import InputError, Interrupted, flag
from attrstore.ingest.encode import job
from attrstore.ingest.encode.sharded import Ranges

if TYPE_CHECKING:
    from attrstore.ingest.encode.team import Team
    from attrstore.progress import Progress


def run(team: Team, progress: Progress) -> None:
    """Have all ranges encoded, each by whoever is free; a range whose worker died is done again."""
    if team.devices:
        raise InputError(f"{flag('devices')}: Ray gives each worker its own. Leave it out.")
    folder = team.folder if "://" in team.folder else Path(team.folder).absolute()
    make = partial(Ranges, team.path.absolute(), team.kind, folder, size=job.SHARD, **team.options)
    try:
        with cluster.crew(make, team.n, team.options.get("device") or "auto") as crew:
            ranges = crew.first("pending")
            total, done = sum(pending for _, pending in ranges), 0
            for rows in crew.each("write", [(part,) for part, _ in ranges]):
                done += rows
                progress(done, total)
    except KeyboardInterrupt as error:
        raise Interrupted(team.stopped) from error
