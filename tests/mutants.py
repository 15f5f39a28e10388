"""Every small change that tests.mutation makes to a file of Python or SQL."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
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
