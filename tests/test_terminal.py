"""What is printed fits the terminal, is the text that was stored, and never steers the terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import attrstore
from attrstore.cli import COMMANDS, main
from attrstore.cli.ingest import SUBCOMMANDS
from attrstore.cli.trace import by_reason
from attrstore.formats import FORMATS, write
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.lexical import ingest_lexical
from attrstore.scoring import score
from attrstore.terminal import cell, plain, table_lines, wrap
from tests import scored, tiny

HOSTILE = "\x1b]0;owned\x07 \x1b[2J \x9b31m a\u202eb 10:100:20 [bold red]x[/] :smile: [/link]"
LONG = "The gate of the old harbour was painted blue today; " * 12


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal") / "s.duckdb"
    with attrstore.open(path, create=True) as store:
        scored.fill(store)
        store.execute(
            "UPDATE examples SET text = $t, external_id = 'e\x1b[31m0' WHERE example_id = 0", {"t": HOSTILE}
        )
        store.execute("UPDATE examples SET text = $t WHERE example_id > 0", {"t": LONG})
        store.execute("UPDATE queries SET prompt = $t || query_id WHERE query_id > 0", {"t": LONG[:90]})
    return path


def steering(text: str) -> set[str]:
    return {
        c for c in text if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E
    }


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        ["report"], ["report", "--intervals"], ["report", "--by", "relation"], ["info"], ["check"],
        ["sql", "FROM comparison ORDER BY query, influence_rank LIMIT 40"],
        ["sql", "FROM comparison WHERE query = 'q3' ORDER BY influence_rank"],
        ["sql", "FROM comparison LIMIT 1"],
        ["sql", "FROM agreement LIMIT 20"], ["sql", "FROM scorings"], ["sql", "FROM examples"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_line_is_wider_than_the_terminal(
    hostile: Path, arguments: list[str], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    command, *rest = arguments
    done = run(command, hostile, *rest)
    assert done.exit_code == (command == "check"), done.output  # the texts are not those that were ingested
    lines = [line for line in done.stdout.splitlines() if str(hostile) not in line]
    assert max(map(len, lines)) <= columns
    assert not steering(done.stdout)
    words = set(LONG.split())
    for line in lines:  # no word of a text is broken
        for word in line.split():
            assert len(word) < 3 or word in words or not any(w.startswith(word) for w in words), line


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of two checkpoints in folders of long names, scored, with texts longer than a line."""
    folder = tmp_path_factory.mktemp("encoded")
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(
            store, tiny.sentences(16, longest=28), [("a b c " * 5, " stone river"), ("north", " a")], [(0, 2)]
        )
        ingest_lexical(store)
        for seed in (0, 1):
            model = tiny.checkpoint(
                folder / f"a-model-whose-folder-has-a-name-as-long-as-people-make-them-{seed}", seed=seed
            )
            ingest_gradients(store, model=model, projection_dim=4, name=f"made of checkpoint {seed}")
        for method in ("cosine-block", "trackstar"):
            score(store, method, encoder="made of checkpoint 0")
        score(store, "bm25")
    return folder


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        ["use"], ["show", "e-3", "--model", "{0}"], ["explain", "q-0", "--top", "2", "--model", "{0}"],
        ["ask", "a b c", " stone", "--encoder", "made of checkpoint 0"],
        ["diagnose", "--encoder", "made of checkpoint 0", "--iterations", "1,2"],
        ["compare-checkpoints", "--model", "{0}", "--model", "{1}"],
        ["trace", "--method", "trackstar", "--method", "bm25", "--model", "{0}", "--queries", "2"],
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_what_a_model_has_a_part_in_fits_too(
    encoded: Path, arguments: list[str], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    models = sorted(folder.name for folder in encoded.iterdir() if folder.is_dir())
    monkeypatch.chdir(encoded)
    command, *rest = (argument.format(*models) for argument in arguments)
    done = run(command, "s.duckdb", *rest)
    assert done.exit_code == 0, done.output
    assert done.stdout
    too_long = [line for line in done.stdout.splitlines() if len(line) > columns]
    assert not too_long, too_long
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


@pytest.mark.parametrize("file_format", FORMATS)
def test_controls_are_shown_or_escaped_never_sent(hostile: Path, file_format: str) -> None:
    done = run("sql", hostile, "FROM examples WHERE example_id = 0", "--format", file_format)
    if file_format in ("csv", "tsv"):  # exact: what reads a pipe gets what was stored
        (row,) = csv.DictReader(io.StringIO(done.stdout), delimiter="," if file_format == "csv" else "\t")
        assert row["text"] == HOSTILE
        return
    assert not steering(done.stdout)
    if file_format.startswith("json"):
        record = json.loads(done.stdout)
        assert (record[0] if file_format == "json" else record)["text"] == HOSTILE
    else:
        assert "10:100:20 [bold red]x[/] :smile:" in " ".join(done.stdout.split())
        assert "␛[2J" in done.stdout
        assert "\\u202e" in done.stdout


def test_csv_on_a_terminal_shows_controls_too() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown, piped = Terminal(), io.StringIO()
    for stream in (shown, piped):
        write(stream, "csv", ["a", "b"], [["\x1b[2J", None], ["x\ry", ""]])
    assert shown.getvalue() == 'a,b\n␛[2J,\n"x␍y",""\n'
    assert piped.getvalue() == 'a,b\n\x1b[2J,\n"x\ry",""\n'


def test_an_error_message_is_text_too(hostile: Path) -> None:
    done = run("sql", hostile, "SELECT error('\x1b]0;owned\x07')")
    assert done.exit_code == 2
    assert "␛]0;owned␇" in done.stderr
    assert not steering(done.stderr)


def test_what_plain_shows() -> None:
    assert plain("a\tb\x7f\x85\u2066\U000e0041") == "a␉b␡\\u0085\\u2066\\U000e0041"
    assert plain("Zürich 東京 👩‍👩‍👧 क्‍ष") == "Zürich 東京 👩‍👩‍👧 क्‍ष"
    assert plain("one\ntwo\x1b", keep="\n") == "one\ntwo␛"
    assert cell("x" * 301, full=False) == "x" * 299 + "…"
    assert cell("x" * 301) == "x" * 301


def test_lines_break_between_words_and_keep_leading_spaces() -> None:
    assert wrap(" two words here", 10) == [" two words", "here"]
    assert wrap("abcdefghij klm", 4) == ["abcd", "efgh", "ij", "klm"]
    assert wrap("東京 東京", 5) == ["東京", "東京"]


def test_columns_are_chosen() -> None:
    rows = [["q", i, "one text of a few words, said twice, " * 2, 0.5] for i in range(2)]
    assert table_lines(["query", "n", "text", "x"], rows, 40, once=True) == [
        "query  q",
        "text   one text of a few words, said",
        "       twice, one text of a few words,",
        "       said twice, ",
        "",
        "n       x",
        "─────────",
        "0  0.5000",
        "1  0.5000",
    ]
    # 4 + 2 + 30, and two panels where it does not fit; the key is repeated.
    wide = [[f"k{i}", i * 10**29, i * 10**29 + 1] for i in range(1, 3)]
    assert table_lines(["name", "first", "second"], wide, 50)[:7] == [
        "name                           first",
        "─" * 36,
        f"k1    {10**29}",
        f"k2    {2 * 10**29}",
        "",
        "name                          second",
        "─" * 36,
    ]


def test_full_shows_the_whole_text(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    query = "SELECT text FROM examples WHERE example_id = 1"
    assert "…" in run("sql", hostile, query).stdout
    assert " ".join(run("sql", hostile, query, "--full").stdout.split()).endswith(LONG.strip())


@pytest.mark.parametrize("command", ["report", "info", "check"])
def test_every_format_says_the_same(hostile: Path, command: str) -> None:
    records = [json.loads(line) for line in run(command, hostile, "--format", "jsonl").stdout.splitlines()]
    assert records
    for file_format, separator in (("csv", ","), ("tsv", "\t")):
        text = run(command, hostile, "--format", file_format).stdout
        rows = list(csv.DictReader(io.StringIO(text), delimiter=separator))
        assert [[v if v is None else str(v) for v in r.values()] for r in records] == [
            [value or None for value in row.values()] for row in rows
        ]
    markdown = run(command, hostile, "--format", "markdown").stdout.splitlines()
    assert len(markdown) == len(records) + 2


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m attrstore"
    return subprocess.run(
        command.replace("attrstore", program), shell=True, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", ["sql {} 'FROM range(99999)' --format csv", "report {}", "--help", "info {}"]
)
def test_a_full_or_closed_stdout_is_one_line(hostile: Path, command: str) -> None:
    said = shell(f"attrstore {command.format(hostile)} > /dev/full")
    assert said.stderr == "Error: the output cannot be written: No space left on device.\n"
    assert said.returncode == 1
    if command != "--help":
        said = shell(f"attrstore {command.format(hostile)} >&-")
        assert said.stderr == "Error: the output is closed: there is nowhere to write to.\n"
        assert said.returncode == 1
    assert shell(f"attrstore {command.format(hostile)} | true").stderr == ""


def test_a_terminal_without_utf8_gets_escapes(hostile: Path) -> None:
    said = shell(f"attrstore report {hostile}", PYTHONIOENCODING="ascii")
    assert (said.returncode, said.stderr) == (0, "")
    assert "\\u2500" in said.stdout


def test_the_help_is_in_sections_and_whole() -> None:
    output = run("--help").output
    titles = [line for line in output.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options:", "See it work:", "Make a store:", "Rank:", "Read:", "Change:", "Measure:"]
    assert all(f"\n  {name} " in output for name in COMMANDS)
    for text in (output, run("ingest", "--help").output):
        assert "..." not in text.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["reprot"], "Did you mean report"), (["zzz"], "There are: "),
        (["ingest", "corpsu"], "Did you mean corpus?"), (["report", "--interval"], "--intervals"),
        (["import", "score"], "Did you mean scores?"),
    ],
)  # fmt: skip
def test_a_misspelt_name_is_answered_with_the_nearest(arguments: list[str], hint: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert hint in done.stderr


def test_commands_are_named_as_their_modules_have_them() -> None:
    for name in (*COMMANDS, *(f"ingest {sub}" for sub in SUBCOMMANDS)):
        assert run(*name.split(), "--help").exit_code == 0, name


def test_a_reason_is_given_once() -> None:
    left_out = {"dot": "no gradients", "dense": "no embeddings", "trak": "no gradients"}
    assert by_reason(left_out) == [(["dot", "trak"], "no gradients"), (["dense"], "no embeddings")]


def test_a_misspelt_method_is_answered_with_the_nearest(hostile: Path) -> None:
    done = run("score", hostile, "trackstr")
    assert done.exit_code == 2
    assert "did you mean trackstar?" in done.stderr


def test_checkpoints_in_a_folder_are_listed_in_the_order_of_training(hostile: Path, tmp_path: Path) -> None:
    for step in (650, 1300):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    done = run("ingest", "gradients", hostile, "--model", tmp_path)
    assert done.exit_code == 2
    assert f"Give one: {tmp_path / 'checkpoint-650'}, {tmp_path / 'checkpoint-1300'}" in done.stderr
