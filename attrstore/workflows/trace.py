"""Fact tracing: every method that a store has the encodings for, judged by what it finds and by what that moves.

The table of TrackStar's paper (arXiv 2410.17413): MRR and hit@10 against the labels, and tail-patch, the change of
the target's log-probability by one training step on each of the ten strongest proponents.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from attrstore import html
from attrstore.errors import InputError, flag
from attrstore.evaluation.report import Report
from attrstore.lexical.index import current_index
from attrstore.methods import every_method, find, less
from attrstore.progress import Stages, silent_stages
from attrstore.runs import writes
from attrstore.scoring import score
from attrstore.vectors import encoders
from attrstore.workflows.options import TraceOptions

if TYPE_CHECKING:
    from typing import Any

    from attrstore.methods import Method
    from attrstore.progress import Progress
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder
    from attrstore.workflows.options import TraceFields

TOP = 10  # proponents of a query that are measured


@dataclass(frozen=True)
class Trace:
    """What the methods find, and what that moves."""

    table: Report  # one row a method; each metric beside the low and high end of its 95% interval
    left_out: dict[str, str]  # what could not be done, a method or tail-patch: what it needs
    refreshed: dict[str, str] = field(default_factory=dict)  # scored again: what had changed since

    def _repr_html_(self) -> str:
        return self.table._repr_html_() + html.table(("left out", "needs"), self.left_out.items())


@dataclass(frozen=True)
class Subject:
    """The model that is explained, and how it is run."""

    fingerprint: str | None  # None: not said, and the store has no encodings of any
    folder: Path | None
    optimizer_state: Path | None
    device: str
    mirrored: int  # queries that the method mirrored is run for


@writes
def trace(
    store: Store,
    options: TraceOptions | None = None,
    *,
    model: str | Path | None = None,
    progress: Stages = silent_stages,
    **fields: Unpack[TraceFields],
) -> Trace:
    """Score by each method whose encodings are there, measure the proponents, and return the table.

    A scoring called like its method stays unless it is stale, and so does every measured pair: the same call goes on
    where one was stopped. A stale one is scored again with the options that it was made with.

    Args:
        options: which methods, and what of them is measured; the default ones, if not given. Tail-patch is over the
            first so many queries, by query_id; MRR and hit@10 are over all.
        model: folder of the model to explain; the only one that the store has encodings of, if not given.
        progress: called with what is being done, how much of it is done, and how much there is.
        fields: of the options, `TraceOptions`, that are to be otherwise: `queries=50, tail_patch=False`.

    Raises:
        InputError: no such method, an option is wrong, several models and none named, or no method can be run.
    """
    asked = replace(options or TraceOptions(), **fields)
    chosen = [find(name) for name in asked.methods] or list(every_method().values())
    subject = _subject(store, model, asked)
    left_out: dict[str, str] = {}
    refreshed: dict[str, str] = {}
    for method in chosen:
        changed = None if asked.replace else _what_changed(store, method)
        try:
            _score(store, method, subject, asked.replace, changed, partial(progress, f"score {method.name}"))
            if changed is not None:
                refreshed[method.name] = changed
        except InputError as error:
            left_out[method.name] = _without_path(store, error)
    traced = [method.name for method in chosen if method.name not in left_out]
    if not traced:
        reasons = "\n".join(f"  {name}: {need}" for name, need in left_out.items())
        raise InputError(f"{store.path}: no method can be run.\n{reasons}")
    if asked.tail_patch:
        try:
            _tail_patch(store, subject, asked.queries, traced, partial(progress, "tail-patch"))
        except InputError as error:
            left_out["tail-patch"] = _without_path(store, error)
    return Trace(_table(store, traced), left_out, refreshed)


def _without_path(store: Store, error: InputError) -> str:
    return str(error).removeprefix(f"{store.path}: ")


def _subject(store: Store, model: str | Path | None, asked: TraceOptions) -> Subject:
    fingerprint: str | None = None
    if model is not None:
        from attrstore.ingest.model import causal

        fingerprint = causal.load(model, device="cpu").fingerprint
    else:
        known = encoders.load_all(store, "gradient") or encoders.load_all(store, "representation")
        if known:
            fingerprint = known[0].model_fingerprint
            paths = dict(store.rows("SELECT fingerprint, path FROM models"))
            if len({encoder.model_fingerprint for encoder in known}) > 1:
                there = ", ".join(sorted({paths[encoder.model_fingerprint] for encoder in known}))
                raise InputError(
                    f"{store.path}: which model? Give {flag('model')} PATH. It has encodings of {there}"
                )
            model = paths[fingerprint]
    folder = None if model is None else Path(model)
    state = None if asked.optimizer_state is None else Path(asked.optimizer_state)
    return Subject(fingerprint, folder, state, asked.device, asked.mirrored)


def _what_changed(store: Store, method: Method) -> str | None:
    """Say why the scoring of the method's name is stale; None where it is not, or is not there."""
    query = "SELECT reasons FROM scoring_status WHERE name = $name AND method = $name AND stale"
    reasons: str | None = store.value(query, {"name": method.name})
    return reasons


def _score(
    store: Store, method: Method, subject: Subject, replace: bool, changed: str | None, progress: Progress
) -> None:
    """Score under the method's name, unless that is done and nothing has changed since."""
    known = store.value("SELECT method FROM scorings WHERE name = $name", {"name": method.name})
    if known == method.name and not replace and changed is None:
        return
    if changed is not None:
        before = store.named("trace", "made_with", {"name": method.name}).fetchall()
        if before:
            score(store, progress=progress, **json.loads(before[0][0]))
            return
    if known not in (None, method.name):
        raise InputError(
            f"the scoring of this name is one of {known}. Score that again under another {flag('name')}."
        )
    options = _options(store, method, subject)
    if "device" in method.option_names:
        options["device"] = subject.device
    score(store, method.name, progress=progress, **options)


def _options(store: Store, method: Method, subject: Subject) -> dict[str, Any]:
    """Choose what the method reads; raises `InputError` with what it needs where that is not there."""
    reads = method.reads
    if reads.kind == "model":
        return _of_model(subject)
    if reads.kind == "lexical":
        current_index(store)
        return {}
    if reads.kind != "gradient":
        model = subject.fingerprint if reads.kind == "representation" else None
        return {"encoder": encoders.choose(store, reads.kind, model=model).encoder_id}
    if reads.several:
        return {"encoders": [encoder.encoder_id for encoder in _checkpoints(store, subject)]}
    encoder = _gradients(store, subject, corrected=reads.correction != "plain")
    options = {"encoder": encoder.encoder_id}
    if reads.correction == "both":
        options["query_encoder"] = less.plain(store, encoder).encoder_id
    return options


def _of_model(subject: Subject) -> dict[str, Any]:
    if not subject.mirrored:
        raise InputError(
            f"takes a pass over the corpus for each query. {flag('mirrored')} 10 runs it for the first ten."
        )
    if subject.folder is None:
        raise InputError(f"which model? Give {flag('model')} PATH.")
    return {"model": subject.folder, "queries": subject.mirrored}


def _gradients(store: Store, subject: Subject, *, corrected: bool) -> Encoder:
    """Return the first gradient encoder of the model with (or without) the optimizer's correction, or else any."""
    if not encoders.load_all(store, "gradient"):
        encoders.choose(store, "gradient")  # says how to make one
    own = [e for e in encoders.load_all(store, "gradient") if e.model_fingerprint == subject.fingerprint]
    if not own:
        raise InputError(
            f"no gradient encodings of {subject.folder}. Make them: {encoders.COMMANDS['gradient']} {store.path} "
            f"--model {subject.folder}"
        )
    fitting = [e for e in own if _is_plain(e) != corrected and not e.spec.get("kronecker")]
    return (fitting or own)[0]


def _is_plain(encoder: Encoder) -> bool:
    return encoder.spec.get("correction") == "none" and not encoder.spec.get("kronecker")


def _checkpoints(store: Store, subject: Subject) -> list[Encoder]:
    """Return the plain encoders, one a model, that differ from the first of this model in the model alone."""
    own = _gradients(store, subject, corrected=False)

    def recipe(encoder: Encoder) -> dict[str, object]:
        return {key: value for key, value in encoder.spec.items() if key not in ("model", "tokenizer")}

    same = [e for e in encoders.load_all(store, "gradient") if recipe(e) == recipe(own)]
    if not _is_plain(own) or len(same) < 2:
        raise InputError(
            f"needs two checkpoints of the run. For each: {encoders.COMMANDS['gradient']} {store.path} --model "
            "CHECKPOINT, without --optimizer-state"
        )
    return same


def _tail_patch(
    store: Store, subject: Subject, queries: int, scorings: list[str], progress: Progress
) -> None:
    from attrstore.ingest.measure.tail_patch import tail_patch

    tail_patch(
        store,
        top=TOP,
        scorings=scorings,
        queries=queries,
        model=subject.folder,
        optimizer_state=subject.optimizer_state,
        device=subject.device,
        progress=progress,
    )


def _table(store: Store, names: list[str]) -> Report:
    cursor = store.named("trace", "table", {"names": names})
    return Report(tuple(column[0] for column in cursor.description or ()), cursor.fetchall())
