-- name: methods
-- One row per scoring.
FROM method_report;

-- name: by
-- One row per scoring and value of one key of the queries' metadata.
FROM report_by($key);

-- name: intervals
-- One row per scoring and metric, with its 95% bootstrap interval over queries.
FROM report_intervals();

-- name: differences
-- One row per other scoring and metric: how much it lies above the scoring of this name, query by query.
FROM report_differences($name);

-- name: kinds
-- One row per scoring: what its first ten proponents are, each kind as its share of them.
SELECT
    scorings.name, scorings.method, scorings.family, proponent_kinds.encoder, proponent_kinds.model,
    max(proponent_kinds.queries) AS queries, sum(n)::BIGINT AS proponents,
    max(share) FILTER (kind = 'states the fact') AS states_the_fact,
    max(share) FILTER (kind = 'shares subject and object') AS shares_subject_and_object,
    max(share) FILTER (kind = 'shares subject') AS shares_subject,
    max(share) FILTER (kind = 'shares object') AS shares_object,
    max(share) FILTER (kind = 'same relation') AS same_relation,
    max(share) FILTER (kind = 'other') AS other
FROM proponent_kinds
JOIN scorings ON scorings.name = proponent_kinds.scoring
GROUP BY ALL
ORDER BY scorings.family, states_the_fact DESC, scorings.name;

-- name: lds
-- One row per set of subsets and scoring; the last column says whether the scoring has every score that LDS needs.
FROM lds_report();

-- name: leave_out
-- One row per set of subsets and scoring, and one for examples left out at random.
FROM leave_out_report();

-- name: qld
-- One row per set of subsets and scoring; the last column says how many queries were asked about.
FROM qld_report();

-- name: keyed
-- How many queries and examples have a value under this key (an example's source counts as one).
SELECT
    (SELECT count(*) FROM queries WHERE metadata ->> $key IS NOT NULL) AS queries,
    (SELECT count(*) FROM examples
     WHERE coalesce(metadata ->> $key, CASE WHEN $key = 'source' THEN source END) IS NOT NULL) AS examples;

-- name: keys
-- The keys that there are, for the message when one is not.
SELECT
    (SELECT list(DISTINCT key ORDER BY key) FROM (SELECT unnest(json_keys(metadata)) AS key FROM queries)) AS queries,
    (SELECT list(DISTINCT key ORDER BY key) FROM (SELECT unnest(json_keys(metadata)) AS key FROM examples)) AS examples;

-- name: classes
-- Class attribution: one row per scoring.
SELECT name, queries, accuracy, cover, depth, shallowest FROM class_report($key);

-- name: class_intervals
-- The same and every other metric, with 95% bootstrap intervals: one row per scoring and metric.
SELECT * FROM (FROM report_intervals() UNION ALL FROM class_intervals($key))
ORDER BY metric = 'accuracy' DESC, metric = 'cover' DESC, metric, family, mean DESC, name;

-- name: standing
-- What the reader of any report should know of its scorings: partial and stale ones, those with one reason together.
SELECT
    CASE WHEN partial AND stale THEN 'partial and stale' WHEN partial THEN 'partial' ELSE 'stale' END AS standing,
    reasons, list(name ORDER BY name) AS names
FROM scoring_status
WHERE partial OR stale
GROUP BY ALL
ORDER BY min(family), min(name);

-- name: tail_patched
-- Tail-patch: the minimum, over how many queries the means are, and which scorings have measured others too or fewer.
SELECT
    smallest.queries AS minimum,
    max(tail_patch_queries) FILTER (NOT partial AND tail_patch_measured >= smallest.queries) AS shared,
    list({'name': name, 'queries': tail_patch_queries, 'measured': tail_patch_measured} ORDER BY name) AS scorings
FROM method_report
CROSS JOIN tail_patch_minimum AS smallest
WHERE tail_patch_measured > 0
GROUP BY tail_patch_model, smallest.queries
ORDER BY tail_patch_model;
