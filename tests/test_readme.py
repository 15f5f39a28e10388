"""Every command and every line of Python in the README runs, in order, on a tiny model."""

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

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_command_and_the_python_example_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.adam_state(tiny.checkpoint(tmp_path / "model"))
    rows: dict[str, list[dict[str, object]]] = {
        "corpus": [{"id": f"e-{i}", "text": text} for i, text in enumerate(tiny.sentences(20))],
        "queries": [
            {"id": "q-0", "prompt": "a b c", "target": " d"},
            {"id": "q-1", "prompt": "e", "target": " f"},
        ],
        "labels": [{"query_id": "q-0", "example_id": "e-3", "label": 1}],
        "losses": [{"subset": i, "query_id": f"q-{i % 2}", "loss": i / 7} for i in range(1, 33)],
    }
    for name, records in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps(record) for record in records), encoding="utf-8"
        )
    commands = [line for block in blocks("sh") for line in block.strip().splitlines()]
    assert len(commands) >= 15
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "attrstore"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (command, result.output)
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_the_example_of_a_method_ranks_like_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = blocks("py")
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
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
    assert row in README.splitlines()


def test_every_command_has_an_example_in_its_help() -> None:
    from attrstore.cli import COMMANDS
    from attrstore.cli.ingest import SUBCOMMANDS

    for arguments in [[name] for name in COMMANDS] + [["ingest", name] for name in SUBCOMMANDS]:
        output = CliRunner().invoke(main, [*arguments, "--help"]).output
        assert re.search(rf"Examples?: attrstore {' '.join(arguments)} ", output), arguments
