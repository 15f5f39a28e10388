-- The table of fact tracing.

-- name: table
-- One row per scoring: each metric with its 95% bootstrap interval over queries: MRR and hit@10 over the
-- `labelled_queries`, tail-patch over the `tail_patch_queries` of the `tail_patch_measured`; see `method_report`.
SELECT
    method_report.name, method_report.family, method_report.encoder, method_report.model, method_report.queries,
    labelled_queries, method_report.mrr,
    max(low) FILTER (metric = 'mrr') AS mrr_low,
    max(high) FILTER (metric = 'mrr') AS mrr_high,
    method_report.hit_at_10,
    max(low) FILTER (metric = 'hit_at_10') AS hit_at_10_low,
    max(high) FILTER (metric = 'hit_at_10') AS hit_at_10_high,
    tail_patch_queries, tail_patch_logprob,
    max(low) FILTER (metric = 'tail_patch_logprob') AS tail_patch_logprob_low,
    max(high) FILTER (metric = 'tail_patch_logprob') AS tail_patch_logprob_high,
    tail_patch_measured, tail_patch_model, tail_patch_optimizer, tail_patch_learning_rate, partial, stale
FROM method_report
LEFT JOIN report_intervals() AS intervals ON intervals.name = method_report.name
WHERE list_contains($names, method_report.name)
GROUP BY ALL
ORDER BY method_report.mrr DESC NULLS LAST, method_report.name;

-- name: made_with
-- The call that made a scoring, as `attrstore.scoring.score` takes it; no row where it was not made by that.
SELECT parameters
FROM runs
WHERE job = 'score' AND state = 'finished' AND parameters ->> 'name' = $name
ORDER BY run_id DESC
LIMIT 1
