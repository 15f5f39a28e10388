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
SELECT $set, $first + range, $kind, (SELECT count(*) FROM examples), $seed, NULL, NULL, NULL, NULL
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
    (SELECT count(*) FROM examples), $seed, name, query_id, NULL, NULL
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

-- name: insert_groups
-- One subset for each of these scorings and values of a key of the queries' metadata, numbered from $first.
INSERT INTO subsets
SELECT
    $set, $first + row_number() OVER (ORDER BY value, list_position($scorings, name)) - 1, 'leave-out',
    (SELECT count(*) FROM examples), $seed, name, NULL, $by, value
FROM scorings, (SELECT DISTINCT metadata ->> $by AS value FROM queries WHERE metadata ->> $by IS NOT NULL)
WHERE list_contains($scorings, name)

-- name: leave_out_of_groups
-- The $n examples with the largest sums of scores over the group's queries; equal ones in the order of the corpus.
INSERT INTO subset_examples
SELECT $set, subset, example_id
FROM (
    SELECT subsets.subset, scores.example_id, fsum(scores.score ORDER BY scores.query_id) AS total
    FROM subsets
    JOIN subset_queries ON subset_queries.subset_set = subsets.subset_set AND subset_queries.subset = subsets.subset
    JOIN scorings ON scorings.name = subsets.scoring
    JOIN scores ON scores.scoring_id = scorings.scoring_id AND scores.query_id = subset_queries.query_id
    WHERE subsets.subset_set = $set
    GROUP BY subsets.subset, scores.example_id
)
QUALIFY row_number() OVER (PARTITION BY subset ORDER BY total DESC, example_id) <= $n
ORDER BY subset, example_id

-- name: cut
-- A query of a group for which a scoring lacks scores, so that its sums would be of a part.
SELECT subsets.scoring, queries.external_id
FROM subsets
JOIN subset_queries ON subset_queries.subset_set = subsets.subset_set AND subset_queries.subset = subsets.subset
JOIN queries ON queries.query_id = subset_queries.query_id
JOIN scorings ON scorings.name = subsets.scoring
LEFT JOIN scoring_queries
    ON scoring_queries.scoring_id = scorings.scoring_id AND scoring_queries.query_id = queries.query_id
LEFT JOIN whole_rankings
    ON whole_rankings.scoring_id = scorings.scoring_id AND whole_rankings.query_id = queries.query_id
WHERE subsets.subset_set = $set AND (
    scoring_queries.query_id IS NULL
    -- A retrieval that found nothing has every score: they are 0.
    OR NOT coalesce(whole_rankings.every_score, scorings.family = 'retrieval')
)
ORDER BY subsets.scoring, queries.query_id
LIMIT 1

-- name: stale
-- Those of these scorings that are not of what the store has now.
SELECT name, reasons FROM scoring_status WHERE list_contains($scorings, name) AND stale ORDER BY name

-- name: remade
-- Scorings that were made again after the set that leaves out their proponents.
SELECT DISTINCT subsets.subset_set, subsets.scoring
FROM subsets
JOIN scorings ON scorings.name = subsets.scoring
JOIN (
    SELECT parameters ->> 'name' AS subset_set, max(started) AS made
    FROM runs
    WHERE job = 'subsets' AND state = 'finished'
    GROUP BY ALL
) AS sets USING (subset_set)
WHERE scorings.created > sets.made
ORDER BY ALL

-- name: shortest
-- The subset that could leave out least, for a scoring that does not rank enough.
SELECT subsets.scoring, coalesce(queries.external_id, subsets.value) AS of, count(subset_examples.example_id) AS n
FROM subsets
LEFT JOIN queries USING (query_id)
LEFT JOIN subset_examples USING (subset_set, subset)
WHERE subset_set = $set AND kind = 'leave-out'
GROUP BY subsets.scoring, subsets.subset, queries.external_id, subsets.value
ORDER BY n, of, subsets.scoring
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
