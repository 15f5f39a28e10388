"""The command that measures the inverse-Hessian products: diagnose."""

from __future__ import annotations

from pathlib import Path

import click

import attrstore
from attrstore.cli.common import counted, format_option, store_argument
from attrstore.formats import show
from attrstore.terminal import from_here, say_wrapped

COLUMNS = ("method", "iterations", "residual", "worst residual", "cosine with exact", "worst cosine")
ABOUT = ("encoder", "model", "blocks", "queries")


@click.command("diagnose")
@store_argument
@click.option("--encoder", help="Name or start of the id of the encoder; the first made if not given.")
@click.option(
    "--damping", default=0.1, show_default=True, help="In units of the curvature's mean eigenvalue."
)
@click.option(
    "--iterations", default="1,2,5,10,20,50", show_default=True, metavar="N,N", help="Of cg and lissa."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@format_option()
def diagnose_command(
    store: Path, encoder: str | None, damping: float, iterations: str, device: str, output_format: str
) -> None:
    """Measure how far each way to invert the curvature is from the exact inverse.

    For the queries' gradients phi and each method's psi: the residual |H psi - phi| / |phi|, and the cosine of
    psi with the exact solution, means over queries and blocks. Kept in the table `residuals`.

    \b
    Example: attrstore diagnose facts.duckdb
             attrstore diagnose facts.duckdb --damping 0.01 --iterations 10,100,1000
    """
    from attrstore.evaluation.diagnostics import diagnose

    try:
        steps = [int(part) for part in iterations.split(",")]
    except ValueError as error:
        raise click.BadParameter(
            "whole numbers with commas between them", param_hint="--iterations"
        ) from error
    with attrstore.open(store, writable=True) as opened, counted("blocks") as progress:
        rows = diagnose(
            opened, encoder=encoder, damping=damping, iterations=steps, device=device, progress=progress
        )
    if output_format != "table":
        show((*COLUMNS, *ABOUT), rows, output_format)
        return
    show(COLUMNS, [row[: len(COLUMNS)] for row in rows], output_format)
    name, model, blocks, queries = rows[0][len(COLUMNS) :]
    over = f"Means over {blocks:,} blocks of at most {queries:,} queries; encoder {name}, model {from_here(model)}."
    say_wrapped(over, indent=2)
