-- name: pending_queries
-- The work list: the queries without a loss under a checkpoint.
SELECT query_id, prompt, target, original
FROM queries ANTI JOIN (SELECT query_id FROM query_losses WHERE model_fingerprint = $model) USING (query_id)
LEFT JOIN query_originals USING (query_id)
ORDER BY query_id

-- name: insert_losses
INSERT INTO query_losses SELECT $model, query_id, n_targets, loss, status FROM measured

-- name: count_changes
SELECT count(*) FROM parameter_changes WHERE from_fingerprint = $one AND to_fingerprint = $other

-- name: insert_changes
INSERT INTO parameter_changes
SELECT $one, $other, parameter, n, from_square, to_square, change_square, inner_product FROM measured

-- name: behaviour
-- The pairs of these checkpoints, in the order in which they were given.
SELECT * EXCLUDE (from_fingerprint, to_fingerprint)
FROM behaviour_change
WHERE list_contains($models, from_fingerprint) AND list_contains($models, to_fingerprint)
ORDER BY list_position($models, from_fingerprint), list_position($models, to_fingerprint)
