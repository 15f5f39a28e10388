-- Checkpoints of one model side by side: do they find the same examples influential, and does a large change of the
-- parameters mean a large change of what the model says? Influence functions assume convergence and speak of a
-- change of parameters; arXiv 2409.19998 names both among the reasons why they fail on language models.

-- Both of the next two: `module` is NULL in the rows over all parameters.
CREATE OR REPLACE VIEW grouped_changes AS
SELECT
    one.path AS from_model, other.path AS to_model,
    regexp_replace(parameter, '\.\d+\.', '.*.', 'g') AS module,
    count(*) AS tensors, sum(n)::BIGINT AS parameters,
    sqrt(fsum(change_square)) AS distance,
    sqrt(fsum(change_square) / nullif(fsum(from_square), 0)) AS relative_distance,
    fsum(inner_product) / nullif(sqrt(fsum(from_square) * fsum(to_square)), 0) AS cosine,
    from_fingerprint, to_fingerprint
FROM parameter_changes
JOIN models AS one ON one.fingerprint = from_fingerprint
JOIN models AS other ON other.fingerprint = to_fingerprint
GROUP BY GROUPING SETS (
    (from_model, to_model, from_fingerprint, to_fingerprint, module),
    (from_model, to_model, from_fingerprint, to_fingerprint)
);

-- One row per pair of compared checkpoints and kind of tensor, the layers put together.
--   distance  |b - a|, and relative to |a|; cosine of a and b
CREATE OR REPLACE VIEW module_changes AS
FROM grouped_changes
WHERE module IS NOT NULL
ORDER BY from_model, to_model, relative_distance DESC, module;

-- The same for all parameters at once: one row per pair of compared checkpoints.
CREATE OR REPLACE VIEW checkpoint_changes AS
SELECT * EXCLUDE (module, tensors)
FROM grouped_changes
WHERE module IS NULL
ORDER BY from_model, to_model;

-- What each compared pair of checkpoints says of each query's target: log-probability before and after, in nats.
CREATE OR REPLACE VIEW query_changes AS
SELECT
    checkpoint_changes.from_model, checkpoint_changes.to_model, queries.external_id AS query,
    -before.loss AS from_logprob, -after.loss AS to_logprob, before.loss - after.loss AS delta_logprob,
    from_fingerprint, to_fingerprint
FROM checkpoint_changes
JOIN query_losses AS before ON before.model_fingerprint = from_fingerprint
JOIN query_losses AS after ON after.model_fingerprint = to_fingerprint AND after.query_id = before.query_id
JOIN queries ON queries.query_id = before.query_id
WHERE before.loss IS NOT NULL AND after.loss IS NOT NULL;

-- Change of parameters beside change of behaviour, one row per pair of compared checkpoints.
--   mean_change       of the targets' log-probability; above 0 where training taught the targets
--   mean_abs_change   of its size, with the central 95% of its means over 1,000 resamples of the queries
--   improved          share of queries whose target became more likely
--   rank_correlation  Spearman's, of the log-probabilities before and after, over queries
CREATE OR REPLACE VIEW behaviour_change AS
WITH placed AS (
    SELECT
        *,
        rank() OVER before + (count(*) OVER (PARTITION BY pair, from_logprob) - 1) / 2 AS from_place,
        rank() OVER after + (count(*) OVER (PARTITION BY pair, to_logprob) - 1) / 2 AS to_place
    FROM (SELECT *, (from_fingerprint, to_fingerprint) AS pair FROM query_changes)
    WINDOW
        before AS (PARTITION BY pair ORDER BY from_logprob),
        after AS (PARTITION BY pair ORDER BY to_logprob)
),
behaviour AS (
    SELECT
        from_fingerprint, to_fingerprint, count(*) AS queries,
        favg(delta_logprob) AS mean_change, favg(abs(delta_logprob)) AS mean_abs_change,
        favg((delta_logprob > 0)::INTEGER) AS improved,
        CASE WHEN count(*) >= 3 THEN corr(from_place, to_place) END AS rank_correlation
    FROM placed
    GROUP BY from_fingerprint, to_fingerprint
),
resampled AS (
    SELECT from_fingerprint, to_fingerprint, resample, sum(w * abs(delta_logprob)) / nullif(sum(w), 0) AS mean
    FROM query_changes
    JOIN drawn(1000) USING (query)
    GROUP BY from_fingerprint, to_fingerprint, resample
),
bounds AS (
    SELECT from_fingerprint, to_fingerprint, quantile_cont(mean, [0.025, 0.975]) AS bound
    FROM resampled
    GROUP BY from_fingerprint, to_fingerprint
)
SELECT
    from_model, to_model, distance, relative_distance, cosine,
    coalesce(queries, 0) AS queries, mean_change, mean_abs_change,
    round(bound[1], 9) AS low, round(bound[2], 9) AS high,
    improved, rank_correlation, from_fingerprint, to_fingerprint
FROM checkpoint_changes
LEFT JOIN behaviour USING (from_fingerprint, to_fingerprint)
LEFT JOIN bounds USING (from_fingerprint, to_fingerprint)
ORDER BY distance;

-- Whether the pairs of checkpoints that lie further apart also behave more differently: correlations of distance and
-- mean_abs_change over pairs, NULL below three. Pairs share their checkpoints, so this has no interval: it describes.
CREATE OR REPLACE VIEW change_correlation AS
SELECT
    count(*) AS pairs,
    CASE WHEN count(*) >= 3 THEN corr(distance_place, change_place) END AS rank_correlation,
    CASE WHEN count(*) >= 3 THEN corr(distance, mean_abs_change) END AS correlation
FROM (
    SELECT
        distance, mean_abs_change,
        rank() OVER (ORDER BY distance) AS distance_place, rank() OVER (ORDER BY mean_abs_change) AS change_place
    FROM behaviour_change
    WHERE mean_abs_change IS NOT NULL
);

-- Whether influence has converged: one row per two scorings that differ in the checkpoint only (same method and
-- options but for a mixing chosen from the spectra, same recipe of encoding), the one encoded first first. Means over
-- queries of `agreement`'s measures, each with the central 95% of its means over 1,000 resamples of the queries.
-- `basis` says whether rank_correlation is over all examples (attrstore score --top-k at half the examples or more)
-- or over the common top alone, `in_common` over how many a query.
CREATE OR REPLACE VIEW checkpoint_agreement AS
WITH made AS (
    SELECT
        scorings.name, scorings.method, encoders.created, encoders.model_fingerprint AS fingerprint, models.path,
        json_merge_patch(scorings.spec, '{"top_k": null, "mixing": null, "query_encoder": null}') AS options,
        json_merge_patch(
            encoders.spec, '{"model": null, "tokenizer": null, "context": null, "optimizer_state": null}'
        ) AS recipe
    FROM scorings
    JOIN encoders USING (encoder_id)
    JOIN models ON models.fingerprint = encoders.model_fingerprint
    WHERE scorings.family = 'influence'
),
pairs AS (
    SELECT
        one.method, one.name AS scoring, other.name AS other_scoring, one.path AS model, other.path AS other_model
    FROM made AS one
    JOIN made AS other USING (method, options, recipe)
    WHERE one.fingerprint <> other.fingerprint AND (one.created, one.name) < (other.created, other.name)
),
agreed AS (
    SELECT pairs.*, query, overlap_at_10, in_common, rank_correlation, basis
    FROM pairs
    JOIN agreement
        ON agreement.scoring = least(pairs.scoring, pairs.other_scoring)
        AND agreement.other_scoring = greatest(pairs.scoring, pairs.other_scoring)
),
means AS (
    SELECT
        scoring, other_scoring, resample,
        sum(w * overlap_at_10) / nullif(sum(w) FILTER (overlap_at_10 IS NOT NULL), 0) AS overlap,
        sum(w * rank_correlation) / nullif(sum(w) FILTER (rank_correlation IS NOT NULL), 0) AS correlation
    FROM agreed
    JOIN drawn(1000) USING (query)
    GROUP BY scoring, other_scoring, resample
),
bounds AS (
    SELECT
        scoring, other_scoring,
        quantile_cont(overlap, [0.025, 0.975]) AS overlap_bound, quantile_cont(correlation, [0.025, 0.975]) AS correlation_bound
    FROM means
    GROUP BY scoring, other_scoring
)
SELECT
    method, scoring, other_scoring, model, other_model, count(*) AS queries,
    count(overlap_at_10) AS overlap_queries, favg(overlap_at_10) AS overlap_at_10,
    round(any_value(overlap_bound[1]), 9) AS overlap_low, round(any_value(overlap_bound[2]), 9) AS overlap_high,
    count(rank_correlation) AS rank_correlation_queries, favg(rank_correlation) AS rank_correlation,
    round(any_value(correlation_bound[1]), 9) AS correlation_low, round(any_value(correlation_bound[2]), 9) AS correlation_high,
    favg(in_common) AS in_common, basis
FROM agreed
JOIN bounds USING (scoring, other_scoring)
GROUP BY method, scoring, other_scoring, model, other_model, basis
ORDER BY method, scoring, other_scoring;
