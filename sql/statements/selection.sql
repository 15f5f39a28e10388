-- name: strongest
-- The share of each group (or of all) whose number is largest; at least one. Ties go to the example that came first.
SELECT external_id AS example, part
FROM (
    SELECT external_id, part, row_number() OVER (PARTITION BY part ORDER BY value DESC, example_id) AS place,
           count(*) OVER (PARTITION BY part) AS n
    FROM (
        SELECT external_id, example_id, value,
               CASE WHEN $by::VARCHAR IS NOT NULL
                    THEN coalesce(metadata ->> $by, CASE WHEN $by = 'source' THEN source END) END AS part
        FROM aggregated JOIN examples USING (example_id)
    )
)
WHERE place <= greatest(1, ceil(n * $share))

-- name: encoder
SELECT name, model_fingerprint FROM encoders WHERE encoder_id = $id
