"""Do to a store what machines and people do, at random moments, and say what became of it.

make torture, or: python -m tests.torture [--minutes 10] [--kills 300] [--flips 500] [--seed 0] [--write]

Every job runs in a child that is forked from this process, which has imported torch and transformers once, and dies
alone. With --write the table goes into docs/reliability.md. Exit 1 where a promise was not kept.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import FAULTS, World

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- torture: begin -->\n", "<!-- torture: end -->\n"


def table(rows: list[tuple[str, ...]]) -> str:
    """Return the rows as Markdown."""
    head = ("Fault", "How it is provoked", "Tried", "Promised", "Seen")
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write(text: str) -> None:
    """Put the table into its page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    """Run every fault within its share of the time, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="A fault by the start of its name.")
    parser.add_argument("--write", action="store_true", help="Put the table into docs/reliability.md.")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    command = (
        f"python -m tests.torture --minutes {asked.minutes:g} --kills {asked.kills} --flips {asked.flips}"
    )
    start, broken = time.monotonic(), 0
    rows: list[tuple[str, ...]] = []
    text = ""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), random.Random(asked.seed), {"kills": asked.kills, "flips": asked.flips})
        chosen = [fault for fault in FAULTS if fault.name.startswith(asked.only or "")]
        shares = sum(fault.share for fault in chosen)
        for fault in chosen:
            world.until = time.monotonic() + asked.minutes * 60 * fault.share / shares
            try:
                tried, seen, wrong = fault.run(world)
            except Exception as error:
                tried, seen, wrong = 0, "the torture itself failed", [repr(error)]
            if wrong:
                seen += f"; **{len(wrong)} times not as promised**"
            rows.append((fault.name, fault.how, str(tried), fault.promise, seen))
            broken += len(wrong)
            print(*(f"BROKEN {fault.name}: {what}" for what in wrong), sep="\n")
            text = f"`{command} --seed {asked.seed}`, {time.monotonic() - start:.0f} s:\n\n{table(rows)}"
            if asked.write:  # after each, so that a run that is stopped leaves what it saw
                write(text)
            print(f"{time.monotonic() - start:4.0f} s  {fault.name}: {tried} tried; {seen}", flush=True)
    print(f"\n{text}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
