"""One question at a time to the model: in a process of its own, which can be stopped and leaves the server quick."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, NamedTuple

from attrstore.web.lease import stamp

if TYPE_CHECKING:
    from pathlib import Path

    from attrstore.web.lease import Stamp

SECONDS = 600.0  # then it is stopped
TOP = 10
KEPT = 16  # answers
BEHIND = 5  # how much nicer than the server it is


class Question(NamedTuple):
    """What is asked; without a target, what the model says is explained."""

    prompt: str
    target: str

    def command(self, store: Path, model: Path) -> list[str]:
        """Return what answers it."""
        words = [self.prompt, *([self.target] if self.target else [])]
        options = ["--model", str(model), "--top", str(TOP), "--format", "json"]
        return [sys.executable, "-m", "attrstore", "ask", *options, "--", str(store), *words]


@dataclass(frozen=True)
class State:
    """Where a question stands: answered, under way, stopped, failed, or behind another one."""

    rows: list[dict[str, object]] | None = None  # of the answer, as `attrstore ask --format json` writes them
    seconds: float | None = None  # since it began
    before: float | None = None  # what the last answer took
    failed: str | None = None
    behind: Question | None = None


@dataclass(frozen=True)
class _Job:
    question: Question
    of: Stamp
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    err: IO[bytes]
    started: float = field(default_factory=time.monotonic)


class Asker:
    """Asks about one store and keeps its last answers as long as the store is as it was."""

    def __init__(self, store: Path, model: Path) -> None:
        self.store, self.model = store, model
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._answers: dict[tuple[Stamp, Question], State] = {}
        self._last: float | None = None

    def ask(self, question: Question) -> State:
        """Return where a question stands; it begins when it is asked first and no other is under way."""
        with self._lock:
            self._look()
            known = self._answers.get((stamp(self.store), question))
            if known is not None:
                return known
            if self._job is None:
                self._job = self._start(question)
            if self._job.question != question:
                return State(behind=self._job.question)
            return State(seconds=time.monotonic() - self._job.started, before=self._last)

    def stop(self) -> None:
        """Stop the question that is under way; it is not answered."""
        with self._lock:
            if self._job is not None:
                self._end(self._job)

    def _start(self, question: Question) -> _Job:
        out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115  # closed when the job ends
        process = subprocess.Popen(
            question.command(self.store, self.model), stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        with contextlib.suppress(OSError, AttributeError):  # Windows has no such thing
            os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + BEHIND)
        return _Job(question, stamp(self.store), process, out, err)

    def _look(self) -> None:
        """Take what the child left when it is done; stop it when it takes too long."""
        job = self._job
        if job is None:
            return
        took = time.monotonic() - job.started
        if job.process.poll() is None:
            if took <= SECONDS:
                return
            state = State(failed=f"no answer after {SECONDS:g} seconds, so it was stopped.")
        elif job.process.returncode == 0:
            state, self._last = State(rows=json.loads(_whole(job.out)), before=took), took
        else:
            said = _whole(job.err).decode(errors="replace").strip()
            state = State(failed=said.removeprefix("Error: ") or f"ended with {job.process.returncode}.")
        self._end(job)
        self._answers[job.of, job.question] = state
        while len(self._answers) > KEPT:
            del self._answers[next(iter(self._answers))]

    def _end(self, job: _Job) -> None:
        job.process.kill()
        job.process.wait()
        job.out.close()
        job.err.close()
        self._job = None


def _whole(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
