"""Recipes: their specs are what stores have, they refuse what they do not take, and the shell takes their fields."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest
from click.testing import CliRunner

from attrstore.cli import main
from attrstore.cli.compare_checkpoints import compare_checkpoints_command
from attrstore.cli.diagnose import diagnose_command
from attrstore.cli.imports import losses_command, scores_command
from attrstore.cli.ingest_embeddings import embeddings_command
from attrstore.cli.ingest_lexical import lexical_command
from attrstore.cli.ingest_model import gradients_command, representations_command
from attrstore.cli.rerank import rerank_command
from attrstore.cli.score import ask_command
from attrstore.cli.select import select_command
from attrstore.cli.subsets import subsets_command
from attrstore.cli.tail_patch import tail_patch_command
from attrstore.cli.trace import trace_command
from attrstore.errors import InputError
from attrstore.evaluation import options as evaluation
from attrstore.ingest.encode import recipes
from attrstore.ingest.encode.recipes import EmbeddingRecipe, GradientRecipe, RepresentationRecipe
from attrstore.ingest.files import options as imports
from attrstore.ingest.measure.options import (
    CheckpointFields,
    CheckpointOptions,
    Source,
    SourceFields,
    TailPatchFields,
    TailPatchOptions,
)
from attrstore.lexical.index import Index, IndexFields
from attrstore.options import Options, options_of
from attrstore.vectors.encoders import Encoder
from attrstore.workflows import options as workflows


@dataclass(frozen=True)
class Subject:
    fingerprint: str = "a3619ca31908a5a6"
    tokenizer_fingerprint: str = "d6f33a633a116342"
    context: int = 32
    encoding_version: int = 1


# Rows of `encoders`, written before there were recipes: kind, id, spec.
STORED = [
    (
        "gradient", "d84cb6b3cbea3b04",
        ('{"blocks": "module", "code": "halfbit", "context": 32, "correction": "none", "dtype": "float32", '
        '"kronecker": null, "long": "truncate", "model": "a3619ca31908a5a6", "modules": null, '
        '"optimizer_state": null, "projection_dim": 32, "seed": 0, "tokenizer": "d6f33a633a116342", "version": 1}'),
    ),
    (
        "gradient", "7bcb43f011d7561e",
        ('{"blocks": "layer", "code": "1bit", "context": 32, "correction": "factored", "dtype": "float32", '
        '"kronecker": {"damping": 0.1, "sample": 512}, "long": "split", "model": "a3619ca31908a5a6", '
        '"modules": "[qk]_proj$", "optimizer_state": "71ff41c31cd64cdc", "projection_dim": 8, "seed": 3, '
        '"tokenizer": "d6f33a633a116342", "version": 1}'),
    ),
    (
        "gradient", "093ae9bd10c1bd2e",
        ('{"blocks": "module", "code": "halfbit", "context": 32, "correction": "full", "dtype": "bfloat16", '
        '"kronecker": null, "long": "truncate", "model": "a3619ca31908a5a6", "modules": null, '
        '"optimizer_state": "95486408c249cd32", "projection_dim": 32, "seed": 0, '
        '"tokenizer": "d6f33a633a116342", "version": 1}'),
    ),
    (
        "representation", "c1e2fc182b911c75",
        ('{"code": "fp16", "context": 32, "dtype": "float32", "layer": 2, "long": "truncate", '
        '"model": "a3619ca31908a5a6", "pooling": "last", "tokenizer": "d6f33a633a116342", "version": 1}'),
    ),
    (
        "embedding", "896cf47dd34391c9",
        ('{"code": "2bit", "context": 32, "dtype": "float32", "long": "skip", "lower_case": false, '
        '"model": "a3619ca31908a5a6", "passage_prefix": "", "pooling": "last", "query_prefix": "a ", '
        '"similarity": "cosine", "tokenizer": "d6f33a633a116342", "version": 1}'),
    ),
]  # fmt: skip


def spec_again(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """What the recipe in a spec makes of the same model."""
    if kind == "gradient":
        return GradientRecipe.from_spec(spec).spec(Subject(), spec["optimizer_state"])
    if kind == "representation":
        return RepresentationRecipe.from_spec(spec).of_depth(2).spec(Subject())
    like = {"lower_case": spec["lower_case"], "similarity": spec["similarity"]}
    return EmbeddingRecipe.from_spec(spec).spec(Subject(), **like)


@pytest.mark.parametrize(("kind", "encoder_id", "stored"), STORED)
def test_an_encoder_of_an_older_store_goes_on(kind: str, encoder_id: str, stored: str) -> None:
    spec = json.loads(stored)
    again = spec_again(kind, spec)
    assert again == spec
    assert Encoder(kind, "any", spec["model"], again, ()).encoder_id == encoder_id


def test_the_fields_of_a_recipe_reach_its_spec() -> None:
    recipe = GradientRecipe(  # what the second row was made with
        projection_dim=8, blocks="layer", modules="[qk]_proj$", code="1bit", long="split", seed=3,
        kronecker_factors=True,
    )  # fmt: skip
    assert recipe.spec(Subject(), "71ff41c31cd64cdc") == json.loads(STORED[1][2])
    assert RepresentationRecipe().of_depth(2).spec(Subject()) == json.loads(STORED[3][2])
    assert GradientRecipe(device="cpu", batch_tokens=1).spec(Subject(), None) == json.loads(STORED[0][2])


WRONG = [
    ({"long": "bogus"}, "long bogus: there is no such choice; there are truncate, s"),
    ({"batch_tokens": -5}, "batch_tokens -5: must be at least 1"),
    ({"batch_tokens": 2.5}, "batch_tokens 2.5: must be a whole number"),
    ({"code": "3bit"}, "code 3bit: there is no such choice; there are fp16, int8, 4bit, 2bit, 1bit, halfbit"),
    ({"dtype": "float64"}, "dtype float64: there is no such choice; there are float32, bfloat16"),
]


@pytest.mark.parametrize("recipe", [GradientRecipe, RepresentationRecipe, EmbeddingRecipe])
@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_recipe_refuses_what_it_does_not_take(recipe: Any, wrong: dict[str, Any], message: str) -> None:
    if wrong == {"long": "bogus"} and recipe is EmbeddingRecipe:
        message = "long bogus: there is no such choice; there are truncate, skip"
    with pytest.raises(InputError) as caught:
        recipe(**wrong)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("command", ["gradients", "representations", "embeddings"])
def test_the_shell_is_answered_with_flags(command: str, path: Path) -> None:
    assert CliRunner().invoke(main, ["init", str(path)]).exit_code == 0
    wrong = ["ingest", command, str(path), "--model", "m", "--batch-tokens", "-5"]
    done = CliRunner().invoke(main, wrong)
    assert (done.exit_code, done.stderr) == (2, "Error: --batch-tokens -5: must be at least 1\n")


COMMANDS: list[tuple[type[Options], click.Command, bool]] = [
    (GradientRecipe, gradients_command, False),
    (RepresentationRecipe, representations_command, False),
    (EmbeddingRecipe, embeddings_command, False),
    (Index, lexical_command, True),
    (TailPatchOptions, tail_patch_command, False),
    (CheckpointOptions, compare_checkpoints_command, False),
    (Source, rerank_command, False),
    (imports.MatrixOptions, scores_command, False),
    (imports.LossOptions, losses_command, False),
    (evaluation.SubsetOptions, subsets_command, False),
    (evaluation.DiagnoseOptions, diagnose_command, False),
    (workflows.TraceOptions, trace_command, False),
    (workflows.AskOptions, ask_command, False),
    (workflows.SelectOptions, select_command, False),
]


@pytest.mark.parametrize(("kind", "command", "left_open"), COMMANDS)
def test_a_command_has_its_recipe_s_fields(kind: Any, command: click.Command, left_open: bool) -> None:
    given = {parameter.name: parameter for parameter in command.params}
    for name, about in options_of(kind).items():
        shown = given[name]
        assert isinstance(shown, click.Option)
        assert shown.help is not None
        assert shown.help.startswith(about.help)
        assert shown.default == (None if left_open else getattr(kind(), name)), name
        if about.choices:
            assert isinstance(shown.type, click.Choice)
            assert tuple(shown.type.choices) == about.choices


@pytest.mark.parametrize(
    ("recipe", "typed"),
    [
        (GradientRecipe, recipes.GradientFields),
        (RepresentationRecipe, recipes.RepresentationFields),
        (EmbeddingRecipe, recipes.EmbeddingFields),
        (Index, IndexFields),
        (TailPatchOptions, TailPatchFields),
        (CheckpointOptions, CheckpointFields),
        (Source, SourceFields),
        (imports.MatrixOptions, imports.MatrixFields),
        (imports.LossOptions, imports.LossFields),
        (evaluation.SubsetOptions, evaluation.SubsetFields),
        (evaluation.DiagnoseOptions, evaluation.DiagnoseFields),
        (workflows.TraceOptions, workflows.TraceFields),
        (workflows.AskOptions, workflows.AskFields),
        (workflows.SelectOptions, workflows.SelectFields),
    ],
)
def test_the_type_checker_knows_the_same_fields(recipe: Any, typed: Any) -> None:
    hints = get_type_hints(recipe)
    known = {field.name: hints[field.name] for field in fields(recipe)}
    if recipe is Index:  # where None stands for: as the index has it
        known = {name: hint | None for name, hint in known.items()}
    assert get_type_hints(typed) == known


def test_a_projection_to_one_number_is_the_smallest() -> None:
    assert GradientRecipe(projection_dim=1).projection_dim == 1
    with pytest.raises(InputError, match="must be at least 1"):
        GradientRecipe(projection_dim=0)
