-- How far each way to invert the curvature is from the exact inverse. `attrstore diagnose` writes the rows.

-- One row per way: means over the `blocks`, each a mean over at most `queries` queries, and the worst block. FROM residual_report WHERE method = 'lissa'
CREATE OR REPLACE VIEW residual_report AS
SELECT
    encoders.name AS encoder, models.path AS model, damping, method, iterations,
    count(*) AS blocks, max(n_queries) AS queries,
    favg(residual) AS residual, max(residual) AS worst_residual,
    favg(cosine) AS cosine, min(cosine) AS worst_cosine
FROM residuals
JOIN encoders USING (encoder_id)
LEFT JOIN models ON models.fingerprint = encoders.model_fingerprint
GROUP BY encoders.name, models.path, damping, method, iterations
ORDER BY encoder, damping, residual DESC, method, iterations;
