"""Change the code in small ways, one at a time, and print which changes no test notices.

    python -m tests.mutation --sample 300 --seed 0 --log mutants.log
    python -m tests.mutation --planted

A sample is drawn over the vectors, lexical, methods and encode rooms and the SQL faces and statements. The first run
records which tests reach which function, statement and view (tests/recorder.py). Each mutant lives in a copy of the
repository, where the tests that reach it run until one fails; `partly` survived where --most seconds of them ran. A
run past its time limit counts as noticed. What stands in the log is not tried again. `--planted` applies the mutants
of tests/planted.py, each against the test that it names.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutants import ROOT, Mutant, all_mutants
from tests.reached import Reached

# Imported once, before the forks; nothing of attrstore or its tests, which the forks find in the copy.
LIBRARIES = (
    "click.testing", "duckdb", "hypothesis", "ir_measures", "numpy", "peft", "polars", "pyarrow", "pytest", "rank_bm25",
    "rich.console", "safetensors.torch", "scipy.stats", "starlette.testclient", "tokenizers", "torch.func",
    "transformers", "uvicorn",
)  # fmt: skip
LAZY = ("AutoModelForCausalLM", "AutoTokenizer", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "LlamaForCausalLM")
# These run type checkers, builds, browsers and whole demos: minutes each, and nothing that the others miss.
LEFT_OUT = ("benchmarks", "browser", "builds", "packaging", "python_docs", "rooms")
FIRST = 5.0  # seconds of tests in the first fork; most mutants need no second


def copy(folder: Path) -> Path:
    """Copy what git knows, and what it would; compiled, so that each fork need not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    # By the hash of the text: a mutant may have the size and the second of what stood there.
    compiled = [
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "checked-hash",
        "attrstore",
        "ingest",
        "tests",
    ]
    subprocess.run([sys.executable, *compiled], cwd=folder, check=True)
    return folder


def import_libraries() -> None:
    """Import what every fork would."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"without {name}", flush=True)  # noqa: T201
    import transformers

    for name in LAZY:
        getattr(transformers, name)


def forked(folder: Path, tests: list[str], seconds: float) -> tuple[str, str]:
    """Run the tests in a fork that sees the copy: `survived`, `killed` or `timed out`, and the test that noticed.

    The limit is of processor time, so that a busy machine does not pass for a mutant that hangs.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 10))
            code = _run_pytest(folder, tests, writing)
        finally:
            os._exit(code)
    os.close(writing)
    until = time.monotonic() + 20 * seconds
    status = None
    while status is None and time.monotonic() < until:
        ended, found = os.waitpid(process, os.WNOHANG)
        status = found if ended else None
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if status is None:
        os.waitpid(process, 0)
    with os.fdopen(reading) as pipe:
        noticed = pipe.readline().strip()
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "timed out", noticed
    return ("survived" if status == 0 else "killed"), noticed


class _Noticed:
    """Tells the parent which test failed."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self.pipe, f"{report.nodeid}\n".encode())

    pytest_collectreport = pytest_runtest_logreport


def _run_pytest(folder: Path, tests: list[str], pipe: int) -> int:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "attrstore")]:
        del sys.modules[name]
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=[_Noticed(pipe)]))


class Case(NamedTuple):
    """A mutant, by its number in the sample, and the tests to run against it, each part with its time limit."""

    number: int
    mutant: Mutant
    parts: list[tuple[list[str], float]]
    whole: bool  # whether these are all the tests that reach it


def case(number: int, mutant: Mutant, reached: Reached, most: float) -> Case:
    """Return the tests that reach the mutant, up to `most` seconds of them: FIRST seconds, then the others."""
    tests = reached.of(mutant.file, mutant.start)
    ends = [*accumulate(reached.seconds(test) for test in tests)]
    first = max(bisect_right(ends, FIRST), 1)
    last = max(bisect_right(ends, most), first)
    parts = [part for part in (tests[:first], tests[first:last]) if part]
    limits = [60 + 5 * sum(reached.seconds(test) for test in part) for part in parts]
    return Case(number, mutant, list(zip(parts, limits, strict=True)), last >= len(tests))


def tried(folder: Path, case: Case) -> tuple[str, str]:
    """Apply the mutant in the copy, run the tests until one fails, take it back."""
    path = folder / case.mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: case.mutant.start] + case.mutant.new + text[case.mutant.end :], encoding="utf-8")
    found = "unreached", ""
    try:
        for tests, seconds in case.parts:
            found = forked(folder, tests, seconds)
            if found[0] != "survived":
                return found
    finally:
        path.write_text(text, encoding="utf-8")
    return found if case.whole else ("partly", "")


def run(cases: Iterable[Case], log: Path | None) -> int:
    """Try each mutant; print and log one line each, and return how many survived."""
    outcomes = Counter[str]()
    noticing = set[str]()
    import_libraries()
    with tempfile.TemporaryDirectory() as made:
        folder = copy(Path(made))
        for case in cases:
            began = time.perf_counter()
            found, test = tried(folder, case)
            took = time.perf_counter() - began
            told = case.mutant.told((folder / case.mutant.file).read_text(encoding="utf-8"))
            line = f"{case.number:4} {found:9} {took:4.0f} s  {told}" + (f"  # {test}" if test else "")
            print(line, flush=True)  # noqa: T201
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
            outcomes[found] += 1
            noticing |= {test} - {""}
        print(*(f"{count} {found}" for found, count in sorted(outcomes.items())), sep=", ", flush=True)  # noqa: T201
        found, test = forked(folder, sorted(noticing), 1800) if noticing else ("survived", "")
        if found != "survived":
            sys.exit(f"{test} fails without a mutant too")
    return outcomes.total() - outcomes["killed"] - outcomes["timed out"]


def record(file: Path) -> None:
    """Run every test once and write which places it reaches."""
    left_out = [f"--ignore=tests/test_{name}.py" for name in LEFT_OUT]
    command = [sys.executable, "-m", "pytest", "-p", "tests.recorder", "--reached", str(file), *left_out]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def judged(log: Path | None) -> set[int]:
    """Return the numbers of the mutants that the log speaks of."""
    text = log.read_text(encoding="utf-8") if log and log.exists() else ""
    return {int(line[:4]) for line in text.splitlines() if line[:4].strip().isdigit()}


def main() -> None:
    """Parse, sample, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--most", type=float, default=3600, help="Seconds of tests that one mutant is tried against."
    )
    parser.add_argument("--only", default="", help="Files whose path contains this.")
    parser.add_argument("--numbers", type=int, nargs="+", help="These of the sample, whatever the log says.")
    parser.add_argument("--log", type=Path, help="Append to this file, and skip what it speaks of.")
    parser.add_argument(
        "--reached", type=Path, default=ROOT / "build/reached.json", help="Made where it is missing."
    )
    parser.add_argument("--planted", action="store_true")
    arguments = parser.parse_args()
    if arguments.planted:
        from tests.planted import planted

        named = [(mutant, test) for mutant, test in planted(ROOT) if arguments.only in mutant.file]
        sys.exit(
            run((Case(n, m, [([test], 300)], True) for n, (m, test) in enumerate(named, start=1)), None) > 0
        )
    if not arguments.reached.exists():
        record(arguments.reached)
    reached = Reached(ROOT, arguments.reached)
    mutants = [mutant for mutant in all_mutants() if arguments.only in mutant.file]
    chosen = random.Random(arguments.seed).sample(mutants, min(arguments.sample, len(mutants)))
    print(f"{len(chosen)} of {len(mutants)} mutants, seed {arguments.seed}", flush=True)  # noqa: T201
    numbers = arguments.numbers or sorted({*range(1, len(chosen) + 1)} - judged(arguments.log))
    sys.exit(run((case(n, chosen[n - 1], reached, arguments.most) for n in numbers), arguments.log) > 0)


if __name__ == "__main__":
    main()
