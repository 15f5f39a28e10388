"""Imports run one way, the type checker sees into every room, and the rooms stay small and typed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
# A room imports from those before it, and from those beside it in its row where these do not import it.
ROWS = [
    {"errors", "statements", "sql", "options", "progress", "terminal", "formats", "html"},
    {"store", "locked", "schema", "upgrade", "verbs"},
    {"runs", "vectors", "lexical"},  # and every module of attrstore/ that stands alone and in no other row
    {"methods"},
    {"scoring"},
    {"ingest"},
    {"evaluation"},
    {"workflows"},
    {"demo"},
    {"cli", "web"},
]
# The library's doors: each verb imports what it needs when it is called.
DOORS = {"attrstore/__init__.py", "attrstore/verbs.py"}
LEVEL = {room: level for level, rooms in enumerate(ROWS) for room in rooms}
ALONE = LEVEL["runs"]
# file: the later room that it imports, and why it may.
EXCEPTIONS = {
    "attrstore/check.py": "methods",  # computes scores again
    "attrstore/lexical/batch.py": "methods",  # the type of what it is asked for
    "attrstore/methods/mirrored.py": "ingest",  # runs the model, which nothing but ingest loads
    "ingest/files/losses.py": "evaluation",  # the subsets that the losses are of
    "attrstore/__main__.py": "cli",  # is the command line
}


def imported(text: str) -> Iterator[str]:
    """Yield the rooms of attrstore that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "attrstore":
            yield from (alias.name for alias in node.names if alias.name in LEVEL)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("attrstore."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("attrstore."))


def wrong_imports(file: str, text: str) -> list[str]:
    """Name what a file imports of a later room."""
    parts = Path(file).with_suffix("").parts
    room = parts[1] if parts[0] == "attrstore" else parts[0]
    if file in DOORS:
        return []
    level = LEVEL.get(room, ALONE)
    return [
        f"{file} imports attrstore.{other}"
        for other in imported(text)
        if LEVEL.get(other, ALONE) > level and EXCEPTIONS.get(file) != other
    ]


def sources() -> Iterator[tuple[str, str]]:
    """Yield every file of the package; the links in attrstore/ are not followed."""
    for top in ("attrstore", "ingest"):
        for folder, _, names in os.walk(ROOT / top):
            for name in names:
                if name.endswith(".py"):
                    path = Path(folder) / name
                    yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_imports_run_one_way() -> None:
    assert [wrong for file, text in sources() for wrong in wrong_imports(file, text)] == []


def test_every_folder_has_a_row() -> None:
    folders = {
        Path(file).parts[1] for file, _ in sources() if file.startswith("attrstore/") and file.count("/") > 1
    }
    assert folders <= LEVEL.keys()


def test_every_exception_is_needed() -> None:
    files = dict(sources())
    for file, room in EXCEPTIONS.items():
        assert room in imported(files[file]), file


def test_a_wrong_import_is_found() -> None:
    planted = (
        "def f() -> None:\n    from attrstore.scoring import score\n\n    import attrstore.methods.base\n"
    )
    assert wrong_imports("attrstore/vectors/planted.py", planted) == [
        "attrstore/vectors/planted.py imports attrstore.scoring",
        "attrstore/vectors/planted.py imports attrstore.methods",
    ]
    assert wrong_imports("ingest/planted.py", "from attrstore import cli") == [
        "ingest/planted.py imports attrstore.cli"
    ]
    assert wrong_imports("attrstore/workflows/planted.py", planted) == []


def test_the_type_checker_sees_a_wrong_argument_in_a_call_to_ingest(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    call = 'ingest_corpus(attrstore.open("s.duckdb"), "c.jsonl"{more})\n'
    head = "import attrstore\nfrom attrstore.ingest.files.corpus import ingest_corpus\n\n"
    right, wrong = call.format(more=""), call.format(more=", no_such_argument=1")
    snippet.write_text(head + right + wrong, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(snippet)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in checked.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, checked.stdout + checked.stderr
    assert 'snippet.py:5: error: Unexpected keyword argument "no_such_argument"' in errors[0]


def anys(tree: ast.Module) -> int:
    """Count the annotations that say nothing."""
    return sum(
        (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
        for node in ast.walk(tree)
    )


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the parameters that a function names, without the object itself."""
    own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(one.arg not in ("self", "cls") for one in own)


def of_many(file: str, tree: ast.Module) -> Iterator[str]:
    """Name the functions that take more than a person keeps in mind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and parameters(node) > 8:
            yield f"{file} {node.name}"


def undocumented(file: str, tree: ast.Module) -> Iterator[str]:
    """Name what a user may call, and that says nothing of itself."""
    parts: list[tuple[str, ast.Module | ast.ClassDef]] = [(file, tree)]
    while parts:
        name, part = parts.pop()
        if ast.get_docstring(part) is None:
            yield name
        for node in part.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                if isinstance(node, ast.ClassDef):
                    parts.append((f"{name} {node.name}", node))
                elif ast.get_docstring(node) is None:
                    yield f"{name} {node.name}"


def test_files_are_short_typed_and_documented_and_functions_narrow() -> None:
    trees = {file: ast.parse(text) for file, text in sources() if text.strip()}
    lines = [len(text.splitlines()) for _, text in sources()]
    assert median(lines) < 110
    assert 1000 * sum(map(anys, trees.values())) / sum(lines) < 5
    assert [name for file, tree in trees.items() for name in of_many(file, tree)] == []
    assert [name for file, tree in trees.items() for name in undocumented(file, tree)] == []


def test_what_is_untyped_and_undocumented_is_found() -> None:
    planted = ast.parse(
        "from typing import Any\n\nclass A:\n    def f(self, x: list[Any]) -> Any:\n        pass\n"
    )
    assert anys(planted) == 2
    assert list(undocumented("p.py", planted)) == ["p.py", "p.py A", "p.py A f"]
    wide = ast.parse(
        "def f(self, a, b, c, /, d, *e, g, h, **i): pass\ndef g(a, b, c, d, e, *, f, g, h, i): pass\n"
    )
    assert list(of_many("p.py", wide)) == ["p.py g"]
