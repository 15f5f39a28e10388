-- How sure a mean over these queries is: bootstrap intervals.

-- How often a resample draws a query: Poisson with mean 1, from a hash, so that the same store always gives the
-- same interval and every scoring is resampled alike.
CREATE OR REPLACE MACRO times_drawn(resample, query_name) AS (
    SELECT CASE
        WHEN u < 0.367879441171442 THEN 0 WHEN u < 0.735758882342885 THEN 1 WHEN u < 0.919698602928606 THEN 2
        WHEN u < 0.981011843123846 THEN 3 WHEN u < 0.996340153172656 THEN 4 WHEN u < 0.999405815182418 THEN 5
        WHEN u < 0.999916758850712 THEN 6 ELSE 7 END
    FROM (SELECT (md5_number_lower(resample || ' ' || query_name) >> 11) / 9007199254740992.0 AS u)
);

-- How often each resample draws each query: FROM drawn(1000)
CREATE OR REPLACE MACRO drawn(resamples) AS TABLE
SELECT range AS resample, external_id AS query, times_drawn(range, external_id)::DOUBLE AS w
FROM range(resamples), queries;

-- The means of method_report, each with the `queries` that it is over and the central 95% of its values over resamples
-- of them, and the model that it is of (tail-patch: which was measured, in what setting), to nine places: threads add in any order, and the same store should give the same interval.
--   FROM report_intervals() WHERE metric = 'mrr'
CREATE OR REPLACE MACRO report_intervals(resamples := 1000) AS TABLE
WITH means AS (
    SELECT
        name, resample,
        sum(w * reciprocal_rank) / nullif(sum(w) FILTER (labelled > 0), 0) AS mrr,
        sum(w * hit_at_10) / nullif(sum(w) FILTER (labelled > 0), 0) AS hit_at_10,
        sum(w * recall_at_10) / nullif(sum(w) FILTER (labelled > 0), 0) AS recall_at_10,
        sum(w * recall_at_50) / nullif(sum(w) FILTER (labelled > 0), 0) AS recall_at_50,
        sum(w * precision_at_1) / nullif(sum(w) FILTER (labelled > 0), 0) AS precision_at_1,
        sum(w * average_precision) / nullif(sum(w) FILTER (labelled > 0), 0) AS map,
        sum(w * tail_patch_logprob) FILTER (tail_patch_shared)
            / nullif(sum(w) FILTER (tail_patch_shared), 0) AS tail_patch_logprob,
        sum(w * tail_patch_prob) FILTER (tail_patch_shared)
            / nullif(sum(w) FILTER (tail_patch_shared), 0) AS tail_patch_prob
    FROM query_report
    JOIN drawn(resamples) USING (query)
    GROUP BY name, resample
),
bounds AS (
    UNPIVOT (
        SELECT name, quantile_cont(COLUMNS(* EXCLUDE (name, resample)), [0.025, 0.975]) FROM means GROUP BY name
    )
    ON mrr, hit_at_10, recall_at_10, recall_at_50, precision_at_1, map, tail_patch_logprob, tail_patch_prob
    INTO NAME metric VALUE bound
),
measured AS (
    UNPIVOT (FROM method_report)
    ON mrr, hit_at_10, recall_at_10, recall_at_50, precision_at_1, map, tail_patch_logprob, tail_patch_prob
    INTO NAME metric VALUE mean
)
SELECT
    name, method, family, encoder,
    CASE WHEN starts_with(metric, 'tail_patch') THEN tail_patch_model ELSE model END AS model,
    CASE WHEN starts_with(metric, 'tail_patch') THEN tail_patch_optimizer || ', ' || tail_patch_learning_rate END AS setting,
    metric, CASE WHEN starts_with(metric, 'tail_patch') THEN tail_patch_queries ELSE labelled_queries END AS queries,
    mean, round(bound[1], 9) AS low, round(bound[2], 9) AS high
FROM measured
JOIN bounds USING (name, metric)
ORDER BY metric = 'mrr' DESC, metric, family, mean DESC, name;

-- How much each scoring's metrics lie above those of one of them, query by query over the queries that both have: the mean
-- of the differences with the central 95% of its values over resamples of these queries. `apart`: 0 lies outside. This is
-- the test for two scorings of the same queries; that their own intervals overlap is not. `caution` says where the
-- interval is less than it promises: few queries, or one that carries over a tenth of the variance.
--   FROM report_differences('bm25') WHERE metric = 'mrr'
CREATE OR REPLACE MACRO report_differences(reference, resamples := 1000) AS TABLE
WITH measured AS (
    UNPIVOT (
        SELECT
            name, encoder, model, query, tail_patch_model,
            concat_ws(', ', tail_patch_model, tail_patch_optimizer, tail_patch_learning_rate) AS step,
            reciprocal_rank AS mrr, hit_at_10::DOUBLE AS hit_at_10, recall_at_10, recall_at_50,
            precision_at_1::DOUBLE AS precision_at_1, average_precision AS map, tail_patch_logprob, tail_patch_prob
        FROM query_report
    )
    ON mrr, hit_at_10, recall_at_10, recall_at_50, precision_at_1, map, tail_patch_logprob, tail_patch_prob
    INTO NAME metric VALUE value
),
pairs AS (
    SELECT
        one.name, one.encoder, one.metric, one.query, one.value - other.value AS difference,
        CASE WHEN starts_with(one.metric, 'tail_patch') THEN one.tail_patch_model ELSE one.model END AS model
    FROM measured AS one
    JOIN measured AS other
        ON other.query = one.query AND other.metric = one.metric
        -- Tail-patch by another step is another measure.
        AND (NOT starts_with(one.metric, 'tail_patch') OR other.step = one.step)
    WHERE other.name = reference AND one.name <> reference
),
means AS (
    SELECT name, metric, resample, sum(w * difference) / nullif(sum(w), 0) AS mean
    FROM pairs
    JOIN drawn(resamples) USING (query)
    GROUP BY name, metric, resample
),
bounds AS (
    SELECT name, metric, quantile_cont(mean, [0.025, 0.975]) AS bound FROM means GROUP BY name, metric
),
spread AS (
    SELECT
        name, any_value(encoder) AS encoder, any_value(model) AS model, metric,
        count(*) AS queries, avg(difference) AS difference,
        max(difference) - avg(difference) AS above, avg(difference) - min(difference) AS below,
        var_pop(difference) * count(*) AS variance
    FROM pairs
    GROUP BY name, metric
)
SELECT
    name, reference AS against, encoder, model, metric, queries, round(difference, 9) AS difference,
    round(bound[1], 9) AS low, round(bound[2], 9) AS high,
    low > 0 OR high < 0 AS apart,
    nullif(concat_ws(', ',
        CASE WHEN queries < 100 THEN 'fewer than 100 queries' END,
        CASE WHEN greatest(above, below) ** 2 > variance / 10 THEN 'one query carries over a tenth of the variance' END
    ), '') AS caution
FROM spread
JOIN bounds USING (name, metric)
ORDER BY metric = 'mrr' DESC, metric, spread.difference DESC, name;
