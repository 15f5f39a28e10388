"""Every command and every line of Python in the README and in docs/ runs, in order, on a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import attrstore
from attrstore.cli import main
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.methods import METHODS, Method
from attrstore.scoring import score
from tests import tiny
from tests.test_web import client

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Each on a store in which all of the README ran; the journey brings its own data.
PAGES = [
    "index.md",
    "inputs.md",
    "methods.md",
    "views.md",
    "evaluation.md",
    "lds.md",
    "scale.md",
    "explorer.md",
]

LONG = ("evaluation.md", "lds.md")  # tail-patch, trace and retraining: ten seconds and more


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything of the README ran."""
    folder = tmp_path_factory.mktemp("readme")
    tiny.adam_state(tiny.checkpoint(folder / "model"))
    rows: dict[str, list[dict[str, object]]] = {
        "corpus": [
            {"id": f"e-{i}", "text": text, "source": ("wiki", "web")[i % 2]}
            for i, text in enumerate(tiny.sentences(20))
        ],
        "queries": [
            {"id": "q-0", "prompt": "a b c", "target": " d", "relation": "r"},
            {"id": "q-1", "prompt": "e", "target": " f", "relation": "r"},
        ],
        "labels": [{"query_id": "q-0", "example_id": "e-3", "label": 1}],
    }
    for name, records in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(README)
    return folder


def looked_at(store: Path) -> int:
    """Open the first page as a browser would; return the status."""
    with client(store) as browser:
        return browser.get("/?token=secret").status_code


def run(page: str) -> int:
    """Run the page's commands and Python in order and return how many blocks there are."""
    found = BLOCK.findall(page)
    for language, text in found:
        if language == "python":
            exec(compile(text, "page", "exec"), {})
            continue
        for command in text.strip().splitlines():
            program, *arguments = shlex.split(command)
            assert program == "attrstore"
            if arguments[0] == "serve":  # until Ctrl-C
                assert looked_at(Path(arguments[1])) == 200
                continue
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, f"{command}\n{result.output}"
    return len(found)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PAGES]
)
def test_every_command_and_every_line_of_python_runs(
    ran: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ran)
    assert run(DOCS[name]) >= 1


def test_every_page_with_commands_is_run() -> None:
    assert {name for name, text in DOCS.items() if BLOCK.search(text)} <= {
        *PAGES,
        "journey.md",
        "python.md",
        "chats.md",
    }  # those three by tests of their own


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 100


def test_the_example_of_a_method_ranks_like_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```py\n(.*?)```", DOCS["methods.md"], flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "methods.md", "exec"), names)
    method = names["TRAK_BLOCK"]
    monkeypatch.setitem(METHODS, method.name, method)
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(12), [("a b", " c")])
        ingest_gradients(store, model=tiny.checkpoint(tmp_path / "model"), projection_dim=4)
        score(store, "trak", norm="block", name="by option")
        score(store, method.name)
        by_option, by_file = (
            store.rows(
                "SELECT example, rank, score FROM influence WHERE scoring = $n ORDER BY ALL", {"n": name}
            )
            for name in ("by option", method.name)
        )
    assert by_option == by_file
    assert len(by_file) == 12


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)$", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_method_is_in_the_table_as_it_describes_itself(method: Method) -> None:
    row = f"| `{method.name}` | {method.paper} | {method.reads.command} | {method.cost} | {method.when} |"
    assert row in DOCS["methods.md"].splitlines()
    assert not method.differs or f"- `{method.name}`: {method.differs}" in DOCS["methods.md"].splitlines()
    assert CliRunner().invoke(main, ["score", method.name, "--help"]).output.count("Differs") == bool(
        method.differs
    )


def test_every_command_has_an_example_in_its_help() -> None:
    from attrstore.cli import COMMANDS
    from attrstore.cli.ingest import SUBCOMMANDS

    for arguments in [[name] for name in COMMANDS] + [["ingest", name] for name in SUBCOMMANDS]:
        output = CliRunner().invoke(main, [*arguments, "--help"]).output
        assert re.search(rf"Examples?: attrstore {' '.join(arguments)} ", output), arguments
