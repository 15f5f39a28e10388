"""The command that measures the inverse-Hessian products: diagnose."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

import attrstore
from attrstore.cli.common import counted, format_option, store_argument
from attrstore.cli.options import fields_of
from attrstore.evaluation.options import DiagnoseFields, DiagnoseOptions
from attrstore.formats import show
from attrstore.terminal import from_here, say_wrapped

COLUMNS = ("method", "iterations", "residual", "worst residual", "cosine with exact", "worst cosine")
ABOUT = ("encoder", "model", "blocks", "queries")


@click.command("diagnose")
@store_argument
@fields_of(DiagnoseOptions)
@format_option()
def diagnose_command(store: Path, output_format: str, **fields: Unpack[DiagnoseFields]) -> None:
    """Measure how far each way to invert the curvature is from the exact inverse.

    For the queries' gradients phi and each method's psi: the residual |H psi - phi| / |phi|, and the cosine of
    psi with the exact solution, means over queries and blocks. Kept in the table `residuals`.

    \b
    Example: attrstore diagnose facts.duckdb
             attrstore diagnose facts.duckdb --damping 0.01 --iterations 10,100,1000
    """
    from attrstore.evaluation.diagnostics import diagnose

    with attrstore.open(store, writable=True) as opened, counted("blocks") as progress:
        rows = diagnose(opened, progress=progress, **fields)
    if output_format != "table":
        show((*COLUMNS, *ABOUT), rows, output_format)
        return
    show(COLUMNS, [row[: len(COLUMNS)] for row in rows], output_format)
    name, model, blocks, queries = rows[0][len(COLUMNS) :]
    over = f"Means over {blocks:,} blocks of at most {queries:,} queries; encoder {name}, model {from_here(model)}."
    say_wrapped(over, indent=2)
