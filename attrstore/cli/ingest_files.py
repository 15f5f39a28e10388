"""Commands that read files into a store: corpus, queries, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

import attrstore
from attrstore.cli.common import progress_bar, store_argument
from attrstore.terminal import say

if TYPE_CHECKING:
    from click.decorators import FC

    from attrstore.ingest.files.staging import Counts

# Shapes of rows as people call them.
PEOPLE = {
    "text": "text",
    "messages": "chat",
    "completion": "completion",
    "chat completion": "completion of a chat",
    "tokens": "row of tokens",
}
files_argument = click.argument("files", nargs=-1, required=True, metavar="FILE...")
skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Leave out rows that cannot be used, and count them."
)
replace_option = click.option(
    "--replace", is_flag=True, help="Take what changed under a known id, and drop what was derived from it."
)


def column_option(name: str, default: str, what: str) -> Callable[[FC], FC]:
    """`--NAME`, the name of a column in the files."""
    return click.option(
        f"--{name}", default=default, show_default=True, metavar="NAME", help=f"Column with {what}."
    )


class Taken(TypedDict):
    """What is done with rows that cannot be used, or that are there otherwise."""

    skip_bad: bool
    replace: bool


class CorpusColumns(Taken):
    """Names of the columns of a corpus."""

    id: str
    text: str
    source: str


class QueryColumns(Taken):
    """Names of the columns of queries."""

    id: str
    prompt: str
    target: str


class LabelColumns(Taken):
    """Names of the columns of labels."""

    query: str
    example: str
    label: str


@click.command("corpus")
@store_argument
@files_argument
@column_option(
    "id", "id", "the example's own id; auto: none, ids are made of the content and are the same in any order"
)
@column_option("text", "text", "the text that the model was trained on")
@column_option("source", "source", "where the example comes from; it may be absent")
@skip_bad_option
@replace_option
def corpus_command(store: Path, files: tuple[str, ...], **options: Unpack[CorpusColumns]) -> None:
    """Add training examples from files.

    FILE is a file, a glob or a folder: .jsonl, .ndjson, .json, .csv, .tsv (these also as .gz), .parquet,
    .arrow, .feather, .ipc; or files on the Hugging Face Hub, hf://datasets/OWNER/NAME/PATH. Columns that no option
    names become metadata. All rows are added or, on an error, none; known rows are left as they are.

    A row without a text may be a chat (`messages`), a `prompt` with its `completion`, both strings or both lists of
    messages, or, beside a text, tokens: `input_ids` with `labels` or `loss_mask`. What a model saw of it is then made
    with the model's own tokenizer and chat template, and `attrstore show` shows which tokens carry loss.

    \b
    Example: attrstore ingest corpus facts.duckdb corpus.jsonl
             attrstore ingest corpus c4.duckdb 'c4/*.parquet' --id url --source domain
    """
    from attrstore.ingest.files.corpus import ingest_corpus

    with attrstore.open(store, writable=True) as opened, bytes_read() as progress:
        counts = ingest_corpus(opened, files, progress=progress, **options)
    report(counts, "example", f"attrstore ingest queries {store} queries.jsonl")


@click.command("queries")
@store_argument
@files_argument
@column_option("id", "id", "the query's own id; auto: none, ids are made of prompt and target")
@column_option("prompt", "prompt", "the prompt")
@column_option("target", "target", "the target whose probability is explained, with its leading space")
@skip_bad_option
@replace_option
def queries_command(store: Path, files: tuple[str, ...], **options: Unpack[QueryColumns]) -> None:
    """Add prompts with their targets from files.

    FILE is a file, a glob or a folder, as for `ingest corpus`. Columns that no option names become metadata.

    \b
    Example: attrstore ingest queries facts.duckdb queries.jsonl --target answer
    """
    from attrstore.ingest.files.queries import ingest_queries

    with attrstore.open(store, writable=True) as opened, bytes_read() as progress:
        counts = ingest_queries(opened, files, progress=progress, **options)
    report(counts, "query", f"attrstore ingest labels {store} labels.jsonl")


@click.command("labels")
@store_argument
@files_argument
@column_option("query", "query_id", "the query's id")
@column_option("example", "example_id", "the example's id")
@column_option("label", "label", "a number, above 0 for a right example; 1 for every pair where absent")
@skip_bad_option
@replace_option
def labels_command(store: Path, files: tuple[str, ...], **options: Unpack[LabelColumns]) -> None:
    """Add ground truth from files: pairs of a query and an example.

    FILE is a file, a glob or a folder, as for `ingest corpus`. Other columns are ignored.

    \b
    Example: attrstore ingest labels facts.duckdb labels.jsonl
    """
    from attrstore.ingest.files.labels import ingest_labels

    with attrstore.open(store, writable=True) as opened, bytes_read() as progress:
        counts = ingest_labels(opened, files, progress=progress, **options)
    report(
        counts,
        "label",
        f"attrstore ingest lexical {store}, or attrstore ingest gradients {store} --model PATH",
    )


@contextmanager
def bytes_read() -> Iterator[Callable[[int, int], None]]:
    """Show how much of the files is read, in MB."""
    with progress_bar() as bar:
        task = bar.add_task("MB read", total=None)
        yield lambda done, total: bar.update(task, completed=round(done / 1e6), total=round(total / 1e6))


def report(counts: Counts, noun: str, following: str) -> None:
    """Print one sentence of counts and the next command."""
    say(f"{sentence(counts, noun)} Next: {following}")


def sentence(counts: Counts, noun: str) -> str:
    """Say what was done; counts of zero are left out, but for what was added."""
    plural = "queries" if noun == "query" else f"{noun}s"
    parts = [f"{_count(counts.added, noun, plural)} added"]
    for name in ("unchanged", "updated", "replaced", "skipped", "repeated"):
        if getattr(counts, name):
            parts.append(f"{getattr(counts, name)} {name}")
    text = ", ".join(parts) + "."
    if counts.shapes.keys() - {"text"}:
        text += (
            " Recognised: " + ", ".join(_count(n, PEOPLE[shape]) for shape, n in counts.shapes.items()) + "."
        )
    if counts.replaced and noun != "label":
        text += " What was derived from the replaced ones is dropped: ingest again."
    if counts.scorings_older:
        verb = "is" if counts.scorings_older == 1 else "are"
        text += f" {_count(counts.scorings_older, 'scoring')} {verb} older than these {plural}, and stale: score again."
    return text


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
