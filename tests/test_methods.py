"""A method's fields are what the shell, a trace and another package's methods go by."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import attrstore
from attrstore import methods
from attrstore.cli import main
from attrstore.errors import AttrstoreError, InputError
from attrstore.ingest.lexical import ingest_lexical
from attrstore.methods import Request
from attrstore.methods.bm25 import Bm25Options
from attrstore.methods.dense import DenseOptions
from attrstore.scoring import score
from attrstore.workflows.trace import trace
from tests import tiny

PLUGIN = """
import pyarrow
from dataclasses import dataclass
from attrstore.methods import Method, Ranking, Reads
from attrstore.options import Options, option

@dataclass(frozen=True)
class Wanted(Options):
    letter: str = option("a", "What is counted.")
    times: int = option(1, "What a letter counts.", least=1)

def rank(store, request):
    options = request.options_as(Wanted)
    rows = store.rows(
        "SELECT 0::BIGINT, example_id, row_number() OVER (ORDER BY n DESC, example_id)::INTEGER, n::DOUBLE FROM "
        "(SELECT example_id, $times * (length(text) - length(replace(text, $letter, ''))) AS n FROM examples)",
        {"letter": options.letter, "times": options.times},
    )
    names = ("query_id", "example_id", "rank", "score")
    types = (pyarrow.int64(), pyarrow.int64(), pyarrow.int32(), pyarrow.float64())
    arrays = [pyarrow.array(c, t) for c, t in zip(zip(*rows), types)]
    return Ranking(pyarrow.table(dict(zip(names, arrays))), len(rows), {"letter": options.letter}, query_ids=[0])

LETTERS = Method("letters", "retrieval", "none", Reads("lexical"), "a scan", "To count a letter.", rank, Wanted())
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution that brings the method `letters` along."""
    site = tmp_path / "site"
    info = site / "attrstore_letters-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "attrstore_letters.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: attrstore-letters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[attrstore.methods]\nletters = attrstore_letters:LETTERS\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    methods._installed.cache_clear()
    monkeypatch.delitem(sys.modules, "attrstore.cli.score", raising=False)  # lists the methods there are
    yield info / "entry_points.txt"
    methods._installed.cache_clear()


def test_a_method_of_another_package_is_one_of_all(plugin: Path, path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, ["a b", "b b a b", "c"], [("a", " b")])
        score(store, "letters", letter="b", times=2)
        assert store.rows("SELECT example_id, rank, score FROM scores ORDER BY rank") == [
            (1, 1, 6.0), (0, 2, 2.0), (2, 3, 0.0)
        ]  # fmt: skip
        with pytest.raises(InputError, match="letters takes no norm; it takes letter, times"):
            score(store, "letters", norm="block")
        with pytest.raises(InputError, match="times 0: must be at least 1"):
            score(store, "letters", times=0)
    shown = CliRunner().invoke(main, ["score", "letters", "--help"]).output
    assert "What is counted." in shown
    assert "letters  " in CliRunner().invoke(main, ["score", "--help"]).output


def test_a_trace_runs_another_package_s_method_by_what_it_reads(plugin: Path, path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        tiny.fill(store, ["a b", "b b a b", "c"], [("a", " b")])
        with pytest.raises(InputError, match="letters: no lexical index"):
            trace(store, methods=["letters"], tail_patch=False)
        ingest_lexical(store)
        traced = trace(store, methods=["letters"], tail_patch=False)
    assert [row["name"] for row in traced.table.records()] == ["letters"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("attrstore_letters:NOTHING", "letters of the package attrstore-letters: cannot be loaded. AttributeError"),
        ("attrstore_letters:rank", "attrstore_letters:rank is no attrstore.methods.Method"),
        ("attrstore.methods.bm25:METHOD", "there is a method called bm25 already"),
    ],
)  # fmt: skip
def test_a_method_that_cannot_be_used_is_named_with_its_package(
    plugin: Path, value: str, message: str
) -> None:
    plugin.write_text(f"[attrstore.methods]\nletters = {value}\n")
    with pytest.raises(AttrstoreError, match=message):
        methods.every_method()


def options_shown(*arguments: str) -> set[str]:
    shown = CliRunner().invoke(main, ["score", *arguments, "--help"]).output
    return {line.split()[0] for line in shown.splitlines() if line.startswith("  --")}


@pytest.mark.parametrize("before", [(), ("facts.duckdb",), ("facts.duckdb", "--top-k", "3")])
def test_the_help_of_score_shows_the_options_of_the_method(before: tuple[str, ...]) -> None:
    common = {"--name", "--top-k", "--where", "--group-by", "--engine", "--workers"}
    assert options_shown() == common
    assert options_shown(*before, "bm25") == common | {"--engine", "--variant", "--k1", "--b", "--epsilon"}
    assert options_shown(*before, "datainf") == common | {"--encoder", "--norm", "--damping", "--device"}
    assert options_shown(*before, "dense") == common | {"--encoder", "--norm", "--device"}


def test_the_help_of_a_method_shows_its_own_defaults() -> None:
    for method in methods.METHODS.values():
        shown = " ".join(CliRunner().invoke(main, ["score", method.name, "--help"]).output.split())
        for name in method.option_names:
            default = getattr(method.options, name)
            if default is not None:
                assert f"--{name.replace('_', '-')} " in shown
                assert f"[default: {default}]" in shown, (method.name, name)
    assert "[default: 20]" in " ".join(CliRunner().invoke(main, ["score", "cg", "--help"]).output.split())


def test_an_option_of_another_method_is_refused_with_those_there_are(path: Path) -> None:
    done = CliRunner().invoke(main, ["score", str(path), "bm25", "--norm", "block"])
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: bm25 takes no --norm; it takes --b, --engine, --epsilon, --k1, --variant\n"
    )


def test_a_request_without_options_has_the_method_s_defaults_and_another_method_s_are_refused() -> None:
    assert Request().options_as(Bm25Options) == Bm25Options()
    given = Bm25Options(k1=2.0)
    assert Request(options=given).options_as(Bm25Options) is given
    with pytest.raises(TypeError, match="the method takes DenseOptions, not Bm25Options"):
        Request(options=given).options_as(DenseOptions)
