"""Commands that rank: score, and ask for one prompt that is not in the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click

import attrstore
from attrstore.cli.common import counted, format_option, full_option, store_argument
from attrstore.cli.options import PATH, fields_of
from attrstore.cli.score_options import ScoreCommand, listed_methods
from attrstore.errors import InputError, flag
from attrstore.formats import write
from attrstore.methods import find
from attrstore.terminal import from_here, print_table, say, say_wrapped
from attrstore.workflows.options import AskFields, AskOptions

if TYPE_CHECKING:
    from attrstore.workflows.ask import Answer


@click.command(
    "score",
    cls=ScoreCommand,
    help=f"""Rank every example for every query by METHOD, and keep the result.

    Without METHOD by the one to begin with in a search for what moved the model: damped-block where the store has
    codes of low rank on principal directions, else cosine-block.

    \b
    {listed_methods()}

    `attrstore score METHOD --help` shows the options of one. The parts of a gradient method are options, so that
    each row of an ablation is one command on the same encodings. A scoring of the same name is replaced.

    \b
    Example: attrstore score facts.duckdb
             attrstore score facts.duckdb cosine-block
             attrstore score facts.duckdb trackstar --curvature corpus --name corpus-only
             attrstore score facts.duckdb mirrored --model model --queries 10
             attrstore score facts.duckdb bm25 --where "source = 'wiki'" --name bm25-wiki
    """,
)
@store_argument
@click.argument("method", required=False)
@click.option("--name", help="Of the scoring; the method's name if not given.")
@click.option(
    "--top-k", default=100, show_default=True, help="Proponents, and opponents, kept for each query."
)
@click.option(
    "--where", metavar="SQL", help="Rank only the examples that satisfy this predicate over `examples`."
)
@click.option(
    "--group-by", metavar="COLUMN",
    help="Describe the scores of all examples, not only those kept, by this column: source, or a key of the metadata. "
    "See group_report.",
)  # fmt: skip
@click.option(
    "--engine",
    type=click.Choice(["ray"]),
    help="Have the workers of a Ray cluster scan the encodings: the one at RAY_ADDRESS, else one of this machine. "
    "[default: this process scans them]",
)
@click.option(
    "--workers", type=int, metavar="N", help="With --engine: how many.  [default: one for each CPU]"
)
def score_command(
    store: Path,
    method: str | None,
    group_by: str | None,
    engine: str | None,
    workers: int | None,
    **options: Any,
) -> None:
    """Rank every example for every query by METHOD, and keep the result."""
    from attrstore.scoring import score, score_on_ray

    given = {option: value for option, value in options.items() if value is not None}
    if method is None and engine is not None:
        raise InputError(f"{flag('engine')} {engine}: name the METHOD too.")
    if method is not None and engine is not None and "engine" in find(method).option_names:
        given["engine"], engine = engine, None
    _refuse_apart(engine, workers, group_by)
    if engine is None:
        with attrstore.open(store, writable=True) as opened, counted("examples scanned") as progress:
            scoring = score(opened, method, group_by=group_by, progress=progress, **given)
            over, by = _about(opened, scoring.name)
    else:
        assert method is not None
        with counted("examples scanned") as progress:
            scoring = score_on_ray(store, method, workers=workers, progress=progress, **given)
        with attrstore.open(store) as opened:
            over, by = _about(opened, scoring.name)
    say_wrapped(over, indent=2)
    say_wrapped(f"{scoring.n_scores:,} pairs kept{by}.", indent=2)
    if group_by is not None:
        rows = f"\"FROM group_report WHERE scoring = '{scoring.name}' ORDER BY mean DESC\""
        say(f"Next: attrstore sql {store} {rows}")
        return
    say(f"Next: attrstore report {store}")


def _refuse_apart(engine: str | None, workers: int | None, group_by: str | None) -> None:
    if engine is None and workers is not None:
        raise InputError(f"{flag('workers')} {workers}: goes with {flag('engine')} ray")
    if engine is not None and group_by is not None:
        raise InputError(
            f"{flag('group_by')} {group_by}: needs every score in one process. Leave {flag('engine')} out."
        )


@click.command("ask")
@store_argument
@click.argument("prompt")
@click.argument("target", required=False)
@fields_of(AskOptions)
@click.option("--model", type=PATH, help="The model's folder, if it has moved.")
@full_option
@format_option()
def ask_command(
    store: Path,
    prompt: str,
    target: str | None,
    model: Path | None,
    full: bool,
    output_format: str,
    **fields: Unpack[AskFields],
) -> None:
    """Show what the model says after PROMPT, which examples make TARGET likely there, and which ones state it.

    Nothing is written. TARGET needs its leading space where the tokenizer wants one; without TARGET, what the model
    says is explained. In a store without gradients the answer is what states it alone.

    \b
    Example: attrstore ask facts.duckdb "Spin Master was founded in" " Toronto"
    """
    from attrstore.workflows.ask import ask

    with attrstore.open(store) as opened:
        answer = ask(opened, prompt, target, model=model, **fields)
    if output_format == "table":
        _print_answer(prompt, fields["method"], answer, full)
    else:
        write(sys.stdout, output_format, ASKED, _answered(fields["method"], answer))


# What one ranked example is about, for programs: a row says over which model and encoder it stands.
ASKED = (
    "family", "method", "model", "encoder", "target", "probability", "said", "said_probability",
    "rank", "example", "score", "text",
)  # fmt: skip


def _answered(method: str, answer: Answer) -> list[tuple[object, ...]]:
    said = (answer.said.text, answer.said.probability) if answer.said else (None, None)
    about = (answer.model, answer.encoder, answer.target, answer.probability, *said)
    return [
        *(("influence", method, *about, *row) for row in answer.influence),
        *(("retrieval", "bm25", None, None, *about[2:], *row) for row in answer.retrieval),
    ]


def _print_answer(prompt: str, method: str, answer: Answer, full: bool) -> None:
    retrieved = ("Retrieval (bm25): what states it", answer.retrieval, full)
    if answer.said is None or answer.model is None:
        say_wrapped("No gradient encodings, so this is what states it, not what made the model say it.")
        _print_ranked(*retrieved)
        return
    target = answer.target
    say_wrapped(f"model {from_here(answer.model)}, encoder {answer.encoder}", indent=2)
    say_wrapped(f"P({target!r} | {prompt!r}) = {answer.probability:.3g}", indent=2)
    say_wrapped(f"The model says {answer.said.text!r}: P = {answer.said.probability:.3g}", indent=2)
    if answer.respaced is not None:
        other, probability = answer.respaced
        which = "With" if other.startswith(" ") else "Without"
        far = f"{which} a leading space the target is far more probable: P({other!r}) = {probability:.3g}"
        say_wrapped(far, indent=2)
    what = f"what makes {target!r} more likely; the model does not say it"
    if answer.says_it:
        what = "what made the model say it"
    _print_ranked(f"Influence ({method}): {what}", answer.influence, full)
    _print_ranked(*retrieved)


def _print_ranked(title: str, rows: list[tuple[int, str, float, str]], full: bool) -> None:
    say()
    say_wrapped(title, indent=2)
    if rows:
        print_table(("rank", "example", "score", "text"), rows, full=full)
    else:
        say("  nothing")


def _about(store: attrstore.Store, name: str) -> tuple[str, str]:
    """Say over what a scoring is, and by which encoder of which model, if any."""
    (row,) = store.rows(
        "SELECT examples, of_examples, queries, of_queries, encoder, model FROM scoring_status WHERE name = $name",
        {"name": name},
    )
    examples, of_examples, queries, of_queries, encoder, model = row
    by = (f"; encoder {encoder}" if encoder else "") + (f"; model {from_here(model)}" if model else "")
    return (
        f"{name}: {examples:,} of {of_examples:,} examples ranked for {queries:,} of {of_queries:,} queries.",
        by,
    )
