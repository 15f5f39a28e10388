-- name: scoring
-- The scoring called so, or the one of influence that is shown where none is named.
SELECT scoring_id, name, method, spec, encoder_id
FROM scorings
WHERE name = coalesce($name, (SELECT name FROM chosen_scorings WHERE family = 'influence'));

-- name: query
SELECT query_id, prompt, target, original
FROM queries LEFT JOIN query_originals USING (query_id)
WHERE external_id = $id;

-- name: example
SELECT example_id, text, shape, original
FROM examples LEFT JOIN example_originals USING (example_id)
WHERE external_id = $id;

-- name: strongest
-- The strongest proponents of a query.
SELECT examples.external_id
FROM scores JOIN examples USING (example_id)
WHERE scoring_id = $scoring AND query_id = $query AND rank BETWEEN 1 AND $top
ORDER BY rank;

-- name: stored_score
SELECT score FROM scores WHERE scoring_id = $scoring AND query_id = $query AND example_id = $example;

-- name: query_vector
SELECT vector FROM query_encodings WHERE encoder_id = $encoder AND query_id = $query AND vector IS NOT NULL;

-- name: code
SELECT code, scales FROM encodings WHERE encoder_id = $encoder AND example_id = $example AND code IS NOT NULL;

-- name: drop_tokens
DELETE FROM token_parts WHERE scoring_id = $scoring AND query_id = $query AND example_id = $example;

-- name: drop_blocks
DELETE FROM block_parts WHERE scoring_id = $scoring AND query_id = $query AND example_id = $example;

-- name: insert_tokens
INSERT INTO token_parts SELECT $scoring, $query, $example, side, position, start, token, part FROM token_rows;

-- name: insert_blocks
INSERT INTO block_parts SELECT $scoring, $query, $example, $source, position, block, part FROM block_rows;
