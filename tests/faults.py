"""The faults that `tests.torture` provokes: kills, full disks, flipped bytes, two writers; what is promised of each."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import attrstore
from attrstore import schema
from attrstore.check import CHECKS, check
from attrstore.cli import main
from attrstore.errors import AttrstoreError
from tests import tiny

Outcome = tuple[int, str, list[str]]  # times tried, what was seen, what broke a promise
OPEN_RUN = {"runs", "encoded", "lexical_examples"}  # what an unfinished job leaves to do
CRASHED = 70  # how a child ends with an error that is not attrstore's
CHEAP = [rule.name for rule in CHECKS if rule.name not in ("recomputed", "face")]
IGNORED = {"runs", "meta", "block_weights"}  # times and caches
TIMES = {"created"}


class Fault(NamedTuple):
    """One row of the table."""

    name: str
    how: str
    promise: str
    share: float  # of the time
    run: Callable[[World], Outcome]


class Ended(NamedTuple):
    """How a child ended."""

    code: int  # -9 where it was killed
    output: str
    result: Any


@dataclass
class World:
    """A tiny model, its files, the jobs that make a store of them, and an undisturbed store."""

    folder: Path
    rng: random.Random
    wanted: dict[str, int]
    until: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)  # an undisturbed job takes
    _after: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What every child needs and would find out for itself: half of its time.
        schema._fresh()
        schema._built_in()
        model = tiny.checkpoint(self.folder / "model")
        tiny.adam_state(model)
        texts = tiny.sentences(60)
        self._lines("corpus", [{"id": f"e{i}", "text": text} for i, text in enumerate(texts[:48])])
        self._lines("more", [{"id": f"e{i}", "text": text} for i, text in enumerate(texts[48:], 48)])
        self._lines("other", [{"id": f"e{i}", "text": f"{texts[i]} stone"} for i in range(4, 9)])
        queries = [("a b", " c"), ("d north", " e f"), ("river", " b")]
        self._lines(
            "queries", [{"id": f"q{i}", "prompt": p, "target": t} for i, (p, t) in enumerate(queries)]
        )
        self._lines(
            "labels", [{"query_id": "q0", "example_id": "e3"}, {"query_id": "q1", "example_id": "e50"}]
        )
        np.save(self.folder / "m.npy", np.random.default_rng(0).normal(size=(3, 59)))
        run = "".join(f"q{q} Q0 e{e} {e} {1 / e} x\n" for q in range(3) for e in range(1, 6) if e != 2)
        (self.folder / "run.trec").write_text(run)
        losses = "".join(f"{s},q{q},{s + q}\n" for s in range(1, 5) for q in range(3))
        (self.folder / "losses.csv").write_text("subset,query_id,loss\n" + losses)
        self.whole = self.folder / "whole.duckdb"
        for name, arguments in self.jobs(self.whole):
            if self.whole.exists():
                shutil.copy(self.whole, self.folder / f"before {name}.duckdb")
            start = time.monotonic()
            ended = self.job(arguments)
            self.seconds[name] = time.monotonic() - start
            if ended.code:
                raise RuntimeError(f"{name}: {ended.output}")
        self.contents = self.read(self.whole)

    def jobs(self, store: Path) -> list[tuple[str, list[str]]]:
        """Return every job that writes, in the order in which they make a store."""
        folder, s = self.folder, str(store)
        model, state = str(folder / "model"), str(folder / "model" / "optimizer.pt")
        return [
            ("init", ["init", s]),
            ("corpus", ["ingest", "corpus", s, str(folder / "corpus.jsonl")]),
            ("queries", ["ingest", "queries", s, str(folder / "queries.jsonl")]),
            ("first index", ["ingest", "lexical", s]),
            ("append", ["ingest", "corpus", s, str(folder / "more.jsonl")]),
            ("labels", ["ingest", "labels", s, str(folder / "labels.jsonl")]),
            ("delete", ["delete", s, "example", "e2", "--yes"]),
            ("replace", ["ingest", "corpus", s, str(folder / "other.jsonl"), "--replace"]),
            ("lexical", ["ingest", "lexical", s]),
            ("rebuilt index", ["ingest", "lexical", s, "--rebuild", "--k1", "1.2"]),
            ("gradients", ["ingest", "gradients", s, "--model", model, "--optimizer-state", state,
                           "--projection-dim", "4", "--batch-tokens", "48"]),
            ("score", ["score", s, "cosine-block", "--top-k", "5"]),
            ("score, curvature", ["score", s, "trackstar", "--top-k", "5"]),
            ("score, words", ["score", s, "bm25", "--top-k", "5"]),
            ("tail-patch", ["tail-patch", s, "--optimizer-state", state, "--top", "3"]),
            ("import scores", ["import", "scores", s, str(folder / "m.npy"), "--name", "given", "--top-k", "5"]),
            ("import ranking", ["import", "ranking", s, str(folder / "run.trec"), "--name", "listed"]),
            ("subsets", ["subsets", s, "--count", "4"]),
            ("import losses", ["import", "losses", s, str(folder / "losses.csv"), "--subsets", "lds"]),
            ("shards", ["ingest", "gradients", s, "--model", model, "--projection-dim", "4", "--code", "int8",
                        "--batch-tokens", "48", "--shards", str(shards(store))]),
            ("attach", ["attach", s, str(shards(store))]),
        ]  # fmt: skip

    def job(
        self, arguments: list[str], disturb: Callable[[int], object] = lambda pid: None, **how: Any
    ) -> Ended:
        """Run a command line in a child of its own; `disturb` gets its process id."""
        return self.child(partial(main, arguments, prog_name="attrstore"), disturb, **how)

    def child(
        self, work: Callable[[], Any], disturb: Callable[[int], object] = lambda pid: None,
        before: Callable[[], object] = lambda: None,
    ) -> Ended:  # fmt: skip
        """Run `work` in a forked child with its output in a pipe; what it returns comes back as JSON."""
        result = self.folder / "result"
        result.unlink(missing_ok=True)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            _in_child(work, before, writing, result)
        os.close(writing)
        disturb(pid)
        with os.fdopen(reading, errors="replace") as pipe:
            printed = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return Ended(status, printed, json.loads(result.read_text()) if result.exists() else None)

    def read(self, store: Path) -> dict[str, list[str]] | str:
        """Return the rows of every table but times, in one order; or why the store cannot be read."""
        ended = self.child(partial(_contents, store))
        return ended.result if ended.result is not None else ended.output

    def wrong(self, store: Path, only: list[str] = CHEAP) -> list[str]:
        """Return what `attrstore check` finds: names of rules, or the error that it ends with."""
        ended = self.child(partial(_findings, store, only))
        return list(ended.result) if ended.result is not None else [f"error {ended.code}: {ended.output}"]

    def copy(self, name: str = "copy.duckdb") -> Path:
        """Return a fresh copy of the undisturbed store."""
        out = self.folder / name
        out.with_name(f"{name}.wal").unlink(missing_ok=True)
        shutil.copy(self.whole, out)
        return out

    def after(self, name: str) -> Any:
        """Return what a store holds after an undisturbed job."""
        if name not in self._after:
            names = [*self.seconds, ""]
            later = names[names.index(name) + 1]
            self._after[name] = self.read(self.folder / f"before {later}.duckdb" if later else self.whole)
        return self._after[name]

    @property
    def more_time(self) -> bool:
        return time.monotonic() < self.until

    def _lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def shards(store: Path) -> Path:
    """Return the folder where the encodings of a store are written before they are attached."""
    return store.with_name(f"{store.name}.shards")


def _in_child(work: Callable[[], Any], before: Callable[[], object], out: int, result: Path) -> None:
    code = CRASHED
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(out, 2)
        # As a process of its own would have them: what the parent has not written yet is not the child's.
        sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False)  # type: ignore[misc]  # noqa: SIM115
        before()
        value = work()
        result.write_text(json.dumps(value))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except AttrstoreError as error:
        os.write(2, f"Error: {error}\n".encode())
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _contents(path: Path) -> dict[str, list[str]]:
    with attrstore.open(path) as store:
        names = dict(store.rows("SELECT scoring_id, name FROM scorings"))
        found = {}
        for (table,) in store.named("face", "tables").fetchall():
            if table in IGNORED:
                continue
            columns = [c for c in store.sql(f"FROM {table}").columns if c not in TIMES]
            rows = store.rows(f"SELECT {', '.join(columns)} FROM {table}")
            plain = [
                [names.get(v, _shown(v)) if isinstance(v, str) else _shown(v) for v in row] for row in rows
            ]
            found[table] = sorted(repr(row) for row in plain)
        return found


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _findings(path: Path, only: list[str]) -> list[str]:
    with attrstore.open(path) as store:
        return [found.check.name for found in check(store, only) if not found.ok]


def differing(one: Any, other: Any) -> str:
    """Name the first table whose rows differ."""
    if isinstance(one, str) or isinstance(other, str):
        return str(one)[-200:] if isinstance(one, str) else str(other)[-200:]
    for table in sorted(one.keys() | other.keys()):
        if one.get(table) != other.get(table):
            mine, theirs = set(one.get(table, ())), set(other.get(table, ()))
            return f"{table}: {sorted(mine - theirs)[:1]} and {sorted(theirs - mine)[:1]}"
    return ""


# Faults


def _after(seconds: float, number: int) -> Callable[[int], None]:
    def disturb(pid: int) -> None:
        time.sleep(seconds)
        os.kill(pid, number)

    return disturb


def kills(world: World) -> Outcome:
    """Kill a job at random moments, up to three times, and then let it run to its end."""
    tried, ended_first, equal, wrong = 0, 0, 0, []
    jobs: Counter[str] = Counter()
    for name, arguments, store in _steps(world, world.wanted["kills"], list(world.seconds)):
        for _ in range(world.rng.randint(1, 3)):
            moment = world.rng.uniform(0, 1.05) * world.seconds[name]
            if world.job(arguments, _after(moment, signal.SIGKILL)).code != -signal.SIGKILL:
                ended_first += 1
                break
            tried += 1
            jobs[name] += 1
            if store.exists() and (found := set(world.wrong(store)) - OPEN_RUN):
                wrong.append(f"after a kill of {name}: {sorted(found)}")
        again = world.job(arguments)
        # What had committed before it was killed is refused, or done again.
        done = {"delete": "no example is called e2", "subsets": "--replace"}.get(name)
        if again.code and not (done and done in again.output):
            wrong.append(f"{name} again: {again.output[-300:]}")
        if differs := differing(world.read(store), world.after(name)):
            wrong.append(f"{name}: not equal, {differs}")
        else:
            equal += 1
        if tried >= world.wanted["kills"]:
            break
    seen = f"{tried} killed in {len(jobs)} jobs, {ended_first} had ended before; {equal} jobs ended equal"
    return tried, seen, wrong


SOME = ["append", "lexical", "gradients", "score", "tail-patch", "import scores", "attach"]


def _steps(world: World, n: int, names: list[str] = SOME) -> Iterator[tuple[str, list[str], Path]]:
    """Give jobs over stores that were made up to just before them, as long as there is time."""
    order = world.rng.sample(names, len(names))
    for i in range(n):
        if not world.more_time and i > 1:
            return
        name = order[i % len(order)]
        store = world.folder / "fault.duckdb"
        for path in (store, store.with_name("fault.duckdb.wal")):
            path.unlink(missing_ok=True)
        shutil.rmtree(shards(store), ignore_errors=True)
        if name != "init":
            shutil.copy(world.folder / f"before {name}.duckdb", store)
        if name == "attach":
            shutil.copytree(shards(world.whole), shards(store))
        yield name, dict(world.jobs(store))[name], store


def _clean(ended: Ended) -> bool:
    return ended.code != CRASHED and "Traceback" not in ended.output


def _judged(world: World, name: str, arguments: list[str], store: Path, ended: Ended) -> list[str]:
    """What must hold after any disturbed job: no traceback, a sound store, and the same command goes on."""
    wrong = [] if _clean(ended) else [f"{name}: a traceback, {ended.output[-300:]}"]
    if found := set(world.wrong(store)) - OPEN_RUN:
        wrong.append(f"{name}: {sorted(found)}")
    again = world.job(arguments)
    if again.code:
        wrong.append(f"{name} again: {again.output[-300:]}")
    return wrong


def full_disk(world: World) -> Outcome:
    """No file may grow beyond a size between a page and the store's own: the log's end, or the store's."""
    tried, refused, wrong = 0, 0, []
    for name, arguments, store in _steps(world, 24):
        limit = round(4_096 * (store.stat().st_size / 4_096) ** world.rng.random())
        ended = world.job(
            arguments,
            before=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
        )
        tried += 1
        refused += ended.code != 0
        wrong += _judged(world, name, arguments, store, ended)
    return tried, f"{refused} refused, {tried - refused} had room", wrong


def signals(numbers: list[int], world: World) -> Outcome:
    """Send the signals to a running job, half a second apart."""
    tried, codes, wrong, slowest = 0, Counter[int](), [], 0.0
    for name, arguments, store in _steps(world, 16):
        sent: list[float] = []

        def disturb(pid: int, name: str = name, sent: list[float] = sent) -> None:
            for number in numbers:
                time.sleep(world.rng.uniform(0, 1) * world.seconds[name] / len(numbers))
                os.kill(pid, number)
            sent.append(time.monotonic())

        ended = world.job(
            arguments, disturb, before=partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        )
        slowest = max(slowest, time.monotonic() - sent[0])
        codes[ended.code] += 1
        tried += 1
        wrong += _judged(world, name, arguments, store, ended)
    ends = ", ".join(f"{n} with {code}" for code, n in sorted(codes.items()))
    return tried, f"ended {ends}; at most {slowest:.1f} s later", wrong


def read_only_folder(world: World) -> Outcome:
    """Another user, who may read the folder and not write it."""
    tried, wrong = 0, []
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    for path in [world.folder, *world.folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for name, arguments, _ in _steps(world, 8):
        ended = world.job(arguments, before=partial(os.setuid, user))
        tried += 1
        if ended.code == 0 or not _clean(ended):
            wrong.append(f"{name}: exit {ended.code}, {ended.output[-300:]}")
    return tried, f"{tried - len(wrong)} refused", wrong


def deleted(world: World) -> Outcome:
    """The file is removed while a job runs."""
    codes, wrong = Counter[int](), []
    for name, arguments, store in _steps(world, 16):
        in_time: list[bool] = []

        def disturb(pid: int, name: str = name, store: Path = store, in_time: list[bool] = in_time) -> None:
            time.sleep(world.rng.uniform(0, 0.8) * world.seconds[name])
            store.unlink()
            in_time.append(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None)

        ended = world.job(arguments, disturb)
        if not in_time[0]:
            continue
        codes[ended.code] += 1
        if ended.code == 0 or not _clean(ended):
            wrong.append(f"{name}: exit {ended.code}, {ended.output[-300:]}")
    ends = ", ".join(f"{n} ended with exit {code}" for code, n in sorted(codes.items()))
    return sum(codes.values()), ends, wrong


def truncated(world: World) -> Outcome:
    """The file is cut while a job runs."""
    tried, seen, wrong = 0, Counter[str](), []
    for name, arguments, store in _steps(world, 16):

        def disturb(pid: int, name: str = name, store: Path = store) -> None:
            time.sleep(world.rng.uniform(0, 0.8) * world.seconds[name])
            os.truncate(store, world.rng.randrange(store.stat().st_size))

        ended = world.job(arguments, disturb)
        tried += 1
        found = world.wrong(store, [])
        if ended.code:
            seen["the job failed"] += 1
        elif found:
            seen["check found it"] += 1
        elif not differing(world.read(store), world.after(name)):
            seen["without effect"] += 1
        else:
            wrong.append(f"{name}: exit 0, check is clean, and tables differ")
    return tried, _counts(seen), wrong


def _counts(seen: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in seen.most_common())


def flipped(world: World) -> Outcome:
    """One bit of the file."""
    seen, wrong = Counter[str](), list[str]()
    data = world.whole.read_bytes()
    while sum(seen.values()) + len(wrong) < world.wanted["flips"] and (
        world.more_time or sum(seen.values()) < 10
    ):
        store = world.copy("flipped.duckdb")
        place = world.rng.randrange(len(data) if world.rng.random() < 0.8 else 12_288)  # its headers
        with store.open("r+b") as file:
            file.seek(place)
            file.write(bytes([data[place] ^ (1 << world.rng.randrange(8))]))
        _classify(world, store, f"byte {place}", seen, wrong, [world.contents])
    return sum(seen.values()) + len(wrong), _counts(seen), wrong


def flipped_log(world: World) -> Outcome:
    """One bit of the log that a killed job left, or a part of it cut off."""
    seen, wrong = Counter[str](), list[str]()
    store = world.folder / "logged.duckdb"
    log = store.with_name("logged.duckdb.wal")
    made = world.child(partial(_leave_log, world.copy("logged.duckdb")))
    data, before, after = log.read_bytes(), world.read(world.whole), None
    kept = store.read_bytes()
    shutil.copy(log, log.with_suffix(".kept"))
    after = world.read(store)
    if made.code != 9 or after == before:
        return 0, "no log was left", ["no log was left"]
    while sum(seen.values()) + len(wrong) < world.wanted["flips"] // 4 and (
        world.more_time or sum(seen.values()) < 10
    ):
        store.write_bytes(kept)
        place = world.rng.randrange(len(data))
        flip = bytes([data[place] ^ (1 << world.rng.randrange(8))])
        log.write_bytes(data[:place] + flip + data[place + 1 :] if world.rng.random() < 0.8 else data[:place])
        _classify(world, store, f"byte {place} of the log", seen, wrong, [after], earlier=True)
    return sum(seen.values()) + len(wrong), _counts(seen), wrong


def _leave_log(path: Path) -> None:
    with attrstore.open(path, writable=True) as store:
        store.execute("SET checkpoint_threshold = '1GB'")
        for i in range(20):
            store.execute(f"INSERT INTO labels VALUES (2, {10 + i}, 1, 'log')")
        os._exit(9)


def _classify(
    world: World, store: Path, what: str, seen: Counter[str], wrong: list[str], right: list[Any], earlier: bool = False
) -> None:  # fmt: skip
    """Count what a damaged store is: refused, found by check, without effect, or something else."""
    ended = world.child(partial(_findings, store, CHEAP))
    if ended.code == 1 and ended.output.startswith("Error: "):
        seen["refused"] += 1
        return
    if ended.result:
        seen["found by check"] += 1
        return
    contents = world.read(store)
    if ended.code == 0 and contents in right:
        seen["without effect"] += 1
    elif ended.code == 0 and earlier and _is_earlier(contents, world.contents, right[0]):
        seen["opened at an earlier state"] += 1
    elif ended.code:
        wrong.append(f"{what}: exit {ended.code}, {ended.output[-300:]}")
    else:
        wrong.append(f"{what}: another answer, {differing(contents, right[0])}")


def _is_earlier(found: Any, before: Any, after: Any) -> bool:
    """Whether only labels differ, and these are the first so many that were committed."""
    if not isinstance(found, dict) or any(found[t] != before[t] for t in before if t != "labels"):
        return False
    return set(before["labels"]) <= set(found["labels"]) <= set(after["labels"])


def closed_stdout(world: World) -> Outcome:
    """Nobody reads what is printed."""
    wrong, commands = [], (["check"], ["info"], ["sql", "FROM examples"], ["report"])
    for command, *rest in commands:
        ended = world.job([command, str(world.whole), *rest], before=partial(os.close, 1))
        if not _clean(ended):
            wrong.append(f"{command}: exit {ended.code}, {ended.output[-300:]}")
    return len(commands), f"{len(commands) - len(wrong)} ended without one", wrong


def two_at_once(world: World) -> Outcome:
    """A job beside a writer, a reader beside a writer, a writer beside a reader."""
    tried, wrong = 0, []
    for writable in (True, False):
        store = world.copy("held.duckdb")
        ready = world.folder / "ready"
        ready.unlink(missing_ok=True)
        pid = os.fork()
        if not pid:
            _in_child(
                partial(_hold, store, writable, ready),
                lambda: None,
                os.open(os.devnull, os.O_WRONLY),
                world.folder / "no",
            )
        while not ready.exists():
            time.sleep(0.02)
        jobs = [dict(world.jobs(store))["score"], ["info", str(store)]]
        for arguments in jobs:
            ended = world.job(arguments)
            tried += 1
            may = arguments[0] == "info" and not writable
            if (ended.code == 0) != may or not (may or f"held by another process, PID {pid}" in ended.output):
                wrong.append(f"{arguments[0]}: exit {ended.code}, {ended.output[-300:]}")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if differs := differing(world.read(store), world.contents):
            wrong.append(differs)
    return tried, f"{tried - len(wrong)} so; two readers go together", wrong


def _hold(path: Path, writable: bool, ready: Path) -> None:
    with attrstore.open(path, writable=writable):
        ready.touch()
        time.sleep(600)


GOES_ON = "check names nothing but the open run; the same command goes on"
FAULTS = [
    Fault("kill −9", "SIGKILL at random moments of each job that writes, one to three times",
          f"{GOES_ON} and ends with the tables of an undisturbed run, numbers to six digits", 10, kills),
    Fault("full disk", "no file may be written beyond a random size up to the store's (RLIMIT_FSIZE)",
          f"an error of one line; {GOES_ON}", 1.5, full_disk),
    Fault("SIGTERM", "at a random moment", GOES_ON, 1, partial(signals, [signal.SIGTERM])),
    Fault("Ctrl-C", "SIGINT at a random moment", f"no traceback; {GOES_ON}", 1, partial(signals, [signal.SIGINT])),
    Fault("Ctrl-C twice", "SIGINT, and again", f"stops at once; {GOES_ON}", 1,
          partial(signals, [signal.SIGINT, signal.SIGINT])),
    Fault("read-only folder", "as another user", "exit 1 or 2, one line", 0.5, read_only_folder),
    Fault("store deleted", "unlinked while a job runs", "the job does not exit 0", 1, deleted),
    Fault("store truncated", "cut at a random place while a job runs",
          "the job fails, or check finds it, or it had no effect", 1, truncated),
    Fault("flipped bit, file", "anywhere, one in five in the headers",
          "refused, found by check, or without effect; never another answer", 3, flipped),
    Fault("flipped bit or cut, log", "in the log of a job that was killed after its last commit",
          "refused, or as it was after an earlier commit; never another answer", 1, flipped_log),
    Fault("closed stdout", "file descriptor 1 closed", "no traceback", 0.2, closed_stdout),
    Fault("two at once", "writer and writer, writer and reader, readers", "one line that names who holds it", 0.2,
          two_at_once),
]  # fmt: skip
