"""Class attribution with its intervals, and the benchmark that trains a model for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

import attrstore
from attrstore import Store
from attrstore.cli import main
from attrstore.errors import InputError
from attrstore.evaluation.report import tabulate
from benchmarks import class_attribution
from tests.scored import N_EXAMPLES, N_QUERIES, add_ranking, add_scoring, add_texts

DEPTH = N_EXAMPLES // 3  # example i and query i have the class c{i % 3}


def fill(store: Store) -> dict[str, np.ndarray]:
    """Three random rankings; returns accuracy and cover of each query, float64 [queries, 2]."""
    rng = np.random.default_rng(5)
    add_texts(store)
    each: dict[str, list[tuple[bool, float]]] = {}
    for number, (name, stored) in enumerate([("half", 1), ("good", 1), ("shallow", 0)]):
        add_scoring(store, name, "influence", N_EXAMPLES, number)
        for q in range(N_QUERIES):
            noise = rng.random(N_EXAMPLES)
            bonus = 0.1 * (np.arange(N_EXAMPLES) % 3 == q % 3) * (name == "good")
            order = np.argsort(noise - bonus).tolist()
            add_ranking(store, name, q, order, set(order[: DEPTH - 1 + stored]), opponents=False)
            same = [e % 3 == q % 3 for e in order[:DEPTH]]
            each.setdefault(name, []).append((same[0], sum(same) / DEPTH))
    return {name: np.array(values, dtype=float) for name, values in each.items()}


def test_intervals_are_those_of_the_resampled_queries(store: Store) -> None:
    each = fill(store)
    draws = store.rows(
        "SELECT list(w ORDER BY substr(query, 2)::INT) FROM drawn(300) GROUP BY resample ORDER BY resample"
    )
    weights = np.array([w for (w,) in draws])
    assert weights.shape == (300, N_QUERIES)
    found = {
        (name, metric): bounds
        for name, metric, *bounds in store.rows(
            "SELECT name, metric, mean, low, high FROM class_intervals('kind', resamples := 300)"
        )
    }
    assert set(found) == {
        ("half", "accuracy"), ("half", "cover"), ("good", "accuracy"), ("good", "cover"), ("shallow", "accuracy"),
    }  # fmt: skip
    for (name, metric), (mean, low, high) in found.items():
        values = each[name][:, int(metric == "cover")]
        assert mean == pytest.approx(values.mean())
        means = weights @ values / weights.sum(axis=1)
        assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-8)
        assert low < mean < high


def test_intervals_agree_with_a_plain_bootstrap(store: Store) -> None:
    values = fill(store)["good"]
    samples = values[np.random.default_rng(0).integers(0, N_QUERIES, (4000, N_QUERIES))].mean(axis=1)
    wanted = np.quantile(samples, [0.025, 0.975], axis=0)
    rows = store.rows("SELECT low, high FROM class_intervals('kind') WHERE name = 'good' ORDER BY metric")
    for column, bounds in enumerate(rows):
        spread = wanted[1, column] - wanted[0, column]
        assert bounds == pytest.approx(tuple(wanted[:, column]), abs=0.2 * spread)


def test_the_report_has_both_in_one_table(store: Store, path: Path) -> None:
    each = fill(store)
    records = tabulate(store, class_column="kind", intervals=True)
    assert records.notes[0].startswith("shallow: no cover.")
    assert [(r["name"], r["metric"]) for r in records.records()[:3]] == [
        (name, "accuracy") for name in sorted(each, key=lambda n: (-each[n][:, 0].mean(), n))
    ]
    with pytest.raises(InputError, match="no query has 'colour'"):
        tabulate(store, class_column="colour", intervals=True)
    store.close()
    done = CliRunner().invoke(
        main, ["report", str(path), "--class-column", "kind", "--intervals", "--format", "json"]
    )
    assert done.exit_code == 0
    assert json.loads(done.stdout) == records.records()
    with duckdb.connect(str(path), read_only=True) as plain:
        assert len(plain.execute("FROM class_report('kind')").fetchall()) == 3
        assert len(plain.execute("FROM class_intervals('kind', resamples := 5)").fetchall()) == 5


def test_the_source_is_a_class_too(path: Path) -> None:
    with attrstore.open(path, create=True) as store:
        fill(store)
        store.execute("UPDATE examples SET source = metadata ->> 'kind', metadata = NULL")
        store.execute("UPDATE queries SET metadata = json_object('source', metadata ->> 'kind')")
        assert store.value("SELECT accuracy FROM class_report('source') WHERE name = 'good'") > 0.5
        store.execute("INSERT INTO labels SELECT query_id, 3, 1, NULL FROM queries")  # for the other metrics
        metrics = [row[6] for row in store.named("report", "class_intervals", {"key": "source"}).fetchall()]
    assert "mrr" in metrics
    assert list(dict.fromkeys(metrics))[:2] == ["accuracy", "cover"]


def test_words_found_in_few_examples_rank_all_that_they_find(store: Store) -> None:
    """A retrieval that keeps more than it found has a cover: what it did not find is not of the class."""
    add_texts(store)
    for number, family in enumerate(("retrieval", "influence")):
        add_scoring(store, family, family, N_EXAMPLES, number)
        for q in range(N_QUERIES):
            add_ranking(store, family, q, [q % 3, 3 + q % 3, 6 + (q + 1) % 3], set(), opponents=False)
    store.execute("UPDATE scorings SET spec = json_object('top_k', $n)", {"n": N_EXAMPLES})
    found = store.rows("SELECT name, accuracy, cover, shallowest FROM class_report('kind') ORDER BY name")
    assert found == [("influence", 1, None, 3), ("retrieval", 1, pytest.approx(2 / DEPTH), 3)]


# The benchmark


RULES = {"shout": "{}!", "star": "*{}*"}
WORDS = ("river", "stone", "cloud", "ember", "field")


def write_data(folder: Path) -> None:
    """Two rules, ten questions each in train, five in test, and a released matrix that puts the other class first."""
    folder.mkdir()
    for name, tail in (("train", " runs"), ("test", " waits")):
        rows = [
            {"id": f"{name}-{rule}-{word}{again}", "prompt": f"{word}{tail}{again} -> {change.format(word)}"}
            | dict.fromkeys(("response", "label"), rule)
            for rule, change in RULES.items()
            for word in WORDS
            for again in ([""] if name == "test" else ["", " on"])
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lower_is_stronger = np.array([[1.0 if q // 5 == e // 10 else 0.0 for e in range(20)] for q in range(10)])
    np.savetxt(folder / "grammars_10_inf.csv", lower_is_stronger, delimiter=",")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--lora"]])
def test_the_benchmark_has_a_row_for_every_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    if options:
        pytest.importorskip("peft")
    write_data(tmp_path / "data")
    class_attribution.main(
        [str(tmp_path / "data"), "--steps", "3", "--dim", "32", "--workdir", str(tmp_path), *options]
    )
    printed = capsys.readouterr().out
    names = [*class_attribution.METHODS, "Llama-2-7b, DataInf"]
    found = re.findall(r"^ ?(\S.*?)  +(\S+) \[(\S+), (\S+)\]  +(\S+) \[(\S+), (\S+)\]", printed, re.MULTILINE)
    rows = {name: [float(number) for number in numbers] for name, *numbers in found}
    assert sorted(rows) == sorted(names)
    for numbers in rows.values():
        assert all(0 <= low <= mean <= high <= 1 for mean, low, high in (numbers[:3], numbers[3:]))
    assert rows["Llama-2-7b, DataInf"] == [0] * 6
    assert "of 20 training" in printed
    assert "of 10 test prompts" in printed
    assert printed.endswith("chance: accuracy and cover 0.500; cover of the first 10 proponents\n")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
