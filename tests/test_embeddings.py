"""Dense retrieval: embeddings against an independent pooling in float64, and what a folder says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from tokenizers import processors

import attrstore
from attrstore.cli import main
from attrstore.errors import InputError, MismatchError
from attrstore.ingest.encode.embeddings import ingest_embeddings
from attrstore.ingest.model import causal, embedding
from attrstore.scoring import score
from tests import tiny

if TYPE_CHECKING:
    from attrstore.store import Store

SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXTS = ["a b c", "north river", "a c", "d e f g h i j k", "stone", *tiny.sentences(15, seed=3)]
QUERIES = [("a b", " c"), ("north", " river"), ("d e f", " g h")]


def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, pad_token_id=1, **SIZE)
    made = transformers.BertModel(config, add_pooling_layer=False)
    return spread(made)


def spread(model: Any) -> Any:
    """Larger weights, so that positions and neighbours tell."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.4)
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(bert(), tmp_path / "bert")


def by_hand(model: Any, text: str, pooling: str) -> torch.Tensor:
    """One text alone, without padding, in float64."""
    tokens = [tiny.WORDS.index(word) for word in text.split()]
    with torch.no_grad():
        hidden = model.double()(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    pooled = {"mean": sum(hidden) / len(tokens), "cls": hidden[0], "last": hidden[len(tokens) - 1]}
    return torch.as_tensor(pooled[pooling])


def query_vectors(store: Store) -> torch.Tensor:
    blobs = store.rows("SELECT vector FROM query_encodings ORDER BY query_id")
    return torch.stack([torch.frombuffer(bytearray(b), dtype=torch.float32) for (b,) in blobs])


def similarities(store: Store, name: str = "dense") -> dict[tuple[int, int], float]:
    rows = store.rows(
        "SELECT query_id, example_id, score FROM scores JOIN scorings USING (scoring_id) WHERE name = $n",
        {"n": name},
    )
    return {(query, example): score for query, example, score in rows}


def without_head(architecture: str) -> Any:
    return spread(tiny.model(architecture)).base_model


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("make", [bert, lambda: without_head("llama")], ids=["bert", "llama"])
def test_vectors_and_scores_equal_pooling_by_hand(
    store: Store, tmp_path: Path, make: Callable[[], Any], pooling: str
) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    model = make()
    # Batches of up to four texts of different lengths: all but the longest are padded.
    ingest_embeddings(store, model=save(model, tmp_path / "m"), pooling=pooling, batch_tokens=40)
    queries = torch.stack([by_hand(model, p + t, pooling) for p, t in QUERIES])
    assert torch.allclose(query_vectors(store).double(), queries, rtol=1e-5, atol=1e-6)
    examples = torch.stack([by_hand(model, text, pooling) for text in TEXTS])
    expected = torch.nn.functional.cosine_similarity(queries[:, None], examples[None], dim=2)
    score(store, "dense")
    found = similarities(store)
    assert len(found) == len(QUERIES) * len(TEXTS)
    for (query, example), cosine in found.items():
        assert cosine == pytest.approx(float(expected[query, example]), abs=1e-3)  # fp16 codes


def test_a_causal_lm_with_its_head_is_the_same_embedder(store: Store, tmp_path: Path) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    ingest_embeddings(store, model=tiny.checkpoint(tmp_path / "lm"), pooling="last")
    expected = torch.stack([by_hand(tiny.model().base_model, p + t, "last") for p, t in QUERIES])
    assert torch.allclose(query_vectors(store).double(), expected, rtol=1e-5, atol=1e-6)


def test_prefixes_and_their_sides(store: Store, folder: Path) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    ingest_embeddings(store, model=folder, query_prefix="q ", passage_prefix="p z ")
    model = bert()
    queries = torch.stack([by_hand(model, "q " + p + t, "mean") for p, t in QUERIES])
    assert torch.allclose(query_vectors(store).double(), queries, rtol=1e-5, atol=1e-6)
    score(store, "dense")
    passage = by_hand(model, "p z " + TEXTS[3], "mean")
    expected = torch.nn.functional.cosine_similarity(queries, passage[None], dim=1)
    for query, cosine in enumerate(expected.tolist()):
        assert similarities(store)[query, 3] == pytest.approx(cosine, abs=1e-3)


def test_dense_has_no_opponents_and_ranks_every_labelled_example(store: Store, folder: Path) -> None:
    tiny.fill(store, TEXTS, QUERIES, labels=[(0, i) for i in range(len(TEXTS))])
    ingest_embeddings(store, model=folder)
    score(store, "dense", top_k=3)
    ranks = store.rows("SELECT rank FROM scores WHERE query_id = 0 ORDER BY rank")
    assert ranks == [(rank,) for rank in range(1, len(TEXTS) + 1)]
    assert store.rows("SELECT rank FROM scores WHERE query_id = 1 ORDER BY rank") == [(1,), (2,), (3,)]
    assert store.rows("SELECT DISTINCT method FROM retrieval") == [("dense",)]


def describe(folder: Path, **files: Any) -> None:
    """Write a sentence-transformers folder's own files around the model."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in {"modules.json": modules, **files}.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_a_sentence_transformers_folder_gives_the_defaults(store: Store, folder: Path) -> None:
    describe(
        folder,
        **{
            "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "sentence_bert_config.json": {"max_seq_length": 4, "do_lower_case": True},
            "config_sentence_transformers.json": {
                "prompts": {"query": "Q ", "document": "D ", "passage": "P "},
                "similarity_fn_name": "dot",
            },
        },
    )
    tiny.fill(store, TEXTS, QUERIES)
    ingest_embeddings(store, model=folder)
    ((name, spec),) = store.rows("SELECT name, spec FROM encoders")
    kept = json.loads(spec)
    assert name == "bert-cls"
    assert {k: kept[k] for k in ("pooling", "query_prefix", "passage_prefix", "context", "similarity")} == {
        "pooling": "cls",
        "query_prefix": "Q ",
        "passage_prefix": "D ",
        "context": 4,
        "similarity": "dot",
    }
    model = bert()
    texts = [" ".join(f"q {p}{t}".split()[:4]) for p, t in QUERIES]
    queries = torch.stack([by_hand(model, text, "cls") for text in texts])
    assert torch.allclose(query_vectors(store).double(), queries, rtol=1e-5, atol=1e-6)
    passages = torch.stack([by_hand(model, " ".join(f"d {t}".split()[:4]), "cls") for t in TEXTS])
    score(store, "dense")
    score(store, "dense", norm="vector", name="cosine")
    dots, cosines = similarities(store), similarities(store, "cosine")
    for (query, example), dot in dots.items():
        product = queries[query] @ passages[example]
        lengths = queries[query].norm() * passages[example].norm()
        assert dot == pytest.approx(float(product), abs=float(lengths) * 5e-3)  # norms are bfloat16
        assert cosines[query, example] == pytest.approx(float(product / lengths), abs=1e-3)


@pytest.mark.parametrize(
    ("pooling", "options", "expected"),
    [
        ({"pooling_mode": "lasttoken"}, {}, "last"),
        ({"pooling_mode": "mean"}, {}, "mean"),
        ({"pooling_mode_max_tokens": True}, {"pooling": "cls"}, "cls"),
        ({"pooling_mode_max_tokens": True}, {}, InputError("made for pooling by max")),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            {},
            InputError(r"made for pooling by cls\+mean"),
        ),
        ({"pooling_mode": "mean", "include_prompt": False}, {}, "mean"),
        (
            {"pooling_mode": "mean", "include_prompt": False},
            {"query_prefix": "q "},
            InputError("without the prefix's tokens"),
        ),
    ],
)
def test_poolings_of_a_folder(
    store: Store, folder: Path, pooling: dict[str, Any], options: dict[str, Any], expected: Any
) -> None:
    describe(folder, **{"1_Pooling/config.json": pooling})
    tiny.fill(store, TEXTS, QUERIES)
    if isinstance(expected, InputError):
        with pytest.raises(InputError, match=str(expected)):
            ingest_embeddings(store, model=folder, **options)
        assert not store.rows("FROM encoders")
        assert not store.rows("FROM runs")
    else:
        ingest_embeddings(store, model=folder, **options)
        assert store.value("SELECT spec ->> 'pooling' FROM encoders") == expected


def test_a_module_that_is_not_known_is_refused(store: Store, folder: Path) -> None:
    describe(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="it applies Dense, which attrstore does not"):
        ingest_embeddings(store, model=folder)


def test_long_texts_and_what_has_no_token(store: Store, folder: Path) -> None:
    tiny.fill(store, ["a " * 20, "a b", ""], QUERIES)
    for long, first in (
        ("truncate", "truncated: kept 16 of 20 tokens"),
        ("skip", "skipped: 20 tokens, context 16"),
    ):
        counts = ingest_embeddings(store, model=folder, long=long, name=long)
        statuses = store.rows(
            "SELECT status FROM encodings JOIN encoders USING (encoder_id) WHERE name = $n ORDER BY example_id",
            {"n": long},
        )
        assert statuses == [(first,), ("ok",), ("skipped: no token",)]
        assert counts.outcomes["skipped"] == (1 if long == "truncate" else 2)


def test_special_tokens_survive_truncation(store: Store, folder: Path) -> None:
    wrapped = tiny.tokenizer()
    wrapped.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="y $A z", special_tokens=[("y", tiny.WORDS.index("y")), ("z", tiny.WORDS.index("z"))]
    )
    wrapped.save_pretrained(folder)
    tiny.fill(store, TEXTS, [("a " * 20, "b")])
    ingest_embeddings(store, model=folder, pooling="last")
    expected = by_hand(bert(), "y " + "a " * 14 + "z", "last")
    assert torch.allclose(query_vectors(store).double(), expected[None], rtol=1e-5, atol=1e-6)


def test_appending_encodes_what_is_new_and_another_recipe_is_refused(store: Store, folder: Path) -> None:
    tiny.fill(store, TEXTS[:5], QUERIES)
    assert ingest_embeddings(store, model=folder).examples == 5
    tiny.fill(store, TEXTS[5:], [])
    with pytest.raises(InputError, match=r"15 of the examples .* Run the same attrstore ingest embeddings"):
        score(store, "dense")
    assert ingest_embeddings(store, model=folder).examples == len(TEXTS) - 5
    with pytest.raises(MismatchError, match=r"query_prefix  there and q  now"):
        ingest_embeddings(store, model=folder, query_prefix="q ")


def test_dense_without_embeddings_names_the_command(store: Store) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    with pytest.raises(
        InputError, match=r"no embedding encodings yet\. Make them: attrstore ingest embeddings"
    ):
        score(store, "dense")


def test_incomplete_folders_are_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        ingest_embeddings(store, model=tmp_path / "nowhere")
    deeper = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(deeper))
    with pytest.raises(InputError, match=r"its weights lack encoder\.layer\.2\S+ and 15 more tensors"):
        ingest_embeddings(store, model=folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        ingest_embeddings(store, model=folder)


@pytest.mark.parametrize("load", [embedding.load, causal.load])
def test_code_in_a_folder_is_never_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], Any]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text("raise SystemExit('ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(InputError, match=r"can(not)? be loaded"):
        load(folder)


def test_roberta_numbers_positions_after_the_padding(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(vocab_size=40, max_position_embeddings=18, pad_token_id=1, **SIZE)
    torch.manual_seed(0)
    loaded = embedding.load(save(transformers.RobertaModel(config), tmp_path / "roberta"))
    assert loaded.context == 16
    loaded.model(input_ids=torch.full((1, 16), 5))
    with pytest.raises((IndexError, RuntimeError)):
        loaded.model(input_ids=torch.full((1, 17), 5))


def test_the_encoder_of_an_encoder_decoder(store: Store, tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, pad_token_id=1,
        decoder_start_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = spread(transformers.T5EncoderModel(config))
    tiny.fill(store, TEXTS, QUERIES)
    ingest_embeddings(store, model=save(encoder, tmp_path / "t5"))
    expected = torch.stack([by_hand(encoder, p + t, "mean") for p, t in QUERIES])
    assert torch.allclose(query_vectors(store).double(), expected, rtol=1e-5, atol=1e-6)


def test_command(store: Store, path: Path, folder: Path) -> None:
    tiny.fill(store, TEXTS, QUERIES)
    store.close()
    command = ["ingest", "embeddings", str(path), "--model", str(folder), "--pooling", "mean"]
    result = CliRunner().invoke(main, [*command, "--query-prefix", "q ", "--name", "mine"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"mine: 20 examples and 3 queries encoded.\nNext: attrstore score {path} dense\n"
    result = CliRunner().invoke(main, ["score", str(path), "dense", "--encoder", "mine"])
    assert result.exit_code == 0, result.output
    with attrstore.open(path) as reopened:
        assert reopened.value("SELECT spec ->> 'query_prefix' FROM encoders") == "q "
        assert len(similarities(reopened)) == len(QUERIES) * len(TEXTS)
