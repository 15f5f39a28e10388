"""Mutants that each take something from a user, and the test that notices: python -m tests.mutation --planted."""

from __future__ import annotations

from pathlib import Path

from tests.mutants import Mutant

# file, what stands there (once), what would stand there, the test
PLANTED = [
    ("attrstore/vectors/stored.py", "if kept and next(iter(kept.values()))[0] == encoded:", "if kept:",
     "test_curvature.py::test_what_is_appended_counts_in_the_curvature"),
    ("sql/statements/encodings.sql", "GROUP BY shard\nORDER BY shard", "GROUP BY shard\nHAVING shard = 0",
     "test_stopping.py::test_every_shard_of_a_large_corpus_is_encoded"),
    ("attrstore/workflows/ask.py", "math.exp(-float(loss[0]))", "math.exp(float(loss[0]))",
     "test_targets.py::test_ask_gives_the_targets_probability"),
    ("ingest/model/sequences.py", "tokens[-min(len(tokens), context - len(opening)) :]",
     "tokens[: context - len(opening)]",
     "test_targets.py::test_a_query_longer_than_the_context_keeps_its_end"),
    ("ingest/model/causal.py", "if known and known[0][0] != loaded.tokenizer_fingerprint:", "if False:",
     "test_targets.py::test_a_known_model_with_another_tokenizer_is_refused"),
    ("sql/face/130_intervals.sql", "resample)), [0.025, 0.975]", "resample)), [0.05, 0.95]",
     "test_intervals.py::test_intervals_of_95_percent_cover_95_percent"),
    ("sql/face/130_intervals.sql", "quantile_cont(mean, [0.025, 0.975])", "quantile_cont(mean, [0.05, 0.95])",
     "test_intervals.py::test_a_difference_is_of_the_queries_that_both_have_and_apart_where_0_lies_outside"),
    ("sql/face/135_classes.sql", "[0.025, 0.975]", "[0.05, 0.95]",
     "test_intervals.py::test_intervals_of_95_percent_cover_95_percent"),
    ("sql/face/130_intervals.sql", "u < 0.367879441171442 THEN 0", "u < 0.467879441171442 THEN 0",
     "test_intervals.py::test_a_resample_draws_each_query_as_often_as_poisson_says"),
    ("sql/statements/scoring.sql", "% $one_in::UHUGEINT = 0", "% $one_in::UHUGEINT >= 0",
     "test_curvature.py::test_a_large_corpus_is_sampled_by_a_hash_of_its_ids"),
    ("attrstore/vectors/stored.py", "        if store.writable:\n", "        if False:\n",
     "test_curvature.py::test_a_second_score_reads_the_kept_curvature"),
    ("attrstore/vectors/curvature.py", "DAMPED_SHARE = 1000 / 65536", "DAMPED_SHARE = 4000 / 65536",
     "test_curvature.py::test_mixing_damps_the_papers_share_of_the_components"),
    ("attrstore/vectors/ends.py", "scores[rows[here], columns[place[here]]] = own[here].to(scores.dtype)", "pass",
     "test_scoring.py::test_a_labelled_pair_has_one_score_and_the_rank_of_that_score"),
    ("attrstore/vectors/ends.py", "(theirs == mine) & (example_ids <", "(theirs == mine) & (example_ids >",
     "test_one_order.py::test_ranks_follow_scores_in_ties_and_later_chunks"),
    ("ingest/files/scores.py", "place > n - top_k)", "place >= n - top_k)",
     "test_import_scores.py::test_as_many_opponents_are_kept_as_proponents"),
    ("ingest/stopping.py", "        stopped[0] = True\n        signal.signal(signal.SIGINT, previous)\n",
     "        stopped[0] = True\n",
     "test_stopping.py::test_the_first_is_noted_the_second_stops_and_then_all_is_as_it_was"),
    ("ingest/model/sequences.py", "if n_target > context - max(1, len(opening)):",
     "if n_target > context - len(opening):",
     "test_targets.py::test_a_target_as_long_as_the_context_is_skipped_and_one_shorter_counts_whole"),
    ("attrstore/vectors/codes.py", "INT8_STEP = 1 / 32", "INT8_STEP = 2 / 32",
     "test_codes.py::test_int8_rounds_to_steps_of_a_32nd_of_a_standard_deviation"),
    ("ingest/encode/recipes.py", '"damping": 0.1,', '"damping": 0.5,',
     "test_gradient_math.py::test_kronecker_whitening_uses_the_factors_of_the_sample"),
    ("attrstore/vectors/kept.py", "for part in (chunk.example_ids, chunk.scales, chunk.code[:, :16].contiguous()):",
     "for part in (chunk.example_ids, chunk.scales):",
     "test_products.py::test_weights_of_a_code_that_changed_are_not_taken_for_the_old_ones"),
    ("sql/statements/scoring.sql", "AND norm = $norm AND recipe <> $recipe", "AND norm = $norm AND recipe = ''",
     "test_products.py::test_weights_under_an_earlier_curvature_are_dropped"),
]  # fmt: skip


def planted(root: Path) -> list[tuple[Mutant, str]]:
    """Return each mutant and its test; fails where the text that it changes is not there once."""
    found = []
    for file, old, new, test in PLANTED:
        text = (root / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file}: {text.count(old)} times: {old}"
        found.append((Mutant(file, text.index(old), text.index(old) + len(old), new), f"tests/{test}"))
    return found
