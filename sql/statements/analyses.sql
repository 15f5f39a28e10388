-- Analyses that the page offers beside its SQL box. The name is the title; every statement runs on its own.

-- name: status_of_every_scoring
FROM scoring_status;

-- name: methods_side_by_side
FROM method_report;

-- name: where_two_methods_agree_least
SELECT query, scoring, other_scoring, overlap_at_10, rank_correlation
FROM agreement
ORDER BY overlap_at_10, query
LIMIT 50;

-- name: mean_agreement_of_methods
SELECT scoring || ' and ' || other_scoring AS methods, round(avg(overlap_at_10), 4) AS overlap_at_10, count(*) AS queries
FROM agreement
GROUP BY ALL
ORDER BY overlap_at_10 DESC;

-- name: examples_that_drive_most_queries
SELECT example, count(DISTINCT query) AS queries, round(avg(score), 4) AS mean_score, any_value(text) AS text
FROM influence
WHERE rank BETWEEN 1 AND 10
GROUP BY example
ORDER BY queries DESC, example
LIMIT 50;

-- name: sources_of_the_first_ten
SELECT coalesce(source, 'none') AS source, count(*) AS proponents
FROM influence JOIN (SELECT external_id AS example, source FROM examples) USING (example)
WHERE rank BETWEEN 1 AND 10
GROUP BY ALL
ORDER BY proponents DESC;

-- name: facts_that_retrieval_finds_and_influence_does_not
SELECT query, prompt, target, example, influence_rank, retrieval_rank, text
FROM comparison
WHERE label > 0 AND retrieval_rank <= 3 AND (influence_rank IS NULL OR influence_rank > 100)
ORDER BY retrieval_rank, query
LIMIT 100;

-- name: kinds_of_proponents
FROM proponent_kinds;

-- name: tail_patch_by_rank
SELECT rank, round(avg(delta_logprob), 6) AS tail_patch, count(*) AS pairs
FROM scores JOIN tail_patches USING (query_id, example_id)
WHERE rank BETWEEN 1 AND 10
GROUP BY rank
ORDER BY rank;

-- name: runs
SELECT run_id, job, state, rows, started, finished - started AS took FROM runs ORDER BY run_id DESC;
