-- Subsets of the corpus for models that are trained again: made here, read by trainers, measured into subset_losses.

-- name: existing
SELECT count(*) FROM subsets WHERE subset_set = $set

-- name: sets
SELECT DISTINCT subset_set FROM subsets ORDER BY subset_set

-- name: forget_losses
DELETE FROM subset_losses WHERE subset_set = $set

-- name: forget_examples
DELETE FROM subset_examples WHERE subset_set = $set

-- name: forget_subsets
DELETE FROM subsets WHERE subset_set = $set

-- name: insert
-- $count subsets of one kind, numbered from $first.
INSERT INTO subsets
SELECT $set, $first + range, $kind, (SELECT count(*) FROM examples), $seed, NULL, NULL
FROM range($count::INTEGER)

-- name: leave_out_at_random
-- $n examples of each subset of the kind: those with the smallest hashes of seed, subset and the example's own id,
-- so that the same corpus gives the same subsets everywhere.
INSERT INTO subset_examples
SELECT subset_set, subset, example_id
FROM subsets, examples
WHERE subset_set = $set AND kind = $kind
QUALIFY row_number() OVER (
    PARTITION BY subset ORDER BY md5(concat_ws(' ', seed, subset, external_id)), example_id
) <= $n
ORDER BY subset, example_id

-- name: insert_proponents
-- One subset for each of these scorings and queries, numbered from $first.
INSERT INTO subsets
SELECT
    $set, $first + row_number() OVER (ORDER BY query_id, list_position($scorings, name)) - 1, 'leave-out',
    (SELECT count(*) FROM examples), $seed, name, query_id
FROM scorings, (SELECT query_id FROM queries ORDER BY query_id LIMIT $queries)
WHERE list_contains($scorings, name)

-- name: leave_out_proponents
INSERT INTO subset_examples
SELECT subset_set, subset, example_id
FROM subsets
JOIN scorings ON scorings.name = subsets.scoring
JOIN scores USING (scoring_id, query_id)
WHERE subset_set = $set AND kind = 'leave-out' AND rank BETWEEN 1 AND $n
ORDER BY subset, rank

-- name: shortest
-- The subset that could leave out least, for a scoring that does not rank enough.
SELECT subsets.scoring, queries.external_id, count(subset_examples.example_id) AS n
FROM subsets
JOIN queries USING (query_id)
LEFT JOIN subset_examples USING (subset_set, subset)
WHERE subset_set = $set AND kind = 'leave-out'
GROUP BY subsets.scoring, queries.external_id
ORDER BY n, queries.external_id, subsets.scoring
LIMIT 1

-- name: corpus_changed
-- The corpus's size when the set was made, and now.
SELECT min(n_examples), (SELECT count(*) FROM examples) FROM subsets WHERE subset_set = $set

-- name: origins
SELECT DISTINCT origin FROM subset_losses WHERE subset_set = $set ORDER BY origin

-- name: pending
-- The work list: retrainings for which a query has no loss yet, subset by subset within a seed.
SELECT subsets.subset, seeds.range AS seed
FROM subsets
CROSS JOIN range($retrainings::BIGINT) AS seeds
LEFT JOIN (
    SELECT subset, seed, count(*) AS n
    FROM subset_losses
    WHERE subset_set = $set AND list_contains($queries::BIGINT[], query_id)
    GROUP BY subset, seed
) AS measured ON measured.subset = subsets.subset AND measured.seed = seeds.range
WHERE subset_set = $set AND coalesce(measured.n, 0) < len($queries::BIGINT[])
ORDER BY seeds.range, subsets.subset

-- name: kept_texts
SELECT text
FROM examples ANTI JOIN (
    SELECT example_id FROM subset_examples WHERE subset_set = $set AND subset = $subset
) USING (example_id)
ORDER BY example_id

-- name: drop_losses
DELETE FROM subset_losses WHERE subset_set = $set AND subset = $subset AND seed = $seed

-- name: insert_losses
INSERT INTO subset_losses SELECT $set, $subset, query_id, $seed, loss, $origin FROM measured
