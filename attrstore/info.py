"""Describe a store: how big, what is in it, how each part was made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrstore.store import Store


@dataclass(frozen=True)
class Section:
    """One part of the description, as rows."""

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]

    def records(self) -> list[dict[str, Any]]:
        """Return one dictionary a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def info(store: Store) -> dict[str, Any]:
    """Return the description as plain Python values, ready for JSON.

    Keys: `file` (path, bytes, bytes_per_example, schema_version), `rows` (per table), `bytes_per_example`
    (text and each encoder, before what DuckDB saves by compression), then lists of dictionaries: `sources`,
    `models`, `encoders`, `lexical`, `scorings`, `runs`.
    """
    described: dict[str, Any] = {
        "file": {
            "path": str(store.path),
            "bytes": file_bytes(store),
            "schema_version": store.meta("schema_version"),
        }
    }
    counts = _section(store, "counts").records()[0]
    described["rows"] = counts
    n = counts["examples"]
    described["file"]["bytes_per_example"] = described["file"]["bytes"] / n if n else None
    for name in ("sources", "models", "encoders", "lexical", "scorings", "runs"):
        described[name] = _section(store, name).records()
    for scoring in described["scorings"]:
        scoring["spec"] = json.loads(scoring["spec"])
    described["bytes_per_example"] = {
        "text and metadata": store.named("info", "text_bytes").fetchall()[0][0],
        **{encoder["name"]: encoder["bytes_per_example"] for encoder in described["encoders"]},
    }
    return described


def file_bytes(store: Store) -> int:
    """Size of the file and, while a writer has it, of its log."""
    return sum(file.stat().st_size for file in (store.path, store.log) if file.exists())


def _section(store: Store, name: str) -> Section:
    cursor = store.named("info", name)
    return Section(name, tuple(c[0] for c in cursor.description or ()), cursor.fetchall())
