import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

import attrstore
from attrstore.cli.demo import demo_command
from attrstore.demo import run, train
from attrstore.demo.words import RELATIONS
from attrstore.demo.world import FILES, World, generate

TINY = train.Training(steps=6, batch=32, dim=32, layers=1, vocabulary=400, report_every=3)


@pytest.fixture(scope="module")
def world() -> World:
    return generate(0)


@pytest.fixture(scope="module")
def rows(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("world")
    world.write(folder)
    return {name: [json.loads(line) for line in (folder / name).open(encoding="utf-8")] for name in FILES}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[train.Progress]]:
    """A folder with a corner of the world and a model that saw it for a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    generate(0).write(folder)
    for name, kept in (("corpus.jsonl", 300), ("queries.jsonl", 20)):
        lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:kept]), encoding="utf-8")
    reports: list[train.Progress] = []
    tiny_training(folder, folder / "model", report=reports.append)
    return folder, reports


def tiny_training(folder: Path, out: Path, **options: Any) -> None:
    train.train(folder / "corpus.jsonl", folder / "queries.jsonl", out, recipe=TINY, **options)


def digest(folder: Path, seed: int) -> list[str]:
    folder.mkdir()
    generate(seed).write(folder)
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = digest(tmp_path / "a", 0)
    assert digest(tmp_path / "b", 0) == first
    assert not set(digest(tmp_path / "c", 1)) & set(first)


def test_columns_and_ids(rows: dict[str, list[dict[str, Any]]]) -> None:
    corpus, queries, labels = (rows[name] for name in FILES)
    assert list(corpus[0]) == ["id", "text", "source", "relation", "subject", "object"]
    assert list(queries[0]) == ["id", "prompt", "target", "relation", "subject", "object", "frequency"]
    assert list(labels[0]) == ["query_id", "example_id", "label"]
    assert corpus[0]["id"] == "doc-0001"
    assert queries[0]["id"] == "q-001"
    for table in (corpus, queries):
        assert len({row["id"] for row in table}) == len(table)
    assert len({row["text"] for row in corpus}) == len(corpus)
    assert 200 <= len(queries) <= 300
    assert {row["label"] for row in labels} == {1}


def test_a_fact_of_frequency_n_has_n_labelled_examples(rows: dict[str, list[dict[str, Any]]]) -> None:
    counted = Counter(row["query_id"] for row in rows["labels.jsonl"])
    assert counted == {row["id"]: row["frequency"] for row in rows["queries.jsonl"]}
    assert set(counted.values()) == set(range(1, 9))


def test_labelled_examples_are_those_that_state_the_fact(rows: dict[str, list[dict[str, Any]]]) -> None:
    examples = {row["id"]: row for row in rows["corpus.jsonl"]}
    queries = {row["id"]: row for row in rows["queries.jsonl"]}
    wordings = {r.name: (*r.statements, r.reversed_statement) for r in RELATIONS}
    labelled = set()
    for label in rows["labels.jsonl"]:
        example, query = examples[label["example_id"]], queries[label["query_id"]]
        labelled.add(example["id"])
        for key in ("relation", "subject", "object"):
            assert example[key] == query[key]
        said = [w.format(s=query["subject"], o=query["object"]) for w in wordings[query["relation"]]]
        assert any(text[1:] in example["text"] for text in said)  # the first letter may be a capital
    for example in examples.values():
        assert (example["id"] in labelled) == (example["source"] == "facts")


def test_distractors_share_names_and_state_no_fact(rows: dict[str, list[dict[str, Any]]]) -> None:
    corpus, queries = rows["corpus.jsonl"], rows["queries.jsonl"]
    wordings = {r.name: (*r.statements, r.reversed_statement) for r in RELATIONS}
    stated = [
        wording.format(s=query["subject"], o=query["object"])[1:]
        for query in queries
        for wording in wordings[query["relation"]]
    ]
    mentions = [row for row in corpus if row["source"] == "mentions"]
    asides = [row for row in corpus if row["source"] == "asides"]
    assert len(mentions) > 100
    assert len(asides) > 100
    for row in (*mentions, *asides):
        assert row["subject"] in row["text"]
        assert not any(text in row["text"] for text in stated)
    for row in mentions:
        assert row["object"] in row["text"]


def test_names_and_objects_are_shared_between_facts(world: World) -> None:
    relations_of = Counter(fact.subject for fact in world.facts)
    subjects_of = Counter(fact.object for fact in world.facts)
    assert sum(n > 1 for n in relations_of.values()) > 40  # the same subject, another relation
    assert sum(n > 1 for n in subjects_of.values()) > 40  # the same object, another subject
    assert len({(f.relation.name, f.subject) for f in world.facts}) == len(world.facts)  # one answer each
    assert len({(f.subject, f.object) for f in world.facts}) == len(world.facts)


def test_no_sentence_about_the_fact_holds_its_prompt(rows: dict[str, list[dict[str, Any]]]) -> None:
    texts = [row["text"] for row in rows["corpus.jsonl"]]
    for query in rows["queries.jsonl"]:
        assert not any(query["prompt"][1:] + query["target"] in text for text in texts)


def test_a_short_training_saves_a_checkpoint_that_loads(trained: tuple[Path, list[train.Progress]]) -> None:
    folder, reports = trained
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert [report.step for report in reports] == [3, 6]
    assert reports[1].loss < reports[0].loss < 7
    assert (folder / "model" / "model.safetensors").is_file()
    text = "Fadun lies in the south of Velinvia, Straße 東."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(torch.load(folder / "model" / "optimizer.pt", weights_only=True))
    for parameter in model.parameters():
        second = optimizer.state[parameter]["exp_avg_sq"]
        assert second.shape == parameter.shape
        assert optimizer.state[parameter]["step"] == 6
        assert second.min() >= 0
        assert second.max() > 0


def test_prompt_and_target_tokens_are_the_tokens_of_the_sentence(
    trained: tuple[Path, list[train.Progress]], rows: dict[str, list[dict[str, Any]]]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained[0] / "model")
    for query in rows["queries.jsonl"]:
        apart = tokenizer(query["prompt"])["input_ids"] + tokenizer(query["target"])["input_ids"]
        assert apart == tokenizer(query["prompt"] + query["target"])["input_ids"]


def test_no_sentence_is_longer_than_the_context(
    trained: tuple[Path, list[train.Progress]], rows: dict[str, list[dict[str, Any]]]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained[0] / "model")
    assert max(len(tokenizer(row["text"])["input_ids"]) for row in rows["corpus.jsonl"]) <= train.CONTEXT


def test_training_is_the_same_for_a_seed(trained: tuple[Path, list[train.Progress]], tmp_path: Path) -> None:
    folder, _ = trained
    weights = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        tiny_training(folder, out, seed=seed)
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == (folder / "model" / "model.safetensors").read_bytes()
    assert weights[0] != weights[1]


def test_recall_counts_whole_targets(trained: tuple[Path, list[train.Progress]]) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained[0] / "model")
    prompt = [50, 51, 52]
    answer: list[int] = []
    for _ in range(2):  # greedy, one token at a time
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits
        answer.append(int(logits[0, -1].argmax()))
    wrong = [answer[0], (answer[1] + 1) % 400]
    assert train.recall(model, [(prompt, answer)]) == 1
    assert train.recall(model, [(prompt, answer), (prompt, wrong)]) == 0.5


def test_a_folder_that_is_not_empty_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "corpus.jsonl").write_text("mine too")
    with pytest.raises(attrstore.InputError, match=r"not empty\. --force"):
        run.run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "notes.txt"]
    assert (tmp_path / "corpus.jsonl").read_text() == "mine too"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(attrstore.InputError, match="a file, not a folder"):
        run.run(tmp_path / "demo", force=True)
    assert (tmp_path / "demo").read_text() == "mine"


def test_help_shows_an_example() -> None:
    shown = CliRunner().invoke(demo_command, ["--help"])
    assert shown.exit_code == 0
    assert "Example: attrstore demo" in shown.output
