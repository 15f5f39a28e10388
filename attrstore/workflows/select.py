"""Select training data: the examples that score highest for the queries, over the whole corpus."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Unpack

from attrstore import methods, scoring
from attrstore.errors import InputError
from attrstore.export import replacing
from attrstore.methods.base import Request
from attrstore.originals import example_lines
from attrstore.progress import Progress, silent
from attrstore.statements import statement
from attrstore.workflows.options import SelectOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from attrstore.store import Store
    from attrstore.workflows.options import SelectFields


@dataclass(frozen=True)
class Selected:
    """What was selected."""

    examples: int
    of: int  # examples that were scored
    queries: int
    method: str
    aggregate: str
    encoder: str  # its name
    model: str  # its fingerprint
    groups: dict[str | None, int]  # how many of each value of `by`; empty where there is none


@dataclass
class _Whole:
    """One number for every example: its scores over the queries, put together."""

    aggregate: str
    ids: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __call__(self, ids: Tensor, scores: Tensor) -> None:
        """Take the scores [queries, n] of the examples `ids` [n]."""
        self.ids.append(ids.cpu())
        value = scores.double().mean(dim=0) if self.aggregate == "mean" else scores.double().amax(dim=0)
        self.values.append(value.cpu())


def select(
    store: Store,
    out: Path,
    options: SelectOptions | None = None,
    *,
    of_method: Mapping[str, object] = MappingProxyType({}),
    progress: Progress = silent,
    **fields: Unpack[SelectFields],
) -> Selected:
    """Write the strongest examples to `out`, JSON lines in the shape in which they came in; the store is only read.

    LESS (Xia et al. 2024, arXiv 2402.04333) selects the top 5% so, by the maximum over its target tasks.

    Args:
        options: by which method, and how many; at least one example is taken, of each value of `by` if that is given.
        of_method: options of the method, as for `score`.
        fields: of the options, `SelectOptions`, that are to be otherwise: `method="cosine-block", share=0.01`.

    Raises:
        InputError: the method does not score every example, or an option is wrong.
    """
    asked = replace(options or SelectOptions(), **fields)
    chosen = methods.find(asked.method)
    if chosen.reads.kind in ("lexical", "model"):
        raise InputError(f"{asked.method}: does not scan encodings, so it has no score for every example.")
    whole = _Whole(asked.aggregate)
    with scoring.selected(store, asked.where):
        request = Request(1, chosen.with_options(of_method), progress, opponents=False, observe=whole)
        ranking = chosen.rank(store, request)
    with replacing(out, beside=store) as temporary:
        groups = _write(store, temporary, whole, asked.share, asked.by)
    (encoder, model) = store.named("selection", "encoder", {"id": ranking.encoder_id}).fetchall()[0]
    return Selected(
        sum(groups.values()), ranking.n_examples, len(ranking.query_ids), chosen.name, asked.aggregate,
        encoder, model, groups if asked.by is not None else {},
    )  # fmt: skip


def _write(store: Store, out: Path, whole: _Whole, share: float, by: str | None) -> dict[str | None, int]:
    """Write the chosen examples; return how many there are of each group."""
    import pyarrow
    import torch

    columns = {"example_id": torch.cat(whole.ids).numpy(), "value": torch.cat(whole.values).numpy()}
    with store.registered(aggregated=pyarrow.table(columns)):
        picked = store.sql(statement("selection", "strongest"), {"share": share, "by": by}).to_arrow_table()
    groups: dict[str | None, int] = {}
    for group in picked["part"].to_pylist():
        groups[group] = groups.get(group, 0) + 1
    with store.registered(picked=picked), out.open("w", encoding="utf-8", newline="\n") as stream:
        for line in example_lines(store, store.connection.table("picked")):
            stream.write(f"{line}\n")
    return groups
