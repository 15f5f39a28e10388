"""The report as people see it: nothing said twice, and never wider than there is room."""

from __future__ import annotations

import pytest

from attrstore.cli.report_table import print_report, widened

COLUMNS = ["name", "method", "family", "queries", "mrr", "hit_at_10", "tail_patch_logprob"]
ROWS = [("one", "one", "influence", 9, 0.5, 0.25, None), ("bm25", "bm25", "retrieval", 9, 1.0, 0.75, None)]


def lines(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.splitlines() if line.strip() and "─" not in line]


def test_what_says_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(COLUMNS, ROWS)
    assert lines(capsys.readouterr().out) == [
        ["name", "family", "queries", "mrr", "hit@10"],
        ["one", "influence", "9", "0.5000", "0.2500"],
        ["bm25", "retrieval", "9", "1.0000", "0.7500"],
    ]
    print_report(COLUMNS, [("renamed", *ROWS[0][1:]), (*ROWS[1][:-1], -0.5)])
    assert lines(capsys.readouterr().out)[0] == [
        "name", "method", "family", "queries", "mrr", "hit@10", "tail-patch",
    ]  # fmt: skip


def test_a_metric_that_would_not_fit_is_left_to_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    print_report([*COLUMNS[:-1], "recall_at_50"], [(*row[:-1], 0.5) for row in ROWS])
    assert "recall" not in capsys.readouterr().out


def test_intervals_are_one_row_a_scoring() -> None:
    columns = ["name", "method", "family", "model", "setting", "metric", "queries", "mean", "low", "high"]
    rows = [
        ("b", "b", "influence", "m", None, "mrr", 9, 0.5, 0.25, 0.75),
        ("a", "a", "influence", "m", None, "mrr", 9, 0.25, 0.125, 0.5),
        ("a", "a", "influence", "m", "adam, 1e-06", "tail_patch_logprob", 3, 0.5, 0.0, 1.0),
    ]
    assert widened(columns, rows) == (
        [
            "name",
            "method",
            "family",
            "model",
            "mrr",
            "tail_patch_logprob",
            "tail_patch_model",
            "tail_patch_setting",
        ],
        [
            ("b", "b", "influence", "m", "0.5000 [0.2500, 0.7500] n 9", None, None, None),
            (
                "a",
                "a",
                "influence",
                "m",
                "0.2500 [0.1250, 0.5000] n 9",
                "0.5000 [0.0000, 1.0000] n 3",
                "m",
                "adam, 1e-06",
            ),
        ],
    )
