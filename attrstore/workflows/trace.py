"""Fact tracing: every method that a store has the encodings for, judged by what it finds and by what that moves.

The table of TrackStar's paper (arXiv 2410.17413): MRR and hit@10 against the labels, and tail-patch, the change of
the target's log-probability by one training step on each of the ten strongest proponents.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attrstore import html
from attrstore.errors import InputError, flag
from attrstore.evaluation.report import Report
from attrstore.lexical.index import current_index
from attrstore.methods import every_method, find, less
from attrstore.runs import writes
from attrstore.scoring import score
from attrstore.vectors import encoders

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from attrstore.methods import Method
    from attrstore.progress import Progress
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

    Stages = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is

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
    *,
    methods: Sequence[str] = (),
    queries: int = 300,
    mirrored: int = 0,
    model: str | Path | None = None,
    optimizer_state: str | Path | None = None,
    tail_patch: bool = True,
    replace: bool = False,
    device: str = "auto",
    progress: Stages = lambda what, done, total: None,
) -> Trace:
    """Score by each method whose encodings are there, measure the proponents, and return the table.

    A scoring called like its method stays unless it is stale, and so does every measured pair: the same call goes on
    where one was stopped. A stale one is scored again with the options that it was made with.

    Args:
        methods: names; all there are, if none is given.
        queries: tail-patch is over the first so many, by query_id; MRR and hit@10 are over all.
        mirrored: run that method for the first so many queries, each with a pass over the corpus.
        model: folder of the model to explain; the only one that the store has encodings of, if not given.
        optimizer_state: of the Adam-scaled step; `optimizer.pt` in the model's folder, if it is there. Without one
            the step is a plain gradient's.
        tail_patch: measure the proponents; pairs that are measured already count in any case.
        replace: score again what is scored.
        device: auto, cpu, cuda.
        progress: called with what is being done, how much of it is done, and how much there is.

    Raises:
        InputError: no such method, an option is wrong, several models and none named, or no method can be run.
    """
    for option, number, least in ((flag("queries"), queries, 1), (flag("mirrored"), mirrored, 0)):
        if number < least:
            raise InputError(f"{option} {number}: must be at least {least}")
    chosen = [find(name) for name in methods] or list(every_method().values())
    subject = _subject(store, model, optimizer_state, device, mirrored)
    left_out: dict[str, str] = {}
    refreshed: dict[str, str] = {}
    for method in chosen:
        changed = None if replace else _what_changed(store, method)
        try:
            _score(store, method, subject, replace, changed, partial(progress, f"score {method.name}"))
            if changed is not None:
                refreshed[method.name] = changed
        except InputError as error:
            left_out[method.name] = _without_path(store, error)
    traced = [method.name for method in chosen if method.name not in left_out]
    if not traced:
        reasons = "\n".join(f"  {name}: {need}" for name, need in left_out.items())
        raise InputError(f"{store.path}: no method can be run.\n{reasons}")
    if tail_patch:
        try:
            _tail_patch(store, subject, queries, traced, partial(progress, "tail-patch"))
        except InputError as error:
            left_out["tail-patch"] = _without_path(store, error)
    return Trace(_table(store, traced), left_out, refreshed)


def _without_path(store: Store, error: InputError) -> str:
    return str(error).removeprefix(f"{store.path}: ")


def _subject(
    store: Store, model: str | Path | None, state: str | Path | None, device: str, mirrored: int
) -> Subject:
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
                raise InputError(f"{store.path}: which model? Give --model PATH. It has encodings of {there}")
            model = paths[fingerprint]
    folder = None if model is None else Path(model)
    return Subject(fingerprint, folder, None if state is None else Path(state), device, mirrored)


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
