-- Files of encodings beside the store: `attrstore.shards`.

-- name: ranges
-- The ranges of example ids that hold examples without an encoding in the store or in `sharded`. A row of `sharded`
-- whose text is another one now does not count.
SELECT example_id // $size AS shard, count(*) AS pending
FROM (SELECT example_id, content_hash::VARCHAR AS content_hash FROM examples)
ANTI JOIN (SELECT example_id FROM encodings WHERE encoder_id = $encoder) USING (example_id)
ANTI JOIN sharded USING (example_id, content_hash)
GROUP BY shard
ORDER BY shard

-- name: pending
-- The work of one of them.
SELECT example_id, text, shape, original, content_hash
FROM (SELECT * REPLACE (content_hash::VARCHAR AS content_hash) FROM examples WHERE example_id // $size = $shard)
ANTI JOIN (SELECT example_id FROM encodings WHERE encoder_id = $encoder) USING (example_id)
ANTI JOIN (FROM sharded WHERE example_id // $size = $shard) USING (example_id, content_hash)
LEFT JOIN example_originals USING (example_id)
ORDER BY example_id

-- name: lacking
SELECT count(*), min_by(external_id, example_id)
FROM (SELECT example_id, external_id, content_hash::VARCHAR AS content_hash FROM examples)
ANTI JOIN (SELECT example_id FROM encodings WHERE encoder_id = $encoder) USING (example_id)
ANTI JOIN sharded USING (example_id, content_hash)

-- name: fitting
-- How many rows of a file, which is `shard`, are of texts that the store has.
SELECT count(*)
FROM shard JOIN examples ON examples.example_id = shard.example_id AND examples.content_hash::VARCHAR = shard.content_hash

-- name: attach
-- The range is said, so that of both tables only what may match is read. Rows keep the order in which they were
-- encoded: sums over a scan then round as in a store that a single process wrote.
INSERT INTO encodings
SELECT $encoder, example_id, code, scales, n_tokens, loss, status
FROM shard
SEMI JOIN (
    SELECT example_id, content_hash::VARCHAR AS content_hash FROM examples WHERE example_id BETWEEN $first AND $last
) USING (example_id, content_hash)
ANTI JOIN (
    SELECT example_id FROM encodings WHERE encoder_id = $encoder AND example_id BETWEEN $first AND $last
) USING (example_id)
ORDER BY place

-- name: missing
SELECT count(*)
FROM examples ANTI JOIN (SELECT example_id FROM encodings WHERE encoder_id = $encoder) USING (example_id)
