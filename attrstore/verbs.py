"""What one does with a store, each in one call. A verb imports its job when it is called: opening loads none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from attrstore.errors import extras_named
from attrstore.progress import Progress, Stages, silent, silent_stages

if TYPE_CHECKING:
    import polars
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from attrstore.check import Finding
    from attrstore.evaluation.options import SubsetFields, SubsetOptions
    from attrstore.evaluation.subsets import Made
    from attrstore.ingest.encode.job import Encoded
    from attrstore.ingest.encode.recipes import (
        EmbeddingFields,
        EmbeddingRecipe,
        GradientFields,
        GradientRecipe,
        RepresentationFields,
        RepresentationRecipe,
    )
    from attrstore.ingest.encode.run import EncodedRun
    from attrstore.ingest.files.given import Given
    from attrstore.ingest.files.options import LossFields, LossOptions, MatrixFields, MatrixOptions
    from attrstore.ingest.files.staging import Counts
    from attrstore.ingest.lexical import Indexed
    from attrstore.ingest.measure.options import TailPatchFields, TailPatchOptions
    from attrstore.ingest.measure.tail_patch import Measured
    from attrstore.ingest.model.memory import InMemory
    from attrstore.lexical.index import IndexFields
    from attrstore.scoring import Scoring
    from attrstore.shards import Attached
    from attrstore.store import Store
    from attrstore.workflows.ask import Answer
    from attrstore.workflows.options import AskFields, AskOptions, TraceFields, TraceOptions
    from attrstore.workflows.trace import Trace


class Verbs:
    """The jobs as methods of `Store`.

    Those that write need `attrstore.open(path, writable=True)`; on another store they raise `StoreError` before any
    work. Where a job can be stopped it raises `Interrupted`, keeps what it committed, and the same call goes on.
    """

    @property
    def _store(self) -> Store:
        return cast("Store", self)

    # Texts

    def add_corpus(
        self,
        files: Given,
        *,
        id: str = "id",  # noqa: A002
        text: str = "text",
        source: str = "source",
        skip_bad: bool = False,
        replace: bool = False,
        progress: Progress = silent,
    ) -> Counts:
        """Add training examples: all of them or, on an error, none. Known ones stay as they are.

        Args:
            files: a name, glob or folder of jsonl, csv, tsv, parquet or Arrow files, or several; or rows: an iterable
                of dictionaries, or a table of polars, pandas or Arrow.
            id: the column with the example's own id.
            text: the column with the text that the model was trained on.
            source: the column that says where it comes from; it may be absent. Other columns become metadata.
            skip_bad: leave out rows that cannot be used, and count them.
            replace: let a changed text replace the old one, and drop what was derived from it.
            progress: called with the bytes (of rows in memory, the rows) read and those to read.

        Returns:
            How many rows were added, unchanged, updated, replaced and skipped.

        Raises:
            InputError: what is wrong, by file and line; the store is as it was.
        """
        from attrstore.ingest.files.corpus import ingest_corpus

        return ingest_corpus(
            self._store, files, id=id, text=text, source=source, skip_bad=skip_bad, replace=replace, progress=progress
        )  # fmt: skip

    def add_queries(
        self,
        files: Given,
        *,
        id: str = "id",  # noqa: A002
        prompt: str = "prompt",
        target: str = "target",
        skip_bad: bool = False,
        replace: bool = False,
        progress: Progress = silent,
    ) -> Counts:
        """Add prompts with the targets whose probability is explained, as `add_corpus` adds examples.

        Args:
            target: the column with the target, kept to the character: a leading space matters to a tokenizer.

        Raises:
            InputError: what is wrong, by file and line; the store is as it was.
        """
        from attrstore.ingest.files.queries import ingest_queries

        return ingest_queries(
            self._store, files, id=id, prompt=prompt, target=target, skip_bad=skip_bad, replace=replace,
            progress=progress,
        )  # fmt: skip

    def add_labels(
        self,
        files: Given,
        *,
        query: str = "query_id",
        example: str = "example_id",
        label: str = "label",
        skip_bad: bool = False,
        replace: bool = False,
        progress: Progress = silent,
    ) -> Counts:
        """Add ground truth, pairs of a query and an example, as `add_corpus` adds examples.

        Args:
            query, example: the columns with the query's and the example's own id.
            label: the column with a number, above 0 for an example that a good method ranks first; 1 where absent.

        Raises:
            InputError: what is wrong, by file and line, also an id that the store does not have.
        """
        from attrstore.ingest.files.labels import ingest_labels

        return ingest_labels(
            self._store, files, query=query, example=example, label=label, skip_bad=skip_bad, replace=replace,
            progress=progress,
        )  # fmt: skip

    # Encodings

    @extras_named()
    def encode_gradients(
        self,
        recipe: GradientRecipe | None = None,
        *,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        optimizer_state: str | Path | None = None,
        name: str | None = None,
        progress: Progress = silent,
        **fields: Unpack[GradientFields],
    ) -> Encoded:
        """Encode the gradient of every example and query that has no encoding yet (TrackStar, arXiv 2410.17413).

        An encoding has K x K numbers for each linear map (K is `projection_dim`), quantised by `code`; a query's are
        float32. Losses are summed over tokens, in nats.

        Args:
            recipe, fields: `attrstore.GradientRecipe`, or some of its fields: `projection_dim=16, code="1bit"`.
            model: folder of a Hugging Face causal LM, or of a LoRA adapter of one; a GGUF file; or a model of
                transformers in memory, which stays as it was.
            tokenizer: of a model in memory.
            optimizer_state: file of the optimizer's state_dict (AdamW or Adafactor), whose second moment corrects.
            name: of the encoder; made from the recipe if not given.
            progress: called with the examples encoded and those to encode.

        Raises:
            InputError: no examples, or the model, its optimizer's state or a field cannot be used.
            MismatchError: an encoder of this name was made otherwise; both values are shown.
        """
        from attrstore.ingest.encode.gradients import ingest_gradients

        return ingest_gradients(
            self._store, recipe, model=_given(model, tokenizer), optimizer_state=optimizer_state, name=name,
            progress=progress, **fields,
        )  # fmt: skip

    @extras_named()
    def encode_run(
        self,
        recipe: GradientRecipe | None = None,
        *,
        run: str | Path,
        optimizer_state: str | Path | None = None,
        name: str | None = None,
        progress: Progress = silent,
        **fields: Unpack[GradientFields],
    ) -> EncodedRun:
        """Encode the gradients at every checkpoint of a training run, for `tracincp` (arXiv 2002.08484).

        Args:
            recipe, fields: as for `encode_gradients`.
            run: folder with the folders checkpoint-N of the transformers Trainer, or of
                `attrstore.callback.KeepForAttribution`.
            optimizer_state: `none` to leave out the states that lie in the checkpoints.
            name: of the encoders, before each one's step.

        Returns:
            `encoders` and `weights`, as the method takes them: names, and the learning rates that were logged.

        Raises:
            InputError, MismatchError: as `encode_gradients`; a learning rate is not known.
        """
        from attrstore.ingest.encode.run import ingest_run

        return ingest_run(
            self._store, recipe, run=run, optimizer_state=optimizer_state, name=name, progress=progress, **fields
        )  # fmt: skip

    @extras_named()
    def encode_representations(
        self,
        recipe: RepresentationRecipe | None = None,
        *,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        name: str | None = None,
        progress: Progress = silent,
        **fields: Unpack[RepresentationFields],
    ) -> Encoded:
        """Encode a hidden state of every example and prompt that has none yet (RepSim, arXiv 2409.19998).

        An encoding has as many numbers as the model's hidden size.

        Args:
            recipe, fields: `attrstore.RepresentationRecipe`, or some of its fields: `layer=6, pooling="mean"`.
            model, tokenizer: as for `encode_gradients`.

        Raises:
            InputError, MismatchError: as `encode_gradients`.
        """
        from attrstore.ingest.encode.representations import ingest_representations

        return ingest_representations(
            self._store, recipe, model=_given(model, tokenizer), name=name, progress=progress, **fields
        )

    @extras_named()
    def encode_embeddings(
        self,
        recipe: EmbeddingRecipe | None = None,
        *,
        model: str | Path,
        name: str | None = None,
        progress: Progress = silent,
        **fields: Unpack[EmbeddingFields],
    ) -> Encoded:
        """Embed every example, and every query's prompt and target, that has no embedding yet (arXiv 2004.04906).

        Args:
            recipe, fields: `attrstore.EmbeddingRecipe`, or some of its fields: `query_prefix="query: "`.
            model: folder of a Hugging Face encoder or causal LM, or of a sentence-transformers model.

        Raises:
            InputError, MismatchError: as `encode_gradients`.
        """
        from attrstore.ingest.encode.embeddings import ingest_embeddings

        return ingest_embeddings(self._store, recipe, model=model, name=name, progress=progress, **fields)

    def attach(self, folder: str | Path, *, progress: Progress = silent) -> Attached:
        """Bring in the encodings that `attrstore ingest ... --shards FOLDER` wrote; what is there already stays.

        Args:
            folder: or a URL that fsspec knows, such as s3://bucket/shards.
            progress: called with the rows attached and those to attach.

        Raises:
            InputError: the folder has no finished shard.
            MismatchError: a file is torn, altered or of an encoder that the store does not have; each is named, and
                the store is as it was.
        """
        from attrstore.folders import folder_at
        from attrstore.shards import attach

        return attach(self._store, folder_at(folder), progress)

    def index_lexical(
        self, *, rebuild: bool = False, progress: Progress = silent, **fields: Unpack[IndexFields]
    ) -> Indexed:
        """Index the words of the examples that are not in the index yet, for BM25 (Okapi at TREC-3).

        Args:
            rebuild: make the index anew, to change pattern, stemmer or fold.
            fields: of `attrstore.lexical.index.Index`; what is not given stays as the index has it.

        Raises:
            InputError: no examples, or a field out of range.
            MismatchError: pattern, stemmer or fold differ from the index, without `rebuild`.
        """
        from attrstore.ingest.lexical import ingest_lexical

        return ingest_lexical(self._store, rebuild=rebuild, progress=progress, **fields)

    # Scores

    def score(
        self,
        method: str,
        *,
        name: str | None = None,
        top_k: int = 100,
        where: str | None = None,
        group_by: str | None = None,
        replace: bool = True,
        progress: Progress = silent,
        **options: Any,
    ) -> Scoring:
        """Rank every example for every query by a method and keep the result; higher is stronger.

        Args:
            method: one of `attrstore.methods.every_method()`, each with its paper.
            name: of the scoring; the method's if not given. One of that name is replaced, if `replace`.
            top_k: proponents, and opponents, kept for each query, besides all labelled pairs.
            where: an SQL predicate over `examples`, such as "source = 'wiki'".
            group_by: `source` or a key of the metadata: the scores of all examples by query and value of it, in the
                views `group_influence` and `group_report`.
            options: of the method: `every_method()[method].options`.

        Raises:
            InputError: no such method or option, nothing encoded for it, or a bad predicate.
        """
        from attrstore.scoring import score

        return score(
            self._store, method, name=name, top_k=top_k, where=where, group_by=group_by, replace=replace,
            progress=progress, **options,
        )  # fmt: skip

    @extras_named()
    def trace(
        self,
        options: TraceOptions | None = None,
        *,
        model: str | Path | None = None,
        progress: Stages = silent_stages,
        **fields: Unpack[TraceFields],
    ) -> Trace:
        """Score by every method whose encodings are there and measure the proponents (arXiv 2410.17413, table 1).

        Args:
            options, fields: `attrstore.workflows.options.TraceOptions`, or some of its fields: methods, queries,
                optimizer_state, tail_patch, ...
            model: its folder; the only one that was encoded, if not given.

        Returns:
            `table`, one row a method with 95% intervals, and `left_out`: what each of the others needs.
        """
        from attrstore.workflows.trace import trace

        return trace(self._store, options, model=model, progress=progress, **fields)

    @extras_named()
    def tail_patch(
        self,
        options: TailPatchOptions | None = None,
        *,
        model: str | Path | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        progress: Progress = silent,
        **fields: Unpack[TailPatchFields],
    ) -> Measured:
        """Measure what one training step on each strong proponent does to its query's target, in nats.

        Args:
            options, fields: `attrstore.ingest.measure.options.TailPatchOptions`, or some of its fields: top, queries,
                scorings, optimizer_state, ...
            model, tokenizer: as for `encode_gradients`; the store's only model, if not given.

        Raises:
            InputError: nothing is scored, or an option or the model cannot be used.
        """
        from attrstore.ingest.measure.tail_patch import tail_patch

        given = None if model is None else _given(model, tokenizer)
        return tail_patch(self._store, options, model=given, progress=progress, **fields)

    def import_scores(
        self,
        matrix: str | Path,
        options: MatrixOptions | None = None,
        *,
        name: str,
        replace: bool = True,
        progress: Progress = silent,
        **fields: Unpack[MatrixFields],
    ) -> Scoring:
        """Make a scoring of another tool's matrix: a row for each query, a column for each example.

        Args:
            options, fields: `attrstore.ingest.files.options.MatrixOptions`, or some of its fields: top_k,
                lower_is_stronger, ...

        Raises:
            InputError: another shape, or a cell that is no number; the store is as it was.
        """
        from attrstore.ingest.files.scores import import_scores

        return import_scores(
            self._store, matrix, options, name=name, replace=replace, progress=progress, **fields
        )

    def import_qrels(self, file: str | Path, *, skip_bad: bool = False, replace: bool = False) -> Counts:
        """Add the judgements of a TREC qrels file, `query 0 example relevance` a line, as labels.

        Raises:
            InputError: what is wrong, by file and line; the store is as it was.
        """
        from attrstore.ingest.files.qrels import import_qrels

        return import_qrels(self._store, file, skip_bad=skip_bad, replace=replace)

    def subsets(self, options: SubsetOptions | None = None, **fields: Unpack[SubsetFields]) -> Made:
        """Choose parts of the corpus to train on again, for LDS (arXiv 2303.14186): see `subset_texts`.

        Args:
            options, fields: `attrstore.evaluation.options.SubsetOptions`, or some of its fields: name, count, fraction,
                ...; with `scorings`, the corpus without their strongest proponents: `top=10`, or for QLD `share=0.01`.
        """
        from attrstore.evaluation.subsets import make

        return make(self._store, options, **fields)

    def import_losses(
        self,
        files: Given,
        options: LossOptions | None = None,
        *,
        subsets: str,
        progress: Progress = silent,
        **fields: Unpack[LossFields],
    ) -> Counts:
        """Add what models trained on the subsets lose on each target, summed over its tokens, in nats.

        Args:
            files: as for `add_corpus`.
            subsets: name of the set.
            options, fields: `attrstore.ingest.files.options.LossOptions`, or some of its fields: seed, subset, query,
                loss, replace.
        """
        from attrstore.ingest.files.losses import import_losses

        return import_losses(self._store, files, options, subsets=subsets, progress=progress, **fields)

    # Reading

    def report(self, **options: Any) -> polars.DataFrame:
        """Return one row a scoring: MRR, hit@10, recall@10 and @50, precision@1, MAP, tail-patch (nats), as a frame.

        Args:
            options: of `attrstore.evaluation.report.report`, one of: by, class_column, intervals, against,
                kinds, lds, leave_out, qld.
        """
        from attrstore.evaluation.report import report

        return report(self._store, **options)

    @extras_named()
    def ask(
        self,
        prompt: str,
        target: str | None = None,
        options: AskOptions | None = None,
        *,
        model: str | Path | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **fields: Unpack[AskFields],
    ) -> Answer:
        """Rank the examples for a prompt and a target that need not be in the store; nothing is written.

        Args:
            target: with its own leading space, where the tokenizer wants one; what the model says, if not given.
            options, fields: `attrstore.workflows.options.AskOptions`, or some of its fields: top, method, where, ...
            model, tokenizer: as for `encode_gradients`; where ingest saw it, if not given.
        """
        from attrstore.workflows.ask import ask

        given = None if model is None else _given(model, tokenizer)
        return ask(self._store, prompt, target, options, model=given, **fields)

    @extras_named()
    def search(self, text: str, top_k: int = 10) -> polars.DataFrame:
        """Return the examples that share words with any text, best first by BM25.

        Columns: rank, example_id, id, score, text, source, metadata.

        Raises:
            InputError: there is no lexical index, or it lacks examples.
        """
        from attrstore.lexical.index import search

        return search(self._store, text, top_k)

    def export(self, what: str, out: str | Path, *, file_format: str | None = None) -> int:
        """Write a table, view, scoring or SQL result to a file, complete or not at all; return the rows.

        Args:
            file_format: parquet, csv, jsonl, json, arrow, trec-run, trec-qrels or pair; the ending of `out` decides
                if not given.
        """
        from attrstore.export import export

        return export(self._store, what, Path(out), file_format=file_format)

    def check(self) -> list[Finding]:
        """Return the outcome of each check of the tables against each other; `ok` says whether it holds."""
        from attrstore.check import check

        return list(check(self._store))

    def info(self) -> dict[str, Any]:
        """Return what the store holds, how each part was made and how big it is (bytes), ready for JSON."""
        from attrstore.info import info

        return info(self._store)

    def _repr_html_(self) -> str:
        from attrstore.html import table

        counts = self.info()["rows"]
        return table(
            (str(self._store.path), "rows"), [(name, count) for name, count in counts.items() if count]
        )


def _given(
    model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> str | Path | InMemory:
    """Return a folder as it is, and a model in memory with its tokenizer."""
    if isinstance(model, str | Path):
        return model
    from attrstore.ingest.model.memory import InMemory

    return model if isinstance(model, InMemory) else InMemory(model, tokenizer)
