-- name: values
-- The value of a column for each example that is to be ranked.
SELECT example_id, coalesce(metadata ->> $by, CASE WHEN $by = 'source' THEN source END) AS value
FROM examples SEMI JOIN selected_examples USING (example_id)

-- name: insert
INSERT INTO score_groups
SELECT $scoring, query_id, grouped_by, value, examples, total, mean, q05, q25, median, q75, q95 FROM aggregated
