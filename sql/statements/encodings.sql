-- name: shards
-- The ranges of example ids that still hold work for an encoder.
SELECT example_id // $size AS shard, count(*) AS pending
FROM examples ANTI JOIN (SELECT example_id FROM encodings WHERE encoder_id = $encoder) USING (example_id)
GROUP BY shard
ORDER BY shard

-- name: pending_examples
-- One shard's work list: the examples without an encoding.
SELECT example_id, text, shape, original
FROM examples ANTI JOIN (SELECT example_id FROM encodings WHERE encoder_id = $encoder) USING (example_id)
LEFT JOIN example_originals USING (example_id)
WHERE example_id // $size = $shard
ORDER BY example_id

-- name: pending_queries
SELECT query_id, prompt, target, original
FROM queries ANTI JOIN (SELECT query_id FROM query_encodings WHERE encoder_id = $encoder) USING (query_id)
LEFT JOIN query_originals USING (query_id)
ORDER BY query_id

-- name: sample
-- A sample of the corpus that does not depend on the order of ingest.
SELECT example_id, text, shape, original
FROM examples LEFT JOIN example_originals USING (example_id)
ORDER BY md5(external_id), external_id LIMIT $n

-- name: has_chats
SELECT count(*) > 0
FROM (SELECT shape FROM example_originals UNION ALL SELECT shape FROM query_originals)
WHERE shape IN ('messages', 'chat completion')

-- name: insert_encodings
INSERT INTO encodings
SELECT $encoder, example_id, code, scales, n_tokens, loss, status FROM encoded

-- name: insert_query_encodings
INSERT INTO query_encodings
SELECT $encoder, query_id, vector, n_tokens, loss, status FROM encoded

-- name: statuses
-- How the examples of an encoder came out, by kind of status.
SELECT split_part(status, ':', 1) AS outcome, count(*) AS n
FROM encodings
WHERE encoder_id = $encoder
GROUP BY outcome

-- name: query_statuses
SELECT split_part(status, ':', 1) AS outcome, count(*) AS n
FROM query_encodings
WHERE encoder_id = $encoder
GROUP BY outcome

-- name: insert_projections
INSERT INTO projections SELECT $encoder, module, part, n_rows, scale, matrix FROM fitted

-- name: spreads
-- What the bits of codes on principal directions are laid out by, without the directions themselves.
SELECT module, part, n_rows, scale, matrix FROM projections
WHERE encoder_id = $encoder AND part IN ('spread_in', 'spread_out', 'pair_weights')

-- name: projections
SELECT module, part, n_rows, scale, matrix FROM projections WHERE encoder_id = $encoder

-- name: insert_weights
INSERT INTO encoder_weights
SELECT $encoder, part, encoded, weights FROM shares
WHERE NOT EXISTS (FROM encoder_weights WHERE encoder_id = $encoder)

-- name: causal_models
-- The models that can be trained on a text: not those that only embed.
SELECT path, fingerprint
FROM models
WHERE fingerprint NOT IN (SELECT model_fingerprint FROM encoders WHERE kind = 'embedding')
   OR fingerprint IN (SELECT model_fingerprint FROM encoders WHERE kind <> 'embedding')
ORDER BY path
