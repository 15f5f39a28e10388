-- name: drop_residuals
DELETE FROM residuals WHERE encoder_id = $encoder AND damping = $damping

-- name: insert_residuals
INSERT INTO residuals
SELECT $encoder, $damping, method, iterations, block, n_queries, residual, cosine FROM measured

-- name: residuals
SELECT method, iterations, residual, worst_residual, cosine, worst_cosine, encoder, model, blocks, queries
FROM residual_report
WHERE encoder = $encoder AND damping = $damping
ORDER BY method, iterations
