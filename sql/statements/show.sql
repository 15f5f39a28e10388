-- name: example
SELECT example_id, text, shape, original
FROM examples LEFT JOIN example_originals USING (example_id)
WHERE external_id = $name

-- name: query
SELECT query_id, prompt, target, original
FROM queries LEFT JOIN query_originals USING (query_id)
WHERE external_id = $name
