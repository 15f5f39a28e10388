-- The table of fact tracing.

-- name: table
-- One row per scoring: each metric with its 95% bootstrap interval over queries. `queries` is how many were ranked,
-- `tail_patched` over how many of them tail-patch is.
WITH counted AS (
    SELECT name, count(*) AS queries, count(tail_patch_logprob) AS tail_patched FROM query_report GROUP BY name
)
SELECT
    scorings.name, scorings.family, encoders.name AS encoder, coalesce(counted.queries, 0) AS queries,
    max(mean) FILTER (metric = 'mrr') AS mrr,
    max(low) FILTER (metric = 'mrr') AS mrr_low,
    max(high) FILTER (metric = 'mrr') AS mrr_high,
    max(mean) FILTER (metric = 'hit_at_10') AS hit_at_10,
    max(low) FILTER (metric = 'hit_at_10') AS hit_at_10_low,
    max(high) FILTER (metric = 'hit_at_10') AS hit_at_10_high,
    max(mean) FILTER (metric = 'tail_patch_logprob') AS tail_patch_logprob,
    max(low) FILTER (metric = 'tail_patch_logprob') AS tail_patch_logprob_low,
    max(high) FILTER (metric = 'tail_patch_logprob') AS tail_patch_logprob_high,
    coalesce(counted.tail_patched, 0) AS tail_patched
FROM scorings
LEFT JOIN report_intervals() AS intervals USING (name)
LEFT JOIN counted USING (name)
LEFT JOIN encoders USING (encoder_id)
WHERE list_contains($names, scorings.name)
GROUP BY ALL
ORDER BY mrr DESC NULLS LAST, scorings.name;
