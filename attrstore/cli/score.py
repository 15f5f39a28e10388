"""Commands that rank: score, and ask for one prompt that is not in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import attrstore
from attrstore.cli.common import counted, print_table, store_argument
from attrstore.methods import METHODS


def _methods() -> str:
    width = max(map(len, METHODS))
    return "\n    ".join(f"{method.name:{width}}  {method.when}" for method in METHODS.values())


@click.command(
    "score",
    help=f"""Rank every example for every query by METHOD, and keep the result.

    \b
    {_methods()}

    The parts of a gradient method are options, so that each row of an ablation is one command on the same
    encodings. A scoring of the same name is replaced.

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
@click.option("--encoder", help="Name or start of the id of the encoder; the newest if not given.")
@click.option("--curvature", type=click.Choice(["none", "corpus", "mixed"]), help="R in R^{-1/2}.")
@click.option("--norm", type=click.Choice(["none", "vector", "block"]), help="What is taken to unit length.")
@click.option(
    "--mixing",
    type=float,
    help="lambda of the mixed curvature, 0 to 1; chosen from the spectra if not given.",
)
@click.option(
    "--damping", type=float, help="Added to R's eigenvalues, in units of their mean.  [default: 0.1]"
)
@click.option("--encoders", metavar="A,B", help="Of tracincp: one encoder a checkpoint.")
@click.option(
    "--weights", metavar="X,Y", help="Of tracincp: the checkpoints' learning rates; all 1 if not given."
)
@click.option(
    "--query-encoder", help="Of less: the encoder without correction; the newest that fits if not given."
)
@click.option("--iterations", type=int, help="Of cg and lissa.  [default: 20 and 50]")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Of mirrored: its folder; the store's only model if not given.",
)
@click.option(
    "--queries",
    type=int,
    metavar="N",
    help="Of mirrored: only the first N; each costs a pass over the corpus.",
)
@click.option(
    "--optimizer-state",
    type=click.Path(path_type=Path),
    help="Of mirrored: file with the optimizer's state_dict, for an Adam-scaled step.",
)
@click.option(
    "--learning-rate",
    type=float,
    help="Of mirrored's step.  [default: 1e-6 with an optimizer state, 1e-3 without]",
)
@click.option(
    "--step",
    type=click.Choice(["ascent", "descent"]),
    help="Of mirrored, on the query's loss.  [default: ascent]",
)
@click.option(
    "--loss",
    type=click.Choice(["mean", "sum"]),
    help="Of mirrored, over an example's tokens.  [default: mean]",
)
@click.option("--device", help="auto, cpu or cuda.")
@click.option(
    "--engine", type=click.Choice(["maxscore", "rank-bm25"]), help="Of bm25; rank-bm25 is for small corpora."
)
@click.option("--variant", type=click.Choice(["okapi", "lucene"]), help="Of bm25.")
@click.option("--k1", type=float, help="Of bm25: how soon repeated words stop counting.")
@click.option("--b", type=float, help="Of bm25: how much long texts are discounted.")
@click.option("--epsilon", type=float, help="Of bm25 (okapi): floor of a negative idf.")
def score_command(
    store: Path, method: str, name: str | None, top_k: int, where: str | None, **options: Any
) -> None:
    """Rank every example for every query by METHOD, and keep the result."""
    from attrstore.scoring import score

    given = {option: value for option, value in options.items() if value is not None}
    with attrstore.open(store, writable=True) as opened, counted("examples scanned") as progress:
        scoring = score(opened, method, name=name, top_k=top_k, where=where, progress=progress, **given)
    click.echo(f"{scoring.name}: {scoring.n_examples:,} examples ranked, {scoring.n_scores:,} pairs kept.")
    click.echo(f"Next: attrstore report {store}")


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
    click.echo(f"P({target!r} | {prompt!r}) = {answer.probability:.3g}")
    for title, rows in (
        (f"Influence ({method}): what made the model say it", answer.influence),
        ("Retrieval (bm25): what states it", answer.retrieval),
    ):
        click.echo(f"\n{title}")
        if rows:
            print_table(("rank", "example", "score", "text"), rows)
        else:
            click.echo("  nothing")
