-- name: pending
-- The work list: each proponent that is still to be measured, with the queries whose first `top` it is among.
-- A pair that several scorings have is there once.
WITH wanted AS (
    SELECT DISTINCT query_id, example_id
    FROM scores
    JOIN scorings USING (scoring_id)
    SEMI JOIN (SELECT query_id FROM queries ORDER BY query_id LIMIT $queries) USING (query_id)
    WHERE rank BETWEEN 1 AND $top AND list_contains($scorings, name)
),
measured AS (
    SELECT query_id, example_id
    FROM tail_patches
    WHERE model_fingerprint = $model AND optimizer = $optimizer AND learning_rate = $learning_rate
)
SELECT example_id, list(query_id ORDER BY query_id) AS query_ids
FROM wanted ANTI JOIN measured USING (query_id, example_id)
GROUP BY example_id
ORDER BY example_id

-- name: examples
SELECT example_id, text, shape, original
FROM examples LEFT JOIN example_originals USING (example_id)
WHERE list_contains($ids, example_id)

-- name: queries
SELECT query_id, prompt, target, original
FROM queries LEFT JOIN query_originals USING (query_id)
WHERE list_contains($ids, query_id)

-- name: insert
INSERT INTO tail_patches
SELECT query_id, example_id, $model, $optimizer, $learning_rate, base_logprob, delta_logprob, base_prob, delta_prob
FROM measured

-- name: measured
SELECT count(*)
FROM tail_patches
WHERE model_fingerprint = $model AND optimizer = $optimizer AND learning_rate = $learning_rate
