-- name: queries_in_order
-- The rows of a matrix: queries in the order of their ingest.
SELECT query_id, external_id FROM queries ORDER BY query_id

-- name: examples_in_order
-- The columns of a matrix: examples in the order of their ingest.
SELECT example_id, external_id FROM examples ORDER BY example_id
