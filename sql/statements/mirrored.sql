-- name: queries
-- The first queries, by query_id.
SELECT query_id, prompt, target FROM queries ORDER BY query_id LIMIT $n

-- name: examples
SELECT example_id, text FROM examples SEMI JOIN selected_examples USING (example_id) ORDER BY example_id
