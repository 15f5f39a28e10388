"""Change the code in small ways, one at a time, and print which changes no test notices.

    python -m tests.mutation --sample 40 --seed 0
    python -m tests.mutation --planted

A sample is drawn over the vectors, lexical, methods and encode rooms and the SQL faces and statements. Each mutant
lives in a copy of the repository, where the test files of its room run until one fails; a run past its time limit
counts as noticed. `--planted` applies the mutants of tests/planted.py, each against the test that it names.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Which tests should notice a change in a room, the quickest first.
TESTS = {
    "attrstore/vectors/codebook.py": "codes products",
    "attrstore/vectors/codes.py": "codes products scoring curvature",
    "attrstore/vectors/curvature.py": "codes curvature scoring inverse",
    "attrstore/vectors/encoders.py": "scoring several products gradient_job inverse info_check",
    "attrstore/vectors/solvers.py": "inverse",
    "attrstore/vectors": "products scoring curvature several inverse",
    "attrstore/lexical": "maxscore lexical",
    "ingest/lexical.py": "lexical maxscore",
    "attrstore/methods/bm25.py": "lexical maxscore",
    "attrstore/methods/dense.py": "embeddings",
    "attrstore/methods/inverse.py": "inverse",
    "attrstore/methods/less.py": "several",
    "attrstore/methods/mirrored.py": "mirrored",
    "attrstore/methods/tracincp.py": "several",
    "attrstore/methods": "scoring curvature several inverse products",
    "ingest/encode/embeddings.py": "embeddings",
    "ingest/encode/kronecker.py": "gradient_math gradient_job",
    "ingest/encode/projection.py": "gradient_math codes",
    "ingest/encode/representations.py": "scoring embeddings",
    "ingest/encode": "gradient_math gradient_job stopping targets several",
    "sql/face/100": "lexical maxscore",
    "sql/face/105": "meaning stale views",
    "sql/face/110": "views oracles",
    "sql/face/120": "views oracles stores",
    "sql/face/130": "intervals views",
    "sql/face/135": "classes import_scores intervals",
    "sql/face/140": "kinds",
    "sql/face/150": "lds",
    "sql/face/160": "diagnostics",
    "sql/face/170": "checkpoints",
    "sql/face/180": "explain",
    "sql/face": "views",
    "sql/statements/analyses.sql": "stale lds diagnostics",
    "sql/statements/chosen.sql": "meaning",
    "sql/statements/check.sql": "info_check",
    "sql/statements/checkpoints.sql": "checkpoints",
    "sql/statements/demo.sql": "demo",
    "sql/statements/diagnostics.sql": "diagnostics",
    "sql/statements/encodings.sql": "gradient_job stopping targets tail_patch",
    "sql/statements/explain.sql": "explain",
    "sql/statements/export.sql": "read_cli",
    "sql/statements/face.sql": "views import",
    "sql/statements/import.sql": "import_scores",
    "sql/statements/info.sql": "info_check",
    "sql/statements/ingest.sql": "ingest_files",
    "sql/statements/lexical.sql": "lexical maxscore",
    "sql/statements/losses.sql": "lds",
    "sql/statements/mirrored.sql": "mirrored",
    "sql/statements/removal.sql": "removal",
    "sql/statements/report.sql": "views report_table classes kinds",
    "sql/statements/scoring.sql": "scoring curvature products several inverse",
    "sql/statements/selection.sql": "select",
    "sql/statements/show.sql": "shapes",
    "sql/statements/subsets.sql": "lds",
    "sql/statements/tail_patch.sql": "tail_patch",
    "sql/statements/trace.sql": "trace",
    "sql/statements/web.sql": "rare_words web",
    "ingest/encode/recipes.py": "recipes gradient_job",
    "attrstore/vectors/quantisations.py": "codes recipes",
}
SAMPLED = (
    "attrstore/vectors", "attrstore/lexical", "attrstore/methods", "ingest/lexical.py", "ingest/encode",
    "sql/face", "sql/statements",
)  # fmt: skip


class Mutant(NamedTuple):
    """One change: the text of a file from `start` to `end` becomes `new`."""

    file: str
    start: int
    end: int
    new: str

    def told(self, text: str) -> str:
        """Say where and what."""
        line = text.count("\n", 0, self.start) + 1
        old, new = (" ".join(part.split())[:70] for part in (text[self.start : self.end], self.new))
        return f"{self.file}:{line}: {old} -> {new}"


# Python

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip


def python_mutants(file: str, text: str) -> Iterator[Mutant]:
    """Yield the mutants of a module: comparisons, arithmetic, constants, conditions, statements left out."""
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line.encode()))
    raw = text.encode()

    def place(line: int, column: int) -> int:
        return len(raw[: lines[line - 1] + column].decode())

    def mutant(node: ast.expr | ast.stmt, new: str) -> Mutant:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return Mutant(
            file, place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset), new
        )

    for node in _walk(ast.parse(text)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
            yield mutant(node, f"({left} {COMPARISONS[type(node.ops[0])]} {right})")
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _is_text(node):
            left, right = ast.unparse(node.left), ast.unparse(node.right)
            yield mutant(node, f"(({left}) {ARITHMETIC[type(node.op)]} ({right}))")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield mutant(node, str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            yield mutant(node, str(node.value + 1))
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield mutant(node, repr(node.value * 2 or 1.0))
        elif isinstance(node, ast.BoolOp):
            other = " or " if isinstance(node.op, ast.And) else " and "
            yield mutant(node, "(" + other.join(f"({ast.unparse(value)})" for value in node.values) + ")")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield mutant(node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            yield mutant(node.test, f"(not ({ast.unparse(node.test)}))")
        elif isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            yield mutant(node, "pass")


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs: no annotations, no imports for the type checker, nothing inside a text."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


# SQL

SWAPS = {
    "<=": "<", ">=": ">", "<>": "=", "<": "<=", ">": ">=", "=": "<>", "+": "-", "-": "+", "*": "/", "/": "*",
    "AND": "OR", "OR": "AND", "min": "max", "max": "min", "DISTINCT": "", "DESC": "", "NOT": "", "LEFT": "",
    "least": "greatest", "greatest": "least", "ANTI": "SEMI", "SEMI": "ANTI", "sum": "max", "avg": "max",
}  # fmt: skip
TOKEN = re.compile(
    r"(?P<skip>--[^\n]*|'[^']*'|\"[^\"]*\"|->>?|:=|//|\|\||count\(\*\)|\(\*\)|SELECT \*|\* EXCLUDE|EXCLUDE|\$\w+)"
    r"|(?P<swap><=|>=|<>|[<>=+\-*/]|\b(?:AND|OR|min|max|DISTINCT|DESC|NOT|LEFT|least|greatest|ANTI|SEMI|sum|avg)\b)"
    r"|(?P<number>(?<![\w.])\d+(?:\.\d+)?(?![\w.]))"
)


def sql_mutants(file: str, text: str) -> Iterator[Mutant]:
    """Yield the mutants of a script: operators, numbers and some words, outside comments and quotes."""
    for found in TOKEN.finditer(text):
        if found["swap"]:
            yield Mutant(file, found.start(), found.end(), SWAPS[found["swap"]])
        elif found["number"]:
            number = found["number"]
            new = repr(float(number) * 2 or 1.0) if "." in number else str(int(number) + 1)
            yield Mutant(file, found.start(), found.end(), new)


def all_mutants() -> Iterator[Mutant]:
    """Yield every mutant of what is sampled, file by file."""
    for part in SAMPLED:
        path = ROOT / part
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            make = {".py": python_mutants, ".sql": sql_mutants}.get(file.suffix)
            if make:
                yield from make(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))


# Running


def tests_of(file: str) -> list[str]:
    """Return the test files of the longest prefix of `file` that has any."""
    prefix = max((prefix for prefix in TESTS if file.startswith(prefix)), key=len)
    files = [f"tests/test_{name}.py" for name in TESTS[prefix].split()]
    return [file for file in files if (ROOT / file).is_file()]


def copy(folder: Path) -> Path:
    """Copy what git knows, and what it would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def outcome(folder: Path, tests: list[str], seconds: float) -> str:
    """Run the tests in the copy: `survived`, `killed`, or `timed out`."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return "survived" if process.wait(seconds) == 0 else "killed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "timed out"


def tried(folder: Path, mutant: Mutant, tests: list[str], seconds: float) -> str:
    """Apply the mutant in the copy, run the tests, take it back."""
    path = folder / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: mutant.start] + mutant.new + text[mutant.end :], encoding="utf-8")
    try:
        return outcome(folder, tests, seconds)
    finally:
        path.write_text(text, encoding="utf-8")


def run(cases: list[tuple[Mutant, list[str]]], seconds: float) -> int:
    """Try each mutant against its tests; print one line each, and return how many survived."""
    survived = 0
    with tempfile.TemporaryDirectory() as made:
        folder = copy(Path(made))
        for number, (mutant, tests) in enumerate(cases, start=1):
            began = time.perf_counter()
            found = tried(folder, mutant, tests, seconds)
            survived += found == "survived"
            text = (folder / mutant.file).read_text(encoding="utf-8")
            took = time.perf_counter() - began
            print(f"{number:4} {found:9} {took:5.0f} s  {mutant.told(text)}", flush=True)  # noqa: T201
    print(f"{survived} of {len(cases)} survived", flush=True)  # noqa: T201
    return survived


def main() -> None:
    """Parse, sample, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300, help="Time limit of one mutant's tests.")
    parser.add_argument("--only", default="", help="Files whose path contains this.")
    parser.add_argument("--planted", action="store_true")
    arguments = parser.parse_args()
    if arguments.planted:
        from tests.planted import planted

        cases = [(mutant, [test]) for mutant, test in planted(ROOT) if arguments.only in mutant.file]
    else:
        mutants = [mutant for mutant in all_mutants() if arguments.only in mutant.file]
        chosen = random.Random(arguments.seed).sample(mutants, min(arguments.sample, len(mutants)))
        cases = [(mutant, tests_of(mutant.file)) for mutant in chosen]
        print(f"{len(cases)} of {len(mutants)} mutants, seed {arguments.seed}", flush=True)  # noqa: T201
    sys.exit(run(cases, arguments.seconds) > 0)


if __name__ == "__main__":
    main()
