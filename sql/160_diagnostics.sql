-- How far each way to invert the curvature is from the exact inverse. `attrstore diagnose` writes the rows.

-- One block under one way to invert: psi for H^{-1} phi, H = R + damping * mean eigenvalue * I, R of the corpus.
-- Made here and not in a migration, so that a store from before this table gets it.
CREATE TABLE IF NOT EXISTS residuals (
    encoder_id VARCHAR NOT NULL,
    damping    DOUBLE NOT NULL,
    method     VARCHAR NOT NULL,              -- of attrstore.solvers, or identity: R's mean eigenvalue for R
    iterations INTEGER,                       -- NULL where the method does not iterate
    block      VARCHAR NOT NULL,
    n_queries  BIGINT NOT NULL,               -- whose gradient in this block is not zero
    residual   DOUBLE NOT NULL,               -- |H psi - phi| / |phi|, mean over queries
    cosine     DOUBLE NOT NULL                -- of psi and the exact H^{-1} phi, mean over queries
);

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
