-- Imported losses, from the rows in `staged` (see ingest.sql): fields are the subset, the query's own id, the loss.

-- name: check
-- Say what is wrong with a row: not a loss, or something that the store does not have.
UPDATE staged
SET problem = CASE
    WHEN NOT coalesce(isfinite(try_cast(fields[3] AS DOUBLE)) AND try_cast(fields[3] AS DOUBLE) >= 0, false)
        THEN 'the loss ''' || fields[3] || ''' is not a number of nats, 0 or more'
    WHEN NOT EXISTS (FROM subsets WHERE subset_set = $set AND subset = try_cast(fields[1] AS DOUBLE))
        THEN 'no subset ''' || fields[1] || ''''
    WHEN NOT EXISTS (FROM queries WHERE external_id = fields[2]) THEN 'no query ''' || fields[2] || ''''
END
WHERE problem IS NULL

-- name: duplicates
SELECT subset, query, list({'file': file, 'line': line} ORDER BY file, line)[:2] AS places, count(*) OVER () AS total
FROM (SELECT fields[1]::INTEGER AS subset, fields[2] AS query, file, line FROM staged)
GROUP BY subset, query HAVING count(*) > 1
ORDER BY min((file, line)) LIMIT $limit

-- name: decide
-- What becomes of each row: added, unchanged, replaced.
CREATE OR REPLACE TEMP TABLE decided AS
SELECT
    new.subset, query_id, new.file, new.line, new.loss, new.subset || ', ' || new.query AS external_id,
    CASE WHEN known.loss IS NULL THEN 'added' WHEN known.loss <> new.loss THEN 'replaced' ELSE 'unchanged' END AS action
FROM (
    SELECT fields[1]::INTEGER AS subset, fields[2] AS query, fields[3]::DOUBLE AS loss, file, line FROM staged
) AS new
JOIN queries ON queries.external_id = new.query
LEFT JOIN (SELECT subset, query_id, loss FROM subset_losses WHERE subset_set = $set AND seed = $seed) AS known
    USING (subset, query_id)

-- name: forget_replaced
DELETE FROM subset_losses
WHERE subset_set = $set AND seed = $seed
  AND (subset, query_id) IN (SELECT (subset, query_id) FROM decided WHERE action = 'replaced')

-- name: insert
INSERT INTO subset_losses
SELECT $set, subset, query_id, $seed, loss, ($origins::VARCHAR[])[file + 1]
FROM decided WHERE action <> 'unchanged' ORDER BY file, line
