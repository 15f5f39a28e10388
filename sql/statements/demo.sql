-- What the demo prints at its end.

-- name: methods
-- The method table, in the order in which the methods build on each other: each metric as [mean, low, high], and over
-- how many queries tail-patch is.
SELECT
    method_report.name,
    max([mean, low, high]) FILTER (metric = 'mrr') AS mrr,
    max([mean, low, high]) FILTER (metric = 'tail_patch_logprob') AS tail_patch,
    (SELECT count(tail_patch_logprob) FROM query_report WHERE query_report.name = method_report.name) AS n
FROM method_report
LEFT JOIN report_intervals() AS intervals USING (name)
WHERE list_contains($methods, method_report.name)
GROUP BY method_report.name
ORDER BY list_position($methods, method_report.name);

-- name: typical
-- The middle query, by how many of their first ten the two rankings have in common, of those whose fact is stated three
-- times or more, that the model answers with a probability above one half, and whose statements both have among their
-- first ten. Where there is none (a model of few steps), of all queries.
WITH agreed AS (
    SELECT
        agreement.query, queries.prompt, queries.target, exp(-query_encodings.loss) AS probability,
        (queries.metadata ->> 'frequency')::INTEGER AS frequency, agreement.overlap_at_10,
        frequency >= 3 AND probability > 0.5 AND one.reciprocal_rank >= 0.1 AND other.reciprocal_rank >= 0.1 AS fits
    FROM agreement
    JOIN queries ON queries.external_id = agreement.query
    JOIN query_encodings USING (query_id)
    JOIN query_report AS one ON one.query = agreement.query AND one.name = agreement.scoring
    JOIN query_report AS other ON other.query = agreement.query AND other.name = agreement.other_scoring
    WHERE agreement.scoring = $influence AND agreement.other_scoring = $retrieval
),
candidates AS (
    SELECT *, row_number() OVER (ORDER BY overlap_at_10, query) AS place, count(*) OVER () AS n
    FROM agreed
    WHERE fits OR NOT EXISTS (FROM agreed WHERE fits)
)
SELECT query, prompt, target, probability, frequency, n AS candidates
FROM candidates
WHERE place = (n + 1) // 2;

-- name: proponents
-- The strongest proponents of one query under one scoring; `states` marks those that state the fact.
SELECT rank, text, coalesce(label, 0) > 0 AS states
FROM ranked_pairs
WHERE scoring = $scoring AND query = $query AND rank BETWEEN 1 AND $depth
ORDER BY rank;
