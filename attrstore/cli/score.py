"""Commands that rank: score, and ask for one prompt that is not in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import counted, store_argument
from attrstore.cli.score_options import ScoreCommand, listed_methods
from attrstore.terminal import print_table, say


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
    say(f"{scoring.name}: {scoring.n_examples:,} examples ranked, {scoring.n_scores:,} pairs kept.")
    say(f"Next: attrstore report {store}")


@click.command("ask")
@store_argument
@click.argument("prompt")
@click.argument("target")
@click.option("--top", default=5, show_default=True, help="How many examples of each kind.")
@click.option("--method", default="cosine-block", show_default=True, help="The influence method.")
@click.option("--model", type=click.Path(path_type=Path), help="The model's folder, if it has moved.")
@click.option("--where", metavar="SQL", help="Only examples that satisfy this predicate.")
def ask_command(
    store: Path, prompt: str, target: str, top: int, method: str, model: Path | None, where: str | None
) -> None:
    """Show which examples made the model say TARGET after PROMPT, and which ones state it.

    Nothing is written. TARGET needs its leading space where the tokenizer wants one.

    \b
    Example: attrstore ask facts.duckdb "Spin Master was founded in" " Toronto"
    """
    from attrstore.workflows.ask import ask

    with attrstore.open(store) as opened:
        answer = ask(opened, prompt, target, top=top, method=method, model=model, where=where)
    say(f"P({target!r} | {prompt!r}) = {answer.probability:.3g}")
    for title, rows in (
        (f"Influence ({method}): what made the model say it", answer.influence),
        ("Retrieval (bm25): what states it", answer.retrieval),
    ):
        say(f"\n{title}")
        if rows:
            print_table(("rank", "example", "score", "text"), rows)
        else:
            say("  nothing")
