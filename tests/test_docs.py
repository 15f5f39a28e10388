"""The site: its links lead somewhere, its journey runs, its picture and the demo's output are today's."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from attrstore.cli import main
from docs.picture import case, svg
from docs.transcript import BLOCK, transcript

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_file(), link
        if page.parent.name == "docs":
            assert page.parent in target.parents, f"{link}: outside of the site"
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^  - .+?: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def headings(page: str) -> list[str]:
    """The commands of a transcript, the headings of its tables and its messages, without numbers.

    Not the rows of tables: which example is fifth depends on the processor that trained the model.
    """
    lines = [line for _, block in BLOCK.findall(page) for line in [*block.splitlines(), ""]]
    kept, in_table = [], False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        in_table = (in_table or line.startswith("──")) and bool(line) and not line.startswith("$ ")
        message = line.endswith((".", ":")) and not in_table
        if line.startswith("$ ") or following.startswith("──") or message:
            kept.append(re.sub(r"[+-]?[\d,]*\.?\d+(e-?\d+)?", "#", " ".join(line.split())))
    return kept


@pytest.mark.slow
def test_the_journey_prints_today_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    page = (ROOT / "docs" / "journey.md").read_text(encoding="utf-8")
    today = transcript(page)
    assert [line for line in headings(today) if line.startswith("$")] == [
        line for line in headings(page) if line.startswith("$")
    ]
    assert headings(today) == headings(page)
    printed = [
        line
        for language, block in BLOCK.findall(today)
        if language == "console"
        for line in block.splitlines()
    ]
    assert max(len(line) for line in printed if "attrstore " not in line) <= 80  # but for commands to copy


def test_the_picture_is_drawn_from_the_demos_output() -> None:
    printed = (ROOT / "docs" / "demo.txt").read_text(encoding="utf-8")
    drawn = svg(case(printed))
    assert drawn == (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")
    assert "url(http" not in drawn  # nothing is fetched


def test_the_pages_show_the_demos_output_as_it_was_printed() -> None:
    printed = (ROOT / "docs" / "demo.txt").read_text(encoding="utf-8")
    assert printed.rstrip() in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    table = printed[: printed.index("MRR: 1")].rstrip()
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_complete_commands(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "completion.md").read_text(encoding="utf-8")
    assert f"_ATTRSTORE_COMPLETE={shell}_source attrstore" in page
    monkeypatch.setenv("COMP_WORDS", "attrstore rep")
    monkeypatch.setenv("COMP_CWORD", "rep" if shell == "fish" else "1")
    monkeypatch.setitem(os.environ, "_ATTRSTORE_COMPLETE", f"{shell}_complete")
    result = CliRunner().invoke(main, prog_name="attrstore", complete_var="_ATTRSTORE_COMPLETE")
    assert "report" in result.output
