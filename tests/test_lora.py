"""LoRA adapters: gradients, scores and steps against W + s B A written out in float64, without PEFT."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call

import attrstore
from attrstore import Store
from attrstore.errors import InputError
from attrstore.evaluation.diagnostics import diagnose
from attrstore.ingest.encode.gradients import ingest_gradients
from attrstore.ingest.measure.tail_patch import tail_patch
from attrstore.ingest.model import adapters, causal, optimizer
from attrstore.scoring import score
from attrstore.vectors import encoders, solvers
from attrstore.vectors.encoders import Block
from attrstore.workflows.ask import ask
from tests import tiny
from tests.test_gradient_math import signs
from tests.test_inverse import all_scores, conjugate_gradients, datainf, ekfac, exact, kfac, lissa
from tests.test_scoring import QUERIES, vectors

peft = pytest.importorskip("peft")
pytestmark = [  # PEFT on saving beside a base that it does not find, and on its own future
    pytest.mark.filterwarnings("ignore:Could not find a config file"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

N = 40  # as in test_inverse
R, ALPHA = 2, 6
EXACT = 64  # wider than any side: no projection
TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}


def make(folder: Path, architecture: str = "llama", **options: Any) -> Path:
    """A base model in `base` and a seeded adapter in `adapter`, as PEFT saves it; returns the adapter's folder."""
    base = tiny.checkpoint(folder / "base", architecture)
    config = peft.LoraConfig(
        **{
            "r": R, "lora_alpha": ALPHA, "lora_dropout": 0.5, "task_type": "CAUSAL_LM",
            "target_modules": TARGETS[architecture], "fan_in_fan_out": architecture == "gpt2",
            **options,
        }
    )  # fmt: skip
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(causal.load(base).model, config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    wrapped.peft_config[
        "default"
    ].base_model_name_or_path = "../base"  # get_peft_model writes where it was loaded
    wrapped.save_pretrained(folder / "adapter")
    return folder / "adapter"


@dataclass
class Reference:
    """The same model without PEFT: the base, and the matrices that the adapter's file holds, in float64."""

    base: Any
    matrices: dict[str, Tensor]
    transposed: bool
    scale: float

    @classmethod
    def of(cls, adapter: Path, architecture: str, scale: float = ALPHA / R) -> Reference:
        saved = load_file(adapter / "adapter_model.safetensors")
        names = {n.removeprefix("base_model.model.").removesuffix(".weight"): m for n, m in saved.items()}
        doubles = {name: matrix.double() for name, matrix in names.items()}
        base = tiny.model(architecture).double().requires_grad_(False)
        return cls(base, doubles, architecture == "gpt2", scale)

    def log_probability(self, matrices: dict[str, Tensor], tokens: list[int], first: int) -> Tensor:
        """Of tokens[first:]."""
        weights = dict(self.base.named_parameters())
        for name in matrices:
            layer, _, which = name.rpartition(".")
            if which == "lora_A":
                change = self.scale * matrices[f"{layer}.lora_B"] @ matrices[name]
                weight = weights[f"{layer}.weight"]
                weights[f"{layer}.weight"] = weight + (change.T if self.transposed else change)
        logits = functional_call(self.base, weights, (torch.tensor([tokens]),)).logits[0].log_softmax(dim=-1)
        total: Tensor = logits[range(first - 1, len(tokens) - 1), tokens[first:]].sum()
        return total

    def gradients(self, tokens: list[int], first: int = 1) -> dict[str, Tensor]:
        """Of the summed loss, by matrix."""
        leaves = {name: matrix.clone().requires_grad_() for name, matrix in self.matrices.items()}
        found = torch.autograd.grad(-self.log_probability(leaves, tokens, first), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))


def ids(text: str) -> list[int]:
    tokens: list[int] = tiny.tokenizer()(text)["input_ids"]
    return tokens


@dataclass
class World:
    """A store with exact encodings of an adapter, and the gradients of every query and example."""

    adapter: Path
    store: Path
    reference: Reference
    queries: list[dict[str, Tensor]]
    examples: list[dict[str, Tensor]]

    def exact(self, store: Store) -> tuple[np.ndarray, np.ndarray, Any]:
        """Gradients of queries and examples, in the order of the encoder's blocks."""
        blocks = encoders.choose(store, "gradient").blocks
        q, z = (
            np.stack([np.concatenate([g[b.name].flatten().numpy() for b in blocks]) for g in side])
            for side in (self.queries, self.examples)
        )
        return q, z, blocks


SCALES = {"llama": ALPHA / R, "gpt2": ALPHA / R**0.5}  # gpt2 rank-stabilised


@pytest.fixture(scope="module", params=sorted(TARGETS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp(request.param)
    adapter = make(folder, request.param, use_rslora=request.param == "gpt2")
    reference = Reference.of(adapter, request.param, SCALES[request.param])
    texts = tiny.sentences(N)
    with attrstore.open(folder / "s.duckdb", create=True) as store:
        tiny.fill(store, texts, QUERIES)
        ingest_gradients(store, model=adapter, projection_dim=EXACT, code="fp16")
    queries = [reference.gradients(ids(p + t), len(ids(p))) for p, t in QUERIES]
    return World(
        adapter, folder / "s.duckdb", reference, queries, [reference.gradients(ids(t)) for t in texts]
    )


def test_every_matrix_of_the_adapter_is_a_block_and_nothing_else(world: World) -> None:
    with attrstore.open(world.store) as store:
        blocks = encoders.choose(store, "gradient").blocks
    assert {b.name: (b.rows, b.length) for b in blocks} == {
        name: (len(matrix), matrix.numel()) for name, matrix in world.reference.matrices.items()
    }


def test_without_projection_the_encoding_is_the_gradient(world: World) -> None:
    with attrstore.open(world.store) as store:
        q, z, blocks = vectors(store)
        q_wanted, z_wanted, _ = world.exact(store)
    assert (np.linalg.norm(q - q_wanted, axis=1) / np.linalg.norm(q_wanted, axis=1)).max() < 2e-5
    for block in blocks:
        where = slice(block.offset, block.offset + block.length)
        norms = np.linalg.norm(z_wanted[:, where], axis=1)
        assert norms.max() > 1e-2
        # The direction has float16's precision, the norm bfloat16's 8 bits.
        assert (
            np.linalg.norm(z[:, where] - z_wanted[:, where], axis=1) <= 2**-8 * norms + 1e-6 * norms.max()
        ).all()


def test_a_narrow_projection_is_seeded_by_the_layers_name(world: World, tmp_path: Path) -> None:
    k = 3  # wider than r, so that only the long sides are projected
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(2), QUERIES)
        ingest_gradients(store, model=world.adapter, projection_dim=k, seed=7, code="fp16")
        q, _, blocks = vectors(store)
    wanted = []
    for gradients in world.queries:
        parts = []
        for block in blocks:
            g = gradients[block.name].numpy()
            p_out, p_in = (
                signs(f"7/{block.name}/{side}", k, n) for side, n in zip(("out", "in"), g.shape, strict=True)
            )
            parts.append((p_out @ g @ p_in.T).ravel())
        wanted.append(np.concatenate(parts))
    error = np.linalg.norm(q - np.stack(wanted), axis=1) / np.linalg.norm(np.stack(wanted), axis=1)
    assert error.max() < 2e-5


@pytest.mark.parametrize(
    ("method", "psi_of", "formula"),
    [
        ("influence", exact, {}),
        ("cg", conjugate_gradients, {"iterations": 6}),
        ("lissa", lissa, {"iterations": 9}),
        ("datainf", datainf, {}),
        ("kfac", kfac, {"rows": True}),
        ("ekfac", ekfac, {"rows": True}),
    ],
)
def test_inverse_methods_agree_with_exact_gradients(
    world: World, method: str, psi_of: Callable[..., np.ndarray], formula: dict[str, Any]
) -> None:
    """Of the whole chain: what the stored norms (8 bits) lose is all that is lost."""
    with attrstore.open(world.store, writable=True) as store:
        options = {key: value for key, value in formula.items() if key == "iterations"}
        score(store, method, top_k=N, **options)
        found = all_scores(store, method)
        q, z, blocks = world.exact(store)
    wanted = np.zeros_like(found)
    for block in blocks:
        where = slice(block.offset, block.offset + block.length)
        shape = {"rows": block.rows} if "rows" in formula else {}
        for row in range(len(q)):
            psi = psi_of(q[row, where], z[:, where], damping=0.1, **options, **shape)
            wanted[row] += z[:, where] @ psi
    assert np.isfinite(wanted).all()
    error = np.abs(found - wanted).max(axis=1) / np.abs(wanted).max(axis=1)
    assert error.max() < 6e-3, error


@pytest.mark.parametrize("n_queries", [2, 9])  # fewer and more than the narrow block has dimensions
def test_datainf_asks_for_no_curvature(n_queries: int) -> None:
    """The gradients of a wide adapter, unprojected, are more than a d x d matrix could be made of."""
    generator = torch.Generator().manual_seed(0)
    rows, queries = (torch.randn(n, 36, generator=generator) for n in (11, n_queries))

    def unused() -> list[Tensor]:
        raise AssertionError("a d x d matrix was asked for")

    system = solvers.System(
        blocks=(Block("a", 0, 4), Block("b", 4, 32)), shapes=list, matrices=unused,
        rows=lambda: iter(rows.split(5)), damping=0.3, iterations=0,
    )  # fmt: skip
    psi = solvers.SOLVERS["datainf"](system, queries).numpy()
    for part in (slice(0, 4), slice(4, 36)):
        for found, query in zip(psi, queries.double().numpy(), strict=True):
            wanted = datainf(query[part], rows.double().numpy()[:, part], damping=0.3)
            np.testing.assert_allclose(found[part], wanted, rtol=1e-5, atol=1e-6)


def test_the_rest_of_the_store_works_on_an_adapter(world: World) -> None:
    with attrstore.open(world.store, writable=True) as store:
        rows = {(row[0], row[1]): row[2] for row in diagnose(store, iterations=[200])}
        assert rows["exact", None] < 1e-4
        assert rows["cg", 200] < 1e-4
        score(store, "trackstar-block", top_k=5)
        best = store.rows(
            "SELECT external_id, score FROM scores JOIN scorings USING (scoring_id) JOIN examples USING (example_id) "
            "WHERE name = 'trackstar-block' AND query_id = 0 AND rank BETWEEN 1 AND 5 ORDER BY rank"
        )
        answer = ask(store, *QUERIES[0], method="trackstar-block")
    assert [example for _, example, _, _ in answer.influence] == [example for example, _ in best]
    assert [value for _, _, value, _ in answer.influence] == pytest.approx([v for _, v in best], rel=1e-4)


def train(adapter: Path, groups: int = 1) -> dict[str, Tensor]:
    """Three AdamW steps on what PEFT marks as trainable; save the state, return second moments by matrix."""
    wrapped = peft.PeftModel.from_pretrained(
        causal.load(adapter.parent / "base").model, str(adapter), is_trainable=True
    ).train()
    named = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    trainer = torch.optim.AdamW([{"params": list(named.values())}, *[{"params": []}] * (groups - 1)], lr=1e-3)
    torch.manual_seed(0)
    for _ in range(3):
        tokens = torch.randint(2, 28, (4, 9))
        wrapped(input_ids=tokens, labels=tokens).loss.backward()
        trainer.step()
    torch.save(trainer.state_dict(), adapter / "optimizer.pt")
    values = [trainer.state[p]["exp_avg_sq"].double() for p in named.values()]
    names = [n.removeprefix("base_model.model.").replace(".default.weight", "") for n in named]
    return dict(zip(names, values, strict=True))


# one group as torch.optim makes it, two as the Trainer does, its second one empty
@pytest.mark.parametrize(("correction", "groups"), [("factored", 1), ("full", 2)])
def test_optimizer_state_of_the_trainable_parameters(
    world: World, tmp_path: Path, correction: str, groups: int
) -> None:
    moments = train(world.adapter, groups)
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(2), QUERIES)
        ingest_gradients(
            store, model=world.adapter, projection_dim=EXACT, correction=correction, code="fp16",
            optimizer_state=world.adapter / "optimizer.pt",
        )  # fmt: skip
        q, _, blocks = vectors(store)
    # The factors are kept in the store as float16.
    tolerance = {"factored": 1e-3, "full": 5e-5}[correction]
    for row, gradients in zip(q, world.queries, strict=True):
        for block in blocks:
            v = moments[block.name]
            if correction == "factored":
                root = (torch.outer(v.mean(dim=1), v.mean(dim=0)) / v.mean()).sqrt()
            else:
                root = v.clamp(min=float(v.mean()) * 1e-3).sqrt() + 1e-8
            wanted = (gradients[block.name] / root).flatten().numpy()
            found = row[block.offset : block.offset + block.length]
            assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


def test_a_state_by_name_is_read_and_the_base_models_is_refused(tmp_path: Path) -> None:
    adapter = make(tmp_path)
    loaded = causal.load(adapter)
    moments = train(adapter)
    state = {f"base_model.model.{name}.default.weight": {"exp_avg_sq": v} for name, v in moments.items()}
    torch.save({"state": state, "param_groups": [{"params": list(state)}]}, tmp_path / "named.pt")
    found = optimizer.parameter_moments(tmp_path / "named.pt", loaded.model)
    assert {n.replace(".default.weight", ""): m.values.tolist() for n, m in found.items()} == {
        n: v.float().tolist() for n, v in moments.items()
    }
    tiny.adam_state(tmp_path)
    with pytest.raises(InputError, match=r"fits no order .* the state has 21 parameters and the model 12"):
        optimizer.parameter_moments(tmp_path / "optimizer.pt", loaded.model)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_tail_patch_moves_the_adapter_only(world: World, name: str) -> None:
    rate = {"sgd": 1e-3, "adam": 1e-4}[name]
    moments = train(world.adapter) if name == "adam" else None
    state = world.adapter / "optimizer.pt" if moments else None
    files = {f: f.read_bytes() for f in world.adapter.parent.rglob("*.safetensors")}
    texts = tiny.sentences(N)
    with attrstore.open(world.store, writable=True) as store:
        score(store, "dot", top_k=N)
        tail_patch(
            store, scorings=["dot"], top=2, learning_rate=rate, optimizer_state=state, optimizer_name=name
        )
        found = store.rows(
            "SELECT query_id, example_id, base_logprob, delta_logprob FROM tail_patches WHERE optimizer = $o",
            {"o": name},
        )
    assert len(found) == 2 * len(QUERIES)
    deltas = []
    for query, example, base, delta in found:
        prompt, target = QUERIES[query]
        asked = ids(prompt + target), len(ids(prompt))
        before = float(world.reference.log_probability(world.reference.matrices, *asked))
        moved = {}
        for matrix, gradient in world.examples[example].items():
            direction = gradient / (len(ids(texts[example])) - 1)
            if moments is not None:
                direction = direction / (moments[matrix].sqrt() + 1e-8)
            moved[matrix] = world.reference.matrices[matrix] - rate * direction
        after = float(world.reference.log_probability(moved, *asked))
        assert base == pytest.approx(before, rel=1e-5)
        assert delta == pytest.approx(after - before, rel=1e-4, abs=3e-6)
        deltas.append(abs(delta))
    assert max(deltas) > 1e-3  # far above the tolerance
    assert {f: f.read_bytes() for f in files} == files


def test_what_stays_is_not_copied(tmp_path: Path) -> None:
    from attrstore.ingest.measure.one_step import OneStep

    model = causal.load(make(tmp_path)).model
    step = OneStep(model, 1e-3, None)
    shared = {n for n, p in step.copy.named_parameters() if p is dict(model.named_parameters())[n]}
    assert set(adapters.trained(model)) == {n for n, _ in model.named_parameters()} - shared
    assert len(shared) == 21


def test_bfloat16_keeps_the_direction(world: World, tmp_path: Path) -> None:
    with attrstore.open(tmp_path / "s.duckdb", create=True) as store:
        tiny.fill(store, tiny.sentences(4), QUERIES)
        ingest_gradients(
            store,
            model=world.adapter,
            projection_dim=EXACT,
            dtype="bfloat16",
            code="fp16",
            optimizer_state="none",
        )
        q, _, _ = vectors(store)
    with attrstore.open(world.store) as store:
        wanted, _, _ = world.exact(store)
    cosine = (q * wanted).sum(axis=1) / np.linalg.norm(q, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.99


def test_matrices_of_different_shapes_do_not_share_a_block(tmp_path: Path, store: Store) -> None:
    adapter = make(tmp_path)
    tiny.fill(store, tiny.sentences(3), QUERIES)
    with pytest.raises(InputError, match=r"lora_B is encoded in 16 x 2 .* 2 x 16, .* blocks module"):
        ingest_gradients(store, model=adapter, projection_dim=16, blocks="layer")
    assert not store.rows("FROM encoders")
    assert ingest_gradients(store, model=adapter, projection_dim=R, blocks="layer").examples == 3


def edit(adapter: Path, **changes: Any) -> Path:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return adapter


def test_the_fingerprint_covers_what_is_computed(tmp_path: Path) -> None:
    adapter = make(tmp_path)
    first = causal.load(adapter)
    assert first.fingerprint != causal.load(tmp_path / "base").fingerprint
    shutil.copytree(tmp_path / "base", tmp_path / "elsewhere")
    edit(adapter, base_model_name_or_path=str(tmp_path / "elsewhere"), target_modules=TARGETS["llama"][::-1])
    assert causal.load(adapter).fingerprint == first.fingerprint
    edit(adapter, lora_alpha=ALPHA + 1)
    seen = {first.fingerprint, causal.load(adapter).fingerprint}
    edit(adapter, lora_alpha=ALPHA)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: matrix * 2 for name, matrix in weights.items()}, adapter / "adapter_model.safetensors")
    seen.add(causal.load(adapter).fingerprint)
    save_file(weights, adapter / "adapter_model.safetensors")
    tiny.checkpoint(tmp_path / "elsewhere", seed=1)
    seen.add(causal.load(adapter).fingerprint)
    assert len(seen) == 4


def test_the_base_is_found_from_the_adapter_from_here_and_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make(tmp_path)
    cached = tmp_path / "hub/models--some--base"
    shutil.copytree(tmp_path / "base", cached / "snapshots/c0ffee")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    for named, found in (("../base", adapter / "../base"), ("base", Path("base")), ("some/base", cached)):
        read = adapters.Adapter.read(edit(adapter, base_model_name_or_path=named))
        assert read is not None
        assert found in (read.base, *read.base.parents)
    with pytest.raises(
        InputError, match=r"its base model 'gone' is neither a folder nor in the .* cache\. Put"
    ):
        causal.load(edit(adapter, base_model_name_or_path="gone"))


def test_without_peft_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = make(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"PEFT is not installed\. pip install 'attrstore\[lora\]'"):
        causal.load(adapter)
    assert causal.load(tmp_path / "base").model is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "the adapter has use_dora True; plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, r"the adapter has modules_to_save \['lm_head'\]"),
        ({"bias": "all"}, "the adapter has bias all"),
        ({"init_lora_weights": "pissa_niter_2"}, "the adapter has init_lora_weights pissa_niter_2"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, r"the adapter of model\.embed_tokens is Embedding"),
    ],
)
def test_what_is_no_plain_lora_is_named_and_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message + r".*merge_and_unload"):
        causal.load(make(tmp_path, **options))


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    adapter = make(tmp_path)
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.weight"
    save_file({**weights, name: torch.ones(40, 16)}, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"holds model\.embed_tokens\.weight, which is no matrix"):
        causal.load(adapter)
    dropped = min(weights)
    save_file({n: m for n, m in weights.items() if n != dropped}, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"lacks model\.layers\.0\.mlp\.down_proj\.lora_A\.weight, which"):
        causal.load(adapter)
    save_file({n: m[:1] for n, m in weights.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match="does not fit its base model"):
        causal.load(adapter)
    with pytest.raises(InputError, match="does not fit its base model"):
        causal.load(edit(adapter, target_modules=["nowhere"]))
    with pytest.raises(InputError, match="peft_type IA3 is not read; LORA is"):
        causal.load(edit(adapter, peft_type="IA3"))
    edit(adapter, peft_type="LORA")
    shutil.copy(adapter / "adapter_config.json", tmp_path / "base")
    with pytest.raises(InputError, match="has an adapter itself"):
        causal.load(adapter)
    (tmp_path / "base/adapter_config.json").unlink()
    (tmp_path / "base/model.safetensors").unlink()
    with pytest.raises(InputError, match=r"its base model .*base: no weights"):
        causal.load(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json is not JSON"):
        causal.load(tmp_path)
    with pytest.raises(InputError, match=r"no weights \(adapter_model\.safetensors\)"):
        causal.load(adapter)
