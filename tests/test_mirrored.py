"""Mirrored influence: scores against a step taken by hand and against gradients, all in float64."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner

import attrstore
from attrstore.cli import main
from attrstore.errors import InputError, MismatchError
from attrstore.ingest.encode.embeddings import ingest_embeddings
from attrstore.ingest.measure.mirrored import Mirror
from attrstore.ingest.model import sequences
from attrstore.ingest.model.optimizer import Full, parameter_moments
from attrstore.scoring import score
from tests import tiny

if TYPE_CHECKING:
    from attrstore.store import Store

TEXTS = ["a b c", "a b c d", "e f g", "p q", "c b a", "a b", *tiny.sentences(14, seed=5)]
QUERIES = [("a b", " c"), ("e", " f g"), ("p", " q"), ("", " a b")]


def target_loss(model: Any, prompt: str, target: str) -> torch.Tensor:
    """Mean loss of the target's tokens; of a text's own where the prompt is empty, all but the first."""
    tokens = torch.tensor([[tiny.WORDS.index(word) for word in (prompt + target).split()]])
    first = max(1, len(prompt.split()))
    logprobs = model(input_ids=tokens).logits[0, first - 1 : -1].log_softmax(dim=1)
    loss: torch.Tensor = -logprobs.gather(1, tokens[0, first:, None]).mean()
    return loss


def gradient(model: Any, prompt: str, target: str) -> dict[str, torch.Tensor]:
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(
        target_loss(model, prompt, target), list(parameters.values()), allow_unused=True
    )
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(parameters.items(), found, strict=True)
    }


def changes_by_hand(
    model: Any, query: tuple[str, str], learning_rate: float, scales: dict[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Each text's mean loss after a descent step on the query, minus before: [texts]."""
    moved = copy.deepcopy(model)
    direction = gradient(model, *query)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            if scales is None or name in scales:
                parameter -= learning_rate * direction[name] * (1 if scales is None else scales[name])
        return torch.stack([target_loss(moved, "", t) - target_loss(model, "", t) for t in TEXTS])


def double(architecture: str = "llama") -> Any:
    return tiny.model(architecture).double()


def measured(
    model: Any, learning_rate: float, moments: Any = None, loss: str = "mean", budget: int = 40
) -> torch.Tensor:
    """As the job does it: [queries, texts], in the order of the texts."""
    tokenizer = tiny.tokenizer()
    queries = sequences.queries([(i, p, t) for i, (p, t) in enumerate(QUERIES)], tokenizer, 32)
    examples = sequences.examples(enumerate(TEXTS), tokenizer, 32, "truncate")
    model = model.requires_grad_(False)
    ids, changes = Mirror(model, learning_rate, moments)(
        queries, list(sequences.batches(examples, budget)), loss
    )
    assert sorted(ids.tolist()) == list(range(len(TEXTS)))
    in_order: torch.Tensor = changes[:, ids.argsort()]
    return in_order


# Not Llama: its norm computes in float32 whatever the model's type, and so small a step drowns in the rounding.
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_a_tiny_step_measures_the_product_of_gradients(architecture: str) -> None:
    found = measured(double(architecture), -1e-7) / 1e-7
    model = double(architecture)
    asked = [gradient(model, p, t) for p, t in QUERIES]
    for column, text in enumerate(TEXTS):
        own = gradient(model, "", text)
        for row, query in enumerate(asked):
            product = sum(float((query[name] * own[name]).sum()) for name in own)
            assert float(found[row, column]) == pytest.approx(product, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("learning_rate", [0.1, -0.1])
def test_a_step_of_any_size_equals_one_by_hand(learning_rate: float) -> None:
    expected = torch.stack([changes_by_hand(double(), query, learning_rate) for query in QUERIES])
    assert float(expected.abs().max()) > 0.1  # far from first order
    found = measured(double(), learning_rate)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)  # OneStep takes its gradient in float32
    assert torch.allclose(measured(double(), learning_rate, budget=1), found, rtol=1e-9, atol=1e-12)
    lengths = torch.tensor([len(text.split()) - 1 for text in TEXTS])
    sums = measured(double(), learning_rate, loss="sum")
    assert torch.allclose(sums, found * lengths, rtol=1e-12, atol=1e-12)


def test_an_adam_step_divides_by_the_second_moment(tmp_path: Path) -> None:
    saved = parameter_moments(tiny.adam_state(tmp_path), tiny.model())
    moments = {name: Full(moment.values) for name, moment in saved.items()}
    scales = {name: 1 / (moment.values.double().sqrt() + 1e-8) for name, moment in moments.items()}
    expected = torch.stack([changes_by_hand(double(), query, 1e-4, scales) for query in QUERIES])
    found = measured(double(), 1e-4, moments)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, measured(double(), 1e-4), rtol=1e-1, atol=1e-6)


def test_the_model_is_not_touched() -> None:
    model = double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured(model, 0.1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def scores(store: Store, name: str = "mirrored") -> list[tuple[Any, ...]]:
    return store.rows(
        "SELECT query_id, rank, example_id, score FROM scores JOIN scorings USING (scoring_id) WHERE name = $n "
        "ORDER BY query_id, rank",
        {"n": name},
    )


@pytest.mark.parametrize(("step", "sign"), [("ascent", 1), ("descent", -1)])
def test_ranking_with_its_signs(store: Store, tmp_path: Path, step: str, sign: int) -> None:
    """The text that is the query leads, whichever way the step goes; labels have exact ranks."""
    tiny.fill(store, TEXTS, QUERIES, labels=[(0, i) for i in range(len(TEXTS))])
    folder = tiny.checkpoint(tmp_path / "model")
    score(store, "mirrored", model=folder, step=step, learning_rate=0.03, top_k=len(TEXTS))
    found = scores(store)
    assert [(q, r) for q, r, _, _ in found] == [(q, r) for q in range(4) for r in range(1, len(TEXTS) + 1)]
    for row, query in enumerate(QUERIES):
        expected = sign * changes_by_hand(double(), query, -sign * 0.03)
        own = [(example, value) for q, _, example, value in found if q == row]
        for example, value in own:
            assert value == pytest.approx(float(expected[example]), rel=1e-3, abs=1e-5)
        assert [value for _, value in own] == sorted((value for _, value in own), reverse=True)
    assert [example for q, rank, example, _ in found if (q, rank) == (2, 1)] == [3]  # "p q", and nothing else
    score(store, "mirrored", step=step, learning_rate=0.03, top_k=2, name="short")
    kept = scores(store, "short")
    assert [r for q, r, _, _ in kept if q == 1] == [-2, -1, 1, 2]
    of_labelled = {example: rank for q, rank, example, _ in kept if q == 0}
    assert of_labelled == {
        example: rank if rank <= len(TEXTS) - 2 else rank - len(TEXTS) - 1
        for q, rank, example, _ in found
        if q == 0
    }


def test_queries_and_where_limit_the_work(store: Store, tmp_path: Path) -> None:
    tiny.fill(store, [*TEXTS, "a"], [QUERIES[0], ("a b", ""), *QUERIES[1:]])
    passes: list[tuple[int, int]] = []
    scoring = score(
        store, "mirrored", model=tiny.checkpoint(tmp_path / "model"), queries=3, where="example_id < 4 OR text = 'a'",
        progress=lambda done, total: passes.append((done, total)),
    )  # fmt: skip
    # Four texts have a token to predict, and two of the three queries a target: one pass before, two after.
    assert passes[-1] == (12, 12)
    assert scoring.n_examples == 4
    assert {(q, e) for q, _, e, _ in scores(store)} == {(q, e) for q in (0, 2) for e in range(4)}
    assert store.rows("SELECT query_id FROM scoring_queries ORDER BY ALL") == [(0,), (2,)]
    assert scoring.spec["queries"] == 3
    assert scoring.spec["learning_rate"] == 1e-3
    assert scoring.spec["optimizer_state"] is None


def test_what_is_not_finite_is_left_out(store: Store, tmp_path: Path) -> None:
    broken = tiny.model()
    with torch.no_grad():
        broken.get_input_embeddings().weight[tiny.WORDS.index("p")] = float("nan")
    broken.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    tiny.fill(store, TEXTS, QUERIES)
    score(store, "mirrored", model=tmp_path / "model")
    assert store.rows("SELECT query_id FROM scoring_queries ORDER BY ALL") == [(0,), (1,), (3,)]
    seen = {example for _, _, example, _ in scores(store)}
    # A p that ends a text is read by nobody.
    assert seen == {i for i, text in enumerate(TEXTS) if "p" not in text.split()[:-1]}
    assert 3 not in seen
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="no loss is finite"):
        score(store, "mirrored", model=tmp_path / "model", name="other")
    assert store.rows("SELECT name FROM scorings") == [("mirrored",)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": "sideways"}, "step sideways: there is no such choice; there are ascent, descent"),
        ({"loss": "max"}, "loss max"),
        ({"learning_rate": 0.0}, "learning_rate 0"),
        ({"queries": 0}, "queries 0"),
        ({"model": "nowhere"}, "nowhere: no such folder"),
        ({"model": None}, r"which model\? Give model PATH"),
        ({"optimizer_state": "x.pt"}, "x.pt: no such file"),
        ({"norm": "block"}, "mirrored takes no norm"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    store: Store, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    given = {"model": tiny.checkpoint(tmp_path / "model"), **options}
    with pytest.raises(InputError, match=message):
        score(store, "mirrored", **given)
    assert not store.rows("FROM scorings")
    assert not store.rows("FROM models")


def test_another_model_at_the_known_path_is_refused(store: Store, tmp_path: Path) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    folder = tiny.checkpoint(tmp_path / "model")
    score(store, "mirrored", model=folder)
    before = scores(store)
    tiny.checkpoint(folder, seed=1)
    with pytest.raises(MismatchError, match=r"fingerprint [0-9a-f]{16} now, and the store's model had"):
        score(store, "mirrored")
    assert scores(store) == before


def test_an_embedding_model_is_not_the_store_s_model(store: Store, tmp_path: Path) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    ingest_embeddings(store, model=tiny.checkpoint(tmp_path / "embedder", seed=1))
    folder = tiny.checkpoint(tmp_path / "model")
    score(store, "mirrored", model=folder)
    before = scores(store)
    score(store, "mirrored")
    assert scores(store) == before


def test_command(store: Store, path: Path, tmp_path: Path) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    store.close()
    state = tiny.adam_state(tiny.checkpoint(tmp_path / "model"))
    command = ["score", str(path), "mirrored", "--model", str(state.parent), "--optimizer-state", str(state)]
    result = CliRunner().invoke(main, [*command, "--queries", "2", "--loss", "sum"])
    assert result.exit_code == 0, result.output
    ranked = f"mirrored: 20 of {len(TEXTS)} examples ranked for 2 of {len(QUERIES)} queries."
    assert result.stdout.startswith(ranked)
    assert "40 pairs kept; model " in result.stdout
    with attrstore.open(path) as reopened:
        spec = json.loads(reopened.value("SELECT spec FROM scorings"))
    assert spec["learning_rate"] == 1e-6
    assert spec["step"] == "ascent"
    assert spec["loss"] == "sum"
    assert len(spec["optimizer_state"]) == 16
