"""How long files are, and what has a docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from statistics import median

from tests.test_rooms import sources

FILES = dict(sources())
TREES = {file: ast.parse(text) for file, text in FILES.items()}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(node: ast.Module | ast.ClassDef, place: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield a module or class, and everything public in it."""
    yield place, node
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{place} {child.name}")
            else:
                yield f"{place} {child.name}", child


def test_the_median_file_is_short() -> None:
    assert median(len(text.splitlines()) for text in FILES.values()) < 110


def test_everything_public_has_a_docstring() -> None:
    bare = [
        place
        for file, tree in TREES.items()
        for place, node in public(tree, file)
        if ast.get_docstring(node) is None  # type: ignore[arg-type]
    ]
    assert bare == []
