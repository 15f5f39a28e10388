"""Parts of a score against gradients that torch.func computed, and against each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.func import functional_call, grad

import attrstore
from attrstore.cli import main
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.model import linear
from attrstore.scoring import score
from attrstore.workflows.explain import Explanation, explain
from tests import tiny

METHODS = ("dot", "cosine", "cosine-block", "trackstar", "influence", "cg")
# Of a curvature of twelve texts, nearly singular: with less, terms a thousand times the score cancel, and what float16
# rounds of them is percents of it.
DAMPED: Any = {"damping": 1.0}
PROMPT, TARGET = "a b c", " stone river d"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with scorings, beside its model; no side of a matrix is projected, so gradients are whole."""
    folder = tmp_path_factory.mktemp("explained")
    tiny.checkpoint(folder / "model")
    with attrstore.open(folder / "store.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(12, seed=3), [(PROMPT, TARGET), ("e", " f")], [(0, 2)])
        ingest_gradients(store, model=folder / "model", code="fp16", projection_dim=32)
        for method in METHODS:
            score(store, method, top_k=4, **(DAMPED if method in ("trackstar", "influence") else {}))
    return folder


@pytest.fixture
def copied(made: Path, path: Path) -> Path:
    shutil.copy(made / "store.duckdb", path)
    return path


def one(path: Path, scoring: str, example: str = "e-2", **options: Any) -> Explanation:
    with attrstore.open(path, writable=True) as store:
        (found,) = explain(store, "q-0", [example], scoring=scoring, **options)
    return found


def gradient(model: Any, tokens: list[int], places: list[int]) -> dict[str, Tensor]:
    """Of the loss summed over the tokens at these places: each map's weight, float64."""
    double = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        logits = functional_call(model, parameters, (torch.tensor([tokens]),), tie_weights=False).logits[0]
        chosen = logits.log_softmax(dim=-1)[
            [place - 1 for place in places], [tokens[place] for place in places]
        ]
        total: Tensor = chosen.sum()
        return -total

    gradients = grad(loss)(double)
    return {m.name: gradients[f"{m.name}.weight"] for m in linear.find(model)}


def by_position(model: Any, tokens: list[int], directions: dict[str, Tensor]) -> Tensor:
    """How the loss changes when each position's weights, and no other's, move along the directions: [T]."""
    step = torch.zeros(len(tokens), dtype=torch.float64, requires_grad=True)

    def hook_of(direction: Tensor) -> Any:
        return lambda _, inputs, output: output + step.unsqueeze(1) * (inputs[0] @ direction.T)

    handles = [m.module.register_forward_hook(hook_of(directions[m.name])) for m in linear.find(model)]
    logits = model(torch.tensor([tokens])).logits[0]
    loss = -logits.log_softmax(dim=-1)[range(len(tokens) - 1), tokens[1:]].sum()
    for handle in handles:
        handle.remove()
    (moved,) = torch.autograd.grad(loss, step)
    assert isinstance(moved, Tensor)
    return moved


def product(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(sum((one[name] * other[name]).sum() for name in one))


def test_parts_of_an_inner_product_are_those_of_torch_func(copied: Path) -> None:
    found = one(copied, "dot")
    model, tokenizer = tiny.model().double(), tiny.tokenizer()
    with attrstore.open(copied) as store:
        text = store.value("SELECT text FROM examples WHERE example_id = 2")
    query, example = tokenizer(PROMPT + TARGET)["input_ids"], tokenizer(text)["input_ids"]
    of_query = gradient(model, query, [3, 4, 5])
    of_example = gradient(model, example, list(range(1, len(example))))
    whole = product(of_query, of_example)
    assert found.score == pytest.approx(whole, rel=1e-5)
    assert [token.token for token in found.target] == ["stone", "river", "d"]
    scale = sum(abs(part) for _, part in found.blocks)
    wanted = [product(gradient(model, query, [place]), of_example) for place in (3, 4, 5)]
    assert [token.part for token in found.target] == pytest.approx(wanted, abs=1e-5 * scale)
    wanted = [float((of_query[name] * of_example[name]).sum()) for name in of_query]
    assert [part for _, part in found.blocks] == pytest.approx(wanted, abs=1e-5 * scale)
    wanted = by_position(model, example, of_query).tolist()
    assert [token.part for token in found.tokens] == pytest.approx(wanted, abs=1e-5 * scale)
    assert [text[token.start or 0 :].split()[0] for token in found.tokens] == text.split()
    assert [token.token for token in found.tokens] == text.split()


@pytest.mark.parametrize("method", [method for method in METHODS if method != "cg"])
def test_parts_sum_to_the_score_that_was_ranked(copied: Path, method: str) -> None:
    found = one(copied, method)
    size = sum(abs(part) for _, part in found.blocks)
    for parts in (
        [t.part for t in found.tokens],
        [t.part for t in found.target],
        [p for _, p in found.blocks],
    ):
        assert sum(parts) == pytest.approx(found.score, abs=1e-5 * size)
    assert found.source == "model"
    assert found.score == pytest.approx(found.stored_score, abs=3e-3 * size)  # the code is float16


def test_without_the_model_blocks_come_from_the_codes(copied: Path, made: Path) -> None:
    with attrstore.open(copied, writable=True) as store:
        store.execute("UPDATE models SET path = '/gone'")
    found = one(copied, "trackstar")
    assert (found.source, found.tokens, found.target) == ("codes", (), ())
    assert sum(part for _, part in found.blocks) == pytest.approx(found.stored_score, rel=1e-4)
    again = one(copied, "trackstar", model=made / "model")
    size = sum(abs(part) for _, part in again.blocks)
    assert [p for _, p in found.blocks] == pytest.approx([p for _, p in again.blocks], abs=3e-3 * size)


def test_parts_are_kept_once_and_shown_as_shares(copied: Path) -> None:
    one(copied, "cosine-block")
    found = one(copied, "cosine-block")
    with attrstore.open(copied) as store:
        rows = store.rows("SELECT token, part FROM token_influence WHERE side = 'example' ORDER BY position")
        assert rows == [(token.token, token.part) for token in found.tokens]
        sizes = "SELECT side, sum(abs(share)), bool_and(label > 0) FROM token_influence GROUP BY side ORDER BY side"
        assert store.rows(sizes) == [("example", pytest.approx(1), True), ("target", pytest.approx(1), True)]
        assert store.rows("SELECT block, part, source FROM block_influence ORDER BY position") == [
            (*block, "model") for block in found.blocks
        ]


def test_each_pair_keeps_its_own_parts(copied: Path) -> None:
    count = (
        "SELECT example, count(*) FROM {} WHERE example IN ('e-2', 'e-3') GROUP BY example ORDER BY example"
    )
    one(copied, "cosine-block")
    other = one(copied, "cosine-block", "e-3")
    again = one(copied, "cosine-block")
    with attrstore.open(copied) as store:
        assert store.rows(count.format("block_influence")) == [
            ("e-2", len(again.blocks)), ("e-3", len(other.blocks))]  # fmt: skip
        tokens = [
            (name, len(found.tokens) + len(found.target)) for name, found in (("e-2", again), ("e-3", other))
        ]
        assert store.rows(count.format("token_influence")) == tokens


def test_shares_are_of_the_sizes_of_all_parts_and_none_where_nothing_counts(copied: Path) -> None:
    parts = {"e-2": (0.25, -0.75), "e-3": (0.0, 0.0), "e-4": (3.0, -1.0)}
    of = "FROM scorings, examples WHERE name = 'dot' AND external_id = $example"
    with attrstore.open(copied, writable=True) as store:
        for example, both in parts.items():
            for place, part in enumerate(both, start=1):
                given = {"example": example, "place": place, "part": part}
                for table, rest in (
                    ("token_parts", "'example', $place, 0, 't'"),
                    ("block_parts", "'codes', $place, 'b'"),
                ):
                    store.execute(
                        f"INSERT INTO {table} SELECT scoring_id, 0, example_id, {rest}, $part {of}", given
                    )
        shares = [("e-2", 0.25), ("e-2", -0.75), ("e-3", None), ("e-3", None), ("e-4", 0.75), ("e-4", -0.25)]
        for view in ("token_influence", "block_influence"):
            assert store.rows(f"SELECT example, share FROM {view} ORDER BY example, position") == shares


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["q-9"], "no query is called 'q-9'"),
        (["q-0", "e-99"], "no example is called 'e-99'"),
        (["q-0", "--scoring", "nonsense"], "no scoring is called nonsense; there are"),
        (["q-0", "--scoring", "cg"], "--scoring cg: made by cg, whose scores are not sums"),
    ],
)
def test_what_cannot_be_explained_is_refused(copied: Path, arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["explain", str(copied), *arguments])
    assert result.exit_code == 2
    assert says in result.output


def test_the_command_explains_the_strongest_proponents(copied: Path) -> None:
    result = CliRunner().invoke(
        main, ["explain", str(copied), "q-0", "--scoring", "cosine-block", "--top", "3"]
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("from the model") == 3
    with attrstore.open(copied) as store:
        ranked = store.rows(
            "SELECT example FROM influence WHERE scoring = 'cosine-block' AND query = 'q-0' AND rank BETWEEN 1 AND 3"
        )
        assert set(store.rows("SELECT DISTINCT example FROM token_influence")) == set(ranked)


def test_the_parts_for_programs_are_those_of_the_explanation(copied: Path) -> None:
    command = ["explain", str(copied), "q-0", "e-2", "--scoring", "dot", "--format", "jsonl"]
    done = CliRunner().invoke(main, command)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    found = one(copied, "dot")
    assert {(row["query"], row["example"], row["scoring"], row["source"]) for row in rows} == {
        ("q-0", "e-2", "dot", "model")
    }
    assert [row["name"] for row in rows if row["of"] == "target"] == [token.token for token in found.target]
    for of in ("example", "target", "block"):
        assert sum(row["part"] for row in rows if row["of"] == of) == pytest.approx(found.score, rel=1e-5)


def test_a_scoring_made_again_has_no_parts_of_the_one_before(copied: Path) -> None:
    one(copied, "dot")
    one(copied, "cosine")
    with attrstore.open(copied, writable=True) as store:
        score(store, "dot", top_k=4)
        for table in ("token_parts", "block_parts"):
            left = store.rows(f"SELECT DISTINCT name FROM {table} LEFT JOIN scorings USING (scoring_id)")
            assert left == [("cosine",)]
