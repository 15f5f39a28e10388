-- name: queries
-- The first queries, by query_id.
SELECT query_id, prompt, target, original
FROM queries LEFT JOIN query_originals USING (query_id)
ORDER BY query_id LIMIT $n

-- name: examples
SELECT example_id, text, shape, original
FROM examples SEMI JOIN selected_examples USING (example_id) LEFT JOIN example_originals USING (example_id)
ORDER BY example_id
