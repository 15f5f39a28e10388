"""Commands that rank: score, and ask for one prompt that is not in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.score_options import ScoreCommand, listed_methods
from attrstore.terminal import from_here, print_table, say


@click.command(
    "score",
    cls=ScoreCommand,
    help=f"""Rank every example for every query by METHOD, and keep the result.

    \b
    {listed_methods()}

    `attrstore score METHOD --help` shows the options of one. The parts of a gradient method are options, so that
    each row of an ablation is one command on the same encodings. A scoring of the same name is replaced.

    \b
    Example: attrstore score facts.duckdb cosine-block
             attrstore score facts.duckdb trackstar --curvature corpus --name corpus-only
             attrstore score facts.duckdb mirrored --model model --queries 10
             attrstore score facts.duckdb bm25 --where "source = 'wiki'" --name bm25-wiki
    """,
)
@store_argument
@click.argument("method")
@click.option("--name", help="Of the scoring; the method's name if not given.")
@click.option(
    "--top-k", default=100, show_default=True, help="Proponents, and opponents, kept for each query."
)
@click.option(
    "--where", metavar="SQL", help="Rank only the examples that satisfy this predicate over `examples`."
)
def score_command(
    store: Path, method: str, name: str | None, top_k: int, where: str | None, **options: Any
) -> None:
    """Rank every example for every query by METHOD, and keep the result."""
    from attrstore.scoring import score

    given = {option: value for option, value in options.items() if value is not None}
    with attrstore.open(store, writable=True) as opened, counted("examples scanned") as progress:
        scoring = score(opened, method, name=name, top_k=top_k, where=where, progress=progress, **given)
        over, by = _about(opened, scoring.name)
    say(over)
    say(f"{scoring.n_scores:,} pairs kept{by}.")
    say(f"Next: attrstore report {store}")


@click.command("ask")
@store_argument
@click.argument("prompt")
@click.argument("target", required=False)
@click.option("--top", default=5, show_default=True, help="How many examples of each kind.")
@click.option("--method", default="cosine-block", show_default=True, help="The influence method.")
@click.option("--model", type=click.Path(path_type=Path), help="The model's folder, if it has moved.")
@click.option(
    "--encoder", help="Name or start of the id of the encoder; of one model's, the first made if not given."
)
@click.option("--where", metavar="SQL", help="Only examples that satisfy this predicate.")
def ask_command(store: Path, prompt: str, target: str | None, method: str, **options: Any) -> None:
    """Show what the model says after PROMPT, which examples make TARGET likely there, and which ones state it.

    Nothing is written. TARGET needs its leading space where the tokenizer wants one; without TARGET, what the model
    says is explained. In a store without gradients the answer is what states it alone.

    \b
    Example: attrstore ask facts.duckdb "Spin Master was founded in" " Toronto"
    """
    from attrstore.workflows.ask import ask

    with attrstore.open(store) as opened:
        answer = ask(opened, prompt, target, method=method, **options)
    retrieved = ("Retrieval (bm25): what states it", answer.retrieval)
    if answer.said is None or answer.model is None:
        say("No gradient encodings, so this is what states it, not what made the model say it.")
        _print_ranked(*retrieved)
        return
    target = answer.target
    say(f"model {from_here(answer.model)}, encoder {answer.encoder}")
    say(f"P({target!r} | {prompt!r}) = {answer.probability:.3g}")
    say(f"The model says {answer.said.text!r}: P = {answer.said.probability:.3g}")
    if answer.respaced is not None:
        other, probability = answer.respaced
        which = "With" if other.startswith(" ") else "Without"
        say(f"{which} a leading space the target is far more probable: P({other!r}) = {probability:.3g}")
    what = f"what makes {target!r} more likely; the model does not say it"
    if answer.says_it:
        what = "what made the model say it"
    _print_ranked(f"Influence ({method}): {what}", answer.influence)
    _print_ranked(*retrieved)


def _print_ranked(title: str, rows: list[tuple[int, str, float, str]]) -> None:
    say(f"\n{title}")
    if rows:
        print_table(("rank", "example", "score", "text"), rows)
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
