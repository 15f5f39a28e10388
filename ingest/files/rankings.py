"""Import rankings that another tool wrote as lists: TREC runs and the PAIR viewer's records."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from attrstore.errors import InputError, flag
from attrstore.methods import Ranking
from attrstore.runs import recorded, writes
from attrstore.scoring import Scoring, write_scoring

if TYPE_CHECKING:
    from attrstore.store import Store

FAMILIES = ("influence", "retrieval")


class Pair(NamedTuple):
    """One line of a ranking."""

    line: int
    query: str
    example: str
    score: float
    proponent: bool


@writes
def import_ranking(
    store: Store, file: str | Path, *, name: str, family: str = "retrieval", method: str = "imported"
) -> Scoring:
    """Keep the ranking in `file` as a scoring called `name`; one of that name is replaced.

    Proponents rank from the highest score, opponents from the lowest; equal scores by the order of ingest.

    Args:
        file: a TREC run (query Q0 example rank score tag), or .jsonl with the PAIR viewer's records (`example_id`,
            the query's own id, with `proponent_ids`, `proponent_scores` and the same of opponents).
        family: influence or retrieval.
        method: what the method is called.

    Raises:
        InputError: a line is no such record, or names a query or an example that the store does not have, or a pair
            comes twice; the store is as it was.
    """
    path = Path(file)
    if family not in FAMILIES:
        raise InputError(f"{flag('family')} {family}: there are {', '.join(FAMILIES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    queries = {name: own for own, name in store.named("import", "queries_in_order").fetchall()}
    examples = {name: own for own, name in store.named("import", "examples_in_order").fetchall()}
    found: dict[tuple[int, bool], dict[int, float]] = {}
    asked: set[int] = set()
    for pair in _pairs(path):
        for what, key, known in (("query", pair.query, queries), ("example", pair.example, examples)):
            if key not in known:
                raise InputError(
                    f"{path}, line {pair.line}: no {what} is called {key!r}. Nothing was imported."
                )
        query, example = queries[pair.query], examples[pair.example]
        asked.add(query)
        if any(example in found.get((query, side), {}) for side in (True, False)):
            raise InputError(
                f"{path}, line {pair.line}: {pair.query!r} has {pair.example!r} twice. Nothing was imported."
            )
        found.setdefault((query, pair.proponent), {})[example] = pair.score
    if not asked:
        raise InputError(f"{path}: no rankings in it.")
    rows = [
        (query, example, place if proponent else -place, score)
        for (query, proponent), scores in found.items()
        for place, (example, score) in enumerate(_in_order(scores, proponent), 1)
    ]
    spec = {"file": path.name, "top_k": max(len(scores) for scores in found.values()), "where": None}
    with recorded(store, "import ranking", name=name, method=method, **{**spec, "file": str(path)}) as run:
        import pyarrow as pa

        types = (pa.int64(), pa.int64(), pa.int32(), pa.float64())
        columns = [
            pa.array(list(column), kind) for column, kind in zip(zip(*rows, strict=True), types, strict=True)
        ]
        pairs = pa.table(dict(zip(("query_id", "example_id", "rank", "score"), columns, strict=True)))
        scoring = Scoring(name, uuid.uuid4().hex[:12], len(examples), len(rows), spec)
        ranking = Ranking(pairs, len(examples), spec, query_ids=sorted(asked))
        write_scoring(store, scoring, ranking, family=family, method=method)
        run.rows = scoring.n_scores
    return scoring


def _in_order(scores: dict[int, float], proponent: bool) -> list[tuple[int, float]]:
    sign = -1 if proponent else 1
    return sorted(scores.items(), key=lambda pair: (sign * pair[1], pair[0]))


def _pairs(path: Path) -> Iterator[Pair]:
    read = _pair_records if path.suffix.lower() in (".jsonl", ".json", ".ndjson") else _trec
    with path.open(encoding="utf-8-sig") as stream:
        try:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    for pair in read(path, number, line):
                        if not math.isfinite(pair.score):
                            raise InputError(f"{path}, line {number}: the score {pair.score} is not finite.")
                        yield pair
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text. {error}") from error


def _trec(path: Path, number: int, line: str) -> Iterator[Pair]:
    fields = line.split()
    try:
        query, _, example, _, score, *_ = fields
        yield Pair(number, query, example, float(score), True)
    except ValueError as error:
        raise InputError(
            f"{path}, line {number}: a line of a TREC run is `query Q0 example rank score tag`, and this is "
            f"{line.strip()[:80]!r}."
        ) from error


def _pair_records(path: Path, number: int, line: str) -> Iterator[Pair]:
    try:
        record = json.loads(line)
        for side in ("proponent", "opponent"):
            names, scores = record.get(f"{side}_ids") or [], record.get(f"{side}_scores") or []
            for example, score in zip(names, scores, strict=True):
                yield Pair(number, str(record["example_id"]), str(example), float(score), side == "proponent")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}, line {number}: not a record of the PAIR viewer (example_id, proponent_ids and as many "
            f"proponent_scores; the same of opponents): {type(error).__name__} {error}."
        ) from error
