"""What is no plain text: recognised, kept, rendered as TRL renders it, with loss where TRL puts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, vmap

import attrstore
from attrstore import InputError, Store
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.files.corpus import ingest_corpus
from attrstore.ingest.files.queries import ingest_queries
from attrstore.ingest.model import sequences
from attrstore.ingest.model.rendering import Rendering
from tests import chats, tiny
from tests.chats import turns

CHAT: dict[str, Any] = {"messages": turns("a b", "c d e", "f", "g h")}
COMPLETION: dict[str, Any] = {"prompt": "a b c", "completion": " d e"}
CHAT_COMPLETION: dict[str, Any] = {
    "prompt": turns("a b"),
    "completion": [{"role": "assistant", "content": "c d"}],
}
TOKENS: dict[str, Any] = {"text": "a b c d", "input_ids": [2, 3, 4, 5], "labels": [-100, -100, 4, 5]}


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> list[Path]:
    file = folder / name
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return [file]


def test_shapes_are_recognised_kept_and_readable(store: Store, tmp_path: Path) -> None:
    rows = [
        {"id": "text", "text": "a b", "prompt": "kept as metadata"},
        {"id": "chat", **CHAT, "topic": 1},
        {"id": "completion", **COMPLETION, "source": "here"},
        {"id": "chat completion", **CHAT_COMPLETION},
        {"id": "tokens", "text": "a b", "input_ids": [2, 3], "loss_mask": [0, 1]},
    ]
    counts = ingest_corpus(store, written(tmp_path, "c.jsonl", rows))
    assert counts.shapes == {"text": 1, "messages": 1, "completion": 1, "chat completion": 1, "tokens": 1}
    assert store.rows(
        "SELECT external_id, text, source, metadata::VARCHAR FROM examples ORDER BY example_id"
    ) == [
        ("text", "a b", None, '{"prompt":"kept as metadata"}'),
        ("chat", "a b\nc d e\nf\ng h", None, '{"topic":1}'),
        ("completion", "a b c d e", "here", None),
        ("chat completion", "a b\nc d", None, None),
        ("tokens", "a b", None, None),
    ]
    originals = store.rows("SELECT shape, original FROM example_originals ORDER BY example_id")
    assert [(shape, json.loads(original)) for shape, original in originals] == [
        ("messages", CHAT),
        ("completion", COMPLETION),
        ("chat completion", CHAT_COMPLETION),
        ("tokens", {"input_ids": [2, 3], "loss_mask": [0, 1]}),
    ]
    assert ingest_corpus(store, written(tmp_path, "c.jsonl", rows)).unchanged == 5


def test_another_role_is_another_example(store: Store, tmp_path: Path) -> None:
    ingest_corpus(store, written(tmp_path, "c.jsonl", [{"id": "x", "messages": turns("a", "b")}]))
    other = [{"id": "x", "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}]
    with pytest.raises(InputError, match="line 1: the text of 'x' differs"):
        ingest_corpus(store, written(tmp_path, "c.jsonl", other))
    assert ingest_corpus(store, written(tmp_path, "c.jsonl", other), replace=True).replaced == 1
    assert (
        json.loads(store.value("SELECT original FROM example_originals"))["messages"] == other[0]["messages"]
    )


def test_queries_may_be_chats(store: Store, tmp_path: Path) -> None:
    rows = [{"id": "chat", **CHAT}, {"id": "completion", **COMPLETION}, {"id": "both", **CHAT_COMPLETION}]
    long = turns("a", "b", "c", "d", "e", "f")
    rows.append({"id": "long", "prompt": long[:3], "completion": long[3:]})
    ingest_queries(store, written(tmp_path, "q.jsonl", rows))
    assert store.rows("SELECT prompt, target FROM queries ORDER BY query_id") == [
        ("a b\nc d e\nf", "g h"),
        ("a b c", " d e"),
        ("a b", "c d"),
        ("a\nb\nc\nd\ne", "f"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user"}]}, "every turn needs a role and a content"),
        ({"messages": [{"role": "user", "content": ["parts"]}]}, "every turn needs a role and a content"),
        ({"messages": []}, "every turn needs"),
        ({"input_ids": [1, 2]}, "input_ids without a text"),
        ({"text": "a", "input_ids": [1, -2]}, "not all are token ids"),
        ({"text": "a", "input_ids": [1, 2], "labels": [1]}, "one entry for each"),
        (
            {"text": "a", "input_ids": [1, 2], "completion_mask": [0, 1]},
            "rename the one that was trained by to",
        ),
        (
            {"text": "a", "input_ids": [1, 2], "assistant_masks": [0, 1]},
            "rename the one that was trained by to",
        ),
        ({"prompt": "a"}, "no 'text'"),
    ],
)
def test_a_malformed_shape_is_named(store: Store, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    rows = [{"id": "fine", "text": "a b"}, {"id": "x", **row}]
    with pytest.raises(InputError, match=rf"c\.jsonl, line 2: .*{message}"):
        ingest_corpus(store, written(tmp_path, "c.jsonl", rows))
    assert store.value("SELECT count(*) FROM examples") == 0


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": turns("a"), "completion": [{"role": "assistant"}]},
        {"prompt": [{"role": "user"}], "completion": turns("a", "b")[1:]},
    ],
)
def test_either_half_of_a_querys_chat_has_whole_turns(
    store: Store, tmp_path: Path, row: dict[str, Any]
) -> None:
    rows = [{"id": "fine", **CHAT_COMPLETION}, {"id": "x", **row}]
    with pytest.raises(
        InputError, match="line 2: messages: every turn needs a role and a content, both texts"
    ):
        ingest_queries(store, written(tmp_path, "q.jsonl", rows))


def test_a_query_chat_ends_with_the_assistant(store: Store, tmp_path: Path) -> None:
    rows = [{"id": "x", "messages": turns("a", "b", "c")}]
    with pytest.raises(InputError, match="the last turn is not the assistant's, so there is no target"):
        ingest_queries(store, written(tmp_path, "q.jsonl", rows))


TRAINED = [  # rows of one data set, SFTTrainer's settings, our loss, the template
    ([CHAT, {"messages": turns("n", "o p")}], {"assistant_only_loss": True}, "auto", chats.MARKED),
    ([CHAT, {"messages": turns("n", "o p")}], {}, "all", chats.PLAIN),
    ([CHAT_COMPLETION], {}, "auto", chats.PLAIN),
    ([CHAT_COMPLETION], {"completion_only_loss": False}, "all", chats.PLAIN),
    ([CHAT_COMPLETION], {"completion_only_loss": False, "assistant_only_loss": True}, "assistant", chats.MARKED),
    ([COMPLETION, {"prompt": "a", "completion": " b"}], {}, "auto", None),
    ([COMPLETION], {"completion_only_loss": False}, "all", None),
    # SFTTrainer ends a text with the end token, which stands in the text where it is to count.
    ([{"text": "a b c </s>"}, {"text": "d e </s>"}], {}, "auto", None),
    ([TOKENS, {"text": "d e f", "input_ids": [5, 6, 7], "labels": [-100, 6, -100]}], {}, "auto", None),
    ([{"text": "a b", "input_ids": [2, 3, 35, 4, 5, 35]}], {}, "auto", None),  # packed
]  # fmt: skip


def collated(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], tokenizer: Any
) -> dict[str, torch.Tensor]:
    """The batch that SFTTrainer makes of a data set."""
    trl = pytest.importorskip("trl", reason="TRL is the oracle: pip install trl")
    from datasets import Dataset

    trainer = trl.SFTTrainer(
        tiny.model(),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[], bf16=False, **settings
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch: dict[str, torch.Tensor] = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    return batch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("rows", "settings", "loss", "template"), TRAINED)
def test_tokens_and_labels_are_those_that_trl_trains_on(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], loss: str, template: str | None
) -> None:
    tokenizer = chats.tokenizer(template)
    batch = collated(tmp_path, rows, settings, tokenizer)
    typed = [(i, row.get("text", ""), shape_of(row), json.dumps(row)) for i, row in enumerate(rows)]
    items = sequences.examples(typed, tokenizer, 32, "truncate", loss)
    (ours,) = sequences.batches(items, 10_000)
    order = torch.tensor([item.key for item in ours.items]).argsort()
    labels = batch["labels"].clone()
    labels[:, 0] = -100  # the first token is predicted by nothing, whatever its label
    assert ours.targets[order].tolist() == labels.tolist()
    real = batch["attention_mask"].bool()
    assert ours.tokens[order][real].tolist() == batch["input_ids"][real].tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("rows", "settings", "loss", "template"), TRAINED)
def test_gradients_are_those_of_the_loss_that_trl_trains_on(
    store: Store,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
    loss: str,
    template: str | None,
) -> None:
    """From the file to encodings, each against torch.func on TRL's own batch, example by example."""
    tokenizer = chats.tokenizer(template)
    batch = collated(tmp_path, rows, settings, tokenizer)
    ingest_corpus(store, written(tmp_path, "c.jsonl", [{"id": str(i), **row} for i, row in enumerate(rows)]))
    folder = tiny.checkpoint(tmp_path / "model")
    tokenizer.save_pretrained(folder)
    ingest_gradients(store, model=folder, projection_dim=64, code="fp16", loss=loss)
    model = tiny.model().double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    names = [block["name"] for block in json.loads(store.value("SELECT blocks FROM encoders"))]
    found = store.rows("SELECT code, scales, loss FROM encodings ORDER BY example_id")
    assert len(found) == len(rows)
    for i, (code, scales, nats) in enumerate(found):
        real = batch["attention_mask"][i].bool()
        sides = batch["input_ids"][i][real].tolist(), batch["labels"][i][real].tolist()
        wanted = gradient(model, parameters, *sides)
        directions = torch.frombuffer(bytearray(code), dtype=torch.float16).float()
        norms = torch.frombuffer(bytearray(scales), dtype=torch.bfloat16).float()
        sizes = [wanted[f"{name}.weight"].numel() for name in names]
        for name, part, norm in zip(names, directions.split(sizes), norms, strict=True):
            whole = wanted[f"{name}.weight"].flatten().float()
            assert float(norm) == pytest.approx(float(whole.norm()), rel=1e-2, abs=1e-6)
            # The attention of a single token has no gradient, and its rounding no direction.
            assert whole.norm() < 1e-6 or float(torch.cosine_similarity(part, whole, dim=0)) > 0.9999
        assert nats == pytest.approx(sum_of_losses(model, parameters, *sides), rel=1e-5)


def shape_of(row: dict[str, Any]) -> str | None:
    if "input_ids" in row:
        return "tokens"
    if "messages" in row:
        return "messages"
    if "text" in row:
        return None
    return "completion" if isinstance(row["prompt"], str) else "chat completion"


def test_gradients_are_of_the_marked_tokens_alone(store: Store, tmp_path: Path) -> None:
    """Against torch.func: the per-example gradient of the summed loss over the tokens that carry it."""
    rows: list[dict[str, Any]] = [
        {"id": "chat", **CHAT},
        {"id": "completion", **COMPLETION},
        {"id": "text", "text": "a b c d"},
        {"id": "tokens", "text": "a b c d", "input_ids": [2, 3, 4, 5], "labels": [-100, -100, 4, 5]},
    ]
    ingest_corpus(store, written(tmp_path, "c.jsonl", rows))
    ingest_queries(store, written(tmp_path, "q.jsonl", [{"id": "q", **CHAT}]))
    folder = tiny.checkpoint(tmp_path / "model")
    tokenizer = chats.tokenizer()
    tokenizer.save_pretrained(folder)
    ingest_gradients(store, model=folder, projection_dim=64, code="fp16")
    model = tiny.model().double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    blocks = json.loads(store.value("SELECT blocks FROM encoders"))
    rendered = "<|user|> a b <|end|> <|assistant|> c d e <|end|> <|user|> f <|end|> <|assistant|> g h <|end|>"
    chat = tokenizer.convert_tokens_to_ids(rendered.split())
    spoken = {5, 6, 7, 8, 13, 14, 15}
    by_hand = {
        "chat": [token if i in spoken else -100 for i, token in enumerate(chat)],
        "completion": [-100, -100, -100, 5, 6, 35],  # d e </s>
        "text": [-100, 3, 4, 5],
        "tokens": [-100, -100, 4, 5],
    }
    tokens = {"chat": chat, "completion": [2, 3, 4, 5, 6, 35], "text": [2, 3, 4, 5], "tokens": [2, 3, 4, 5]}
    for name, labels in by_hand.items():
        expected = gradient(model, parameters, tokens[name], labels)
        code, scales, loss = store.rows(
            "SELECT code, scales, loss FROM encodings JOIN examples USING (example_id) WHERE external_id = $n",
            {"n": name},
        )[0]
        norms = torch.frombuffer(bytearray(scales), dtype=torch.bfloat16).float()
        for block, norm in zip(blocks, norms, strict=True):
            direction = torch.frombuffer(bytearray(code), dtype=torch.float16).float()
            part = direction[block["offset"] : block["offset"] + block["length"]]
            wanted = expected[f"{block['name']}.weight"].flatten().float()
            assert float(norm) == pytest.approx(float(wanted.norm()), rel=1e-2)
            assert float(torch.cosine_similarity(part, wanted, dim=0)) > 0.9999
        assert loss == pytest.approx(sum_of_losses(model, parameters, tokens[name], labels), rel=1e-5)
    vector = store.value("SELECT vector FROM query_encodings")
    only_last = [token if i >= 13 else -100 for i, token in enumerate(chat)]
    flat = torch.cat(
        [gradient(model, parameters, chat, only_last)[f"{b['name']}.weight"].flatten() for b in blocks]
    )
    phi = torch.frombuffer(bytearray(vector), dtype=torch.float32)
    assert float(torch.cosine_similarity(phi, flat.float(), dim=0)) > 0.9999


def test_a_step_on_a_chat_is_on_the_marked_tokens_alone() -> None:
    """Tail-patch's step: the gradient of the mean loss over the seven tokens that the assistant says."""
    from attrstore.ingest.measure.one_step import OneStep

    tokenizer, model = chats.tokenizer(), tiny.model().requires_grad_(False)
    (item,) = sequences.examples([(0, "", "messages", json.dumps(CHAT))], tokenizer, 32, "truncate")
    step = OneStep(model, 1.0, None)
    assert step(item)
    parameters = {name: p.detach().double() for name, p in model.named_parameters()}
    expected = gradient(tiny.model().double(), parameters, item.windows[0], item.targets(0))
    moved = dict(step.copy.named_parameters())
    for name, base in parameters.items():
        direction = base - moved[name].double()
        assert torch.allclose(direction, expected[name] / 7, rtol=1e-3, atol=1e-6), name


def test_mirrored_steps_and_losses_are_on_the_marked_tokens_alone(store: Store, tmp_path: Path) -> None:
    """A step up on the answer of the query; the change of what the assistant says in the example, by hand."""
    from attrstore.scoring import score

    ingest_corpus(
        store, written(tmp_path, "c.jsonl", [{"id": "chat", **CHAT}, {"id": "other", **COMPLETION}])
    )
    ingest_queries(store, written(tmp_path, "q.jsonl", [{"id": "q", **CHAT}]))
    folder, tokenizer = tiny.checkpoint(tmp_path / "model"), chats.tokenizer()
    tokenizer.save_pretrained(folder)
    score(store, "mirrored", model=folder, step="ascent", learning_rate=0.03, top_k=2)
    (example,) = sequences.examples([(0, "", "messages", json.dumps(CHAT))], tokenizer, 32, "truncate")
    tokens, spoken = example.windows[0], example.targets(0)
    answer = [token if i >= 13 else -100 for i, token in enumerate(tokens)]
    assert (sum(t != -100 for t in spoken), sum(t != -100 for t in answer)) == (7, 3)
    model = tiny.model().double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    direction = gradient(model, parameters, tokens, answer)  # of the sum; the step is on the mean
    moved = {name: p + 0.03 * direction[name] / 3 for name, p in parameters.items()}
    change = sum_of_losses(model, moved, tokens, spoken) - sum_of_losses(model, parameters, tokens, spoken)
    found = store.value("SELECT score FROM influence WHERE example = 'chat'")
    assert found == pytest.approx(change / 7, rel=1e-3)


def sum_of_losses(model: Any, parameters: dict[str, Any], tokens: list[int], labels: list[int]) -> float:
    logits = functional_call(model, parameters, (torch.tensor([tokens]),)).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum"))


def gradient(model: Any, parameters: dict[str, Any], tokens: list[int], labels: list[int]) -> dict[str, Any]:
    def loss(parameters: dict[str, Any], tokens: Any, labels: Any) -> Any:
        logits = functional_call(model, parameters, (tokens.unsqueeze(0),)).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum")

    batch = torch.tensor([tokens]), torch.tensor([labels])
    of_batch: dict[str, Any] = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, *batch)
    return {name: value[0] for name, value in of_batch.items()}


def test_a_template_without_marks_is_refused_by_name() -> None:
    rows = [(0, "", "messages", json.dumps(CHAT))]
    with pytest.raises(InputError, match=r"does not mark what the assistant says .*loss all"):
        sequences.examples(rows, chats.tokenizer(chats.PLAIN), 32, "truncate")
    with pytest.raises(InputError, match="no chat template"):
        sequences.examples(rows, chats.tokenizer(None), 32, "truncate")
    (item,) = sequences.examples(rows, chats.tokenizer(chats.PLAIN), 32, "truncate", "all")
    assert item.n_targets == len(item.windows[0]) - 1


@pytest.mark.parametrize(
    ("context", "long", "status", "targets"),
    [
        (32, "truncate", "ok", 7),
        (8, "truncate", "truncated: kept 8 of 16 tokens", 3),
        (5, "truncate", "skipped: what carries loss lies beyond 5 tokens", 0),
        (9, "split", "split: 2 windows of at most 9 tokens", 7),
        (5, "skip", "skipped: 16 tokens, context 5", 0),
    ],
)
def test_what_the_context_cuts_off(context: int, long: str, status: str, targets: int) -> None:
    """The assistant speaks at tokens 5 to 8 and 13 to 15; a window's first token is predicted by nothing."""
    (item,) = sequences.examples([(0, "", "messages", json.dumps(CHAT))], chats.tokenizer(), context, long)
    assert (item.status, item.n_targets) == (status, targets)


def test_what_has_no_such_tokens_is_skipped_with_a_reason() -> None:
    tokenizer = chats.tokenizer()
    rows: list[Any] = [(0, "a b"), (1, "", "completion", json.dumps(COMPLETION))]
    text, completion = sequences.examples(rows, tokenizer, 32, "truncate", "assistant")
    assert text.status == "skipped: a text has no assistant"
    assert completion.status == "skipped: a completion is no chat, so no assistant speaks in it"
    assert (
        Rendering(tokenizer).example("tokens", {"input_ids": [2, 99]})
        == "token 99 is not one of the tokenizer's 36"
    )


def test_attrstore_reads_a_chat_model_from_files_to_answer(tmp_path: Path) -> None:
    """Corpus, queries, gradients, score: the chat that was trained on is the strongest proponent of its own answer."""
    from attrstore.scoring import score

    folder = tiny.checkpoint(tmp_path / "model")
    chats.tokenizer().save_pretrained(folder)
    rows = [
        {"id": f"c{i}", "messages": turns(*pair)} for i, pair in enumerate([("a b", "c d"), ("n o", "p q")])
    ]
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        ingest_corpus(store, written(tmp_path, "c.jsonl", rows))
        ingest_queries(store, written(tmp_path, "q.jsonl", [{"id": "q", "messages": turns("n o", "p q")}]))
        ingest_gradients(store, model=folder, projection_dim=64, code="fp16")
        score(store, "cosine")
        (first,) = store.rows("SELECT example, score FROM influence WHERE rank = 1")
        for loss in ("auto", "all"):
            store.tail_patch(model=folder, loss=loss, top=1)
        patched = store.rows("SELECT optimizer, delta_logprob FROM tail_patches ORDER BY optimizer")
    assert first == ("c1", pytest.approx(1, abs=1e-3))
    assert [optimizer for optimizer, _ in patched] == ["sgd", "sgd, loss all"]
    assert patched[0][1] > patched[1][1] > 0  # the same step on fewer tokens, all of them the answer's


def test_representations_of_where_the_prompt_ends(store: Store, tmp_path: Path) -> None:
    """With pooling `prompt` a completion stands for its prompt's last state, as a query of that prompt does."""
    from attrstore.ingest.encode.representations import ingest_representations

    rows = [{"id": "same", **COMPLETION}, {"id": "other", "prompt": "a b n", "completion": " d e"}]
    ingest_corpus(store, written(tmp_path, "c.jsonl", rows))
    ingest_queries(store, written(tmp_path, "q.jsonl", [{"id": "q", "prompt": "a b c", "target": " x"}]))
    folder = tiny.checkpoint(tmp_path / "model")
    ingest_representations(store, model=folder, pooling="prompt")
    from attrstore.scoring import score

    score(store, "repsim")
    (same,) = store.rows("SELECT example, score FROM influence WHERE rank = 1")
    hidden = tiny.model()(input_ids=torch.tensor([[2, 3, 4], [2, 3, 15]]), output_hidden_states=True)
    one, other = hidden.hidden_states[-1][:, -1]
    wanted = torch.cosine_similarity(one, other, dim=0)
    assert same == ("same", pytest.approx(1, abs=1e-5))
    assert store.value("SELECT score FROM influence WHERE example = 'other'") == pytest.approx(
        float(wanted), abs=1e-3
    )


def test_show_marks_what_carries_loss(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from attrstore.cli import main

    path = tmp_path / "s.duckdb"
    folder = tiny.checkpoint(tmp_path / "model")
    chats.tokenizer().save_pretrained(folder)
    with attrstore.open(path, create=True) as store:
        counts = ingest_corpus(store, written(tmp_path, "c.jsonl", [{"id": "chat", **CHAT}]))
        ingest_queries(store, written(tmp_path, "q.jsonl", [{"id": "q", "prompt": "a b", "target": " c"}]))
    assert dict(counts.shapes) == {"messages": 1}
    shown = CliRunner().invoke(main, ["show", str(path), "chat", "--model", str(folder)]).output
    assert "example chat (messages): 7 of 16 tokens carry loss. Status: ok" in shown
    assert "<|user|> a b <|end|> <|assistant|> [c] [d] [e] [<|end|>] <|user|> f" in shown
    assert "a b [c]" in CliRunner().invoke(main, ["show", str(path), "q", "--model", str(folder)]).output
    failed = CliRunner().invoke(main, ["show", str(path), "nothing", "--model", str(folder)])
    assert (failed.exit_code, "no example and no query is called nothing" in failed.output) == (2, True)


def test_every_command_of_the_page_on_chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re
    import shlex

    from click.testing import CliRunner

    from attrstore.cli import main

    monkeypatch.chdir(tmp_path)
    tiny.checkpoint(tmp_path / "model")
    chats.tokenizer().save_pretrained(tmp_path / "model")
    pairs = [("a b", "c d"), ("n o", "p q"), ("e f", "g"), ("h", "i j"), ("k l", "m")]
    corpus = [{"id": f"c-{i}", "messages": turns(*pair)} for i, pair in enumerate(pairs, 1)]
    written(tmp_path, "chats.jsonl", corpus)
    written(tmp_path, "asked.jsonl", [{"id": "q-1", "messages": turns("n o", "p q")}])
    page = (Path(__file__).parents[1] / "docs" / "chats.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    printed = {}
    for line in block.strip().splitlines():
        result = CliRunner().invoke(main, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
        printed[line.split()[1]] = result.output
    assert "[c] [d] [<|end|>]" in printed["show"]
    assert json.loads((tmp_path / "kept.jsonl").read_text()) == corpus[1]
