-- How far each way to invert the curvature is from the exact inverse. `attrstore diagnose` writes the rows.

-- One row per way: means over the blocks, and the worst block. FROM residual_report WHERE method = 'lissa'
CREATE OR REPLACE VIEW residual_report AS
SELECT
    encoders.name AS encoder, damping, method, iterations,
    favg(residual) AS residual, max(residual) AS worst_residual,
    favg(cosine) AS cosine, min(cosine) AS worst_cosine
FROM residuals
JOIN encoders USING (encoder_id)
GROUP BY encoders.name, damping, method, iterations
ORDER BY encoder, damping, residual DESC, method, iterations;
