-- name: scoring
SELECT scoring_id, family, method, spec, encoder_id, n_examples FROM scorings WHERE name = $name

-- name: asked
-- The queries that every scoring ranked, of the first so many of the store's.
SELECT query_id
FROM queries
SEMI JOIN (SELECT query_id FROM queries ORDER BY query_id LIMIT $queries) USING (query_id)
SEMI JOIN (
    SELECT query_id FROM scoring_queries WHERE list_contains($scorings, scoring_id)
    GROUP BY query_id
    HAVING count(*) = len($scorings)
) USING (query_id)
ORDER BY query_id

-- name: candidates
-- The scorings take turns: their first proponents, then their second ones, each example once, the first `top`.
CREATE OR REPLACE TEMP TABLE rerank_candidates AS
SELECT query_id, example_id
FROM (
    SELECT query_id, example_id, min((rank, list_position($scorings, scoring_id))) AS turn
    FROM scores
    WHERE list_contains($scorings, scoring_id) AND rank BETWEEN 1 AND $top
    GROUP BY query_id, example_id
)
QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY turn) <= $top

-- name: drop_candidates
DROP TABLE IF EXISTS temp.rerank_candidates

-- name: pending
-- The work list for some queries: each candidate that has no exact score with one of them yet.
SELECT example_id, list(query_id ORDER BY query_id) AS query_ids
FROM rerank_candidates
ANTI JOIN (SELECT query_id, example_id FROM exact_scores WHERE recipe = $recipe) USING (query_id, example_id)
WHERE list_contains($queries, query_id)
GROUP BY example_id
ORDER BY example_id

-- name: amount
-- How many pairs of some queries have no exact score yet, and of how many examples.
SELECT count(*), count(DISTINCT example_id)
FROM rerank_candidates
ANTI JOIN (SELECT query_id, example_id FROM exact_scores WHERE recipe = $recipe) USING (query_id, example_id)
WHERE list_contains($queries, query_id)

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
        (CASE $norm WHEN 'none' THEN dot WHEN 'vector' THEN cosine ELSE cosine_block END)::DOUBLE AS score
    FROM exact_scores
    SEMI JOIN rerank_candidates USING (query_id, example_id)
    WHERE recipe = $recipe AND list_contains($queries, query_id)
)
WHERE isfinite(score)
