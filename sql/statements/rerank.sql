-- name: scoring
SELECT scoring_id, family, method, spec, encoder_id, n_examples FROM scorings WHERE name = $name

-- name: asked
-- The queries that the scoring ranked, the first so many of the store's.
SELECT query_id
FROM queries
SEMI JOIN (SELECT query_id FROM queries ORDER BY query_id LIMIT $queries) USING (query_id)
SEMI JOIN (SELECT query_id FROM scoring_queries WHERE scoring_id = $scoring) USING (query_id)
ORDER BY query_id

-- name: pending
-- The work list for some queries: each candidate that has no exact score with one of them yet.
WITH candidates AS (
    SELECT query_id, example_id
    FROM scores
    WHERE scoring_id = $scoring AND rank BETWEEN 1 AND $top AND list_contains($queries, query_id)
)
SELECT example_id, list(query_id ORDER BY query_id) AS query_ids
FROM candidates
ANTI JOIN (SELECT query_id, example_id FROM exact_scores WHERE recipe = $recipe) USING (query_id, example_id)
GROUP BY example_id
ORDER BY example_id

-- name: insert
INSERT INTO exact_scores SELECT $recipe, query_id, example_id, dot, cosine, cosine_block FROM measured

-- name: ranked
-- The candidates by their exact scores. Those without one are left out.
SELECT
    query_id, example_id,
    row_number() OVER (PARTITION BY query_id ORDER BY score DESC, example_id)::INTEGER AS rank, score
FROM (
    SELECT
        query_id, example_id,
        (CASE $method WHEN 'dot' THEN dot WHEN 'cosine' THEN cosine ELSE cosine_block END)::DOUBLE AS score
    FROM exact_scores
    SEMI JOIN (
        SELECT query_id, example_id FROM scores WHERE scoring_id = $scoring AND rank BETWEEN 1 AND $top
    ) USING (query_id, example_id)
    WHERE recipe = $recipe AND list_contains($queries, query_id)
)
WHERE isfinite(score)
