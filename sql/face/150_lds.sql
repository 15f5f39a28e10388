-- LDS, leave-k-out and QLD: how well scores foretell what a model does that was trained on a part of the corpus.

-- One row per subset and example that it keeps: what a trainer of your own needs.
--   SELECT example, text FROM subset_texts WHERE subset_set = 'lds' AND subset = 1
CREATE OR REPLACE VIEW subset_texts AS
SELECT subset_set, subset, subsets.kind, examples.external_id AS example, examples.text
FROM subsets
CROSS JOIN examples
ANTI JOIN subset_examples USING (subset_set, subset, example_id);

-- The linear datamodelling score of each scoring and query (arXiv 2303.14186, section 2): Spearman's correlation, over
-- the subsets of a set of kind lds, between what the scoring foretells of a subset, the sum of the scores of the
-- examples that it keeps, and what was measured, the target's log-probability after training on it (the mean over its
-- retrainings). Equal values share their mean rank. Subsets without a loss for the query are not counted.
-- `lds` is NULL unless the scoring has the score of every example for the query (see `whole_rankings`). It is NULL too
-- where all subsets come out alike, or where there are fewer than three.
CREATE OR REPLACE VIEW lds_query AS
WITH of_lds AS (
    SELECT subset_set, subset FROM subsets WHERE kind = 'lds'
),
measured AS (
    SELECT subset_set, subset, query_id, -favg(loss) AS logprob
    FROM subset_losses
    SEMI JOIN of_lds USING (subset_set, subset)
    GROUP BY subset_set, subset, query_id
),
-- What is kept is a constant, the sum over all examples, less what is left out.
left_out AS (
    SELECT subset_set, subset, scoring_id, query_id, sum(score) AS score
    FROM scores
    SEMI JOIN (SELECT scoring_id, query_id FROM whole_rankings WHERE every_score) USING (scoring_id, query_id)
    JOIN subset_examples USING (example_id)
    SEMI JOIN of_lds USING (subset_set, subset)
    GROUP BY subset_set, subset, scoring_id, query_id
),
foretold AS (
    SELECT
        subset_set, scoring_id, query_id, every_score, logprob,
        CASE WHEN every_score THEN -coalesce(left_out.score, 0) END AS effect
    FROM measured
    JOIN whole_rankings USING (query_id)
    LEFT JOIN left_out USING (subset_set, subset, scoring_id, query_id)
),
-- To nine places of the largest: threads add in any order, and what is equal should stay so.
rounded AS (
    SELECT
        * EXCLUDE (effect),
        round(effect / max(abs(effect)) OVER (PARTITION BY subset_set, scoring_id, query_id), 9) AS effect
    FROM foretold
),
placed AS (
    SELECT
        subset_set, scoring_id, query_id, every_score,
        rank() OVER (of_query ORDER BY effect)
            + (count(*) OVER (PARTITION BY subset_set, scoring_id, query_id, effect) - 1) / 2 AS effect_rank,
        rank() OVER (of_query ORDER BY logprob)
            + (count(*) OVER (PARTITION BY subset_set, scoring_id, query_id, logprob) - 1) / 2 AS logprob_rank
    FROM rounded
    WINDOW of_query AS (PARTITION BY subset_set, scoring_id, query_id)
),
correlated AS (
    SELECT
        subset_set, scoring_id, query_id, every_score, count(*) AS subsets,
        CASE WHEN count(*) >= 3 AND every_score THEN corr(effect_rank, logprob_rank) END AS lds
    FROM placed
    GROUP BY subset_set, scoring_id, query_id, every_score
)
SELECT
    subset_set, scorings.name, scorings.method, scorings.family, queries.external_id AS query,
    correlated.subsets, CASE WHEN isfinite(correlated.lds) THEN correlated.lds END AS lds, correlated.every_score
FROM correlated
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id);

-- One row per set and scoring: the mean LDS over the queries that have one, with the central 95% of its values over
-- resamples of these queries. NULL where the scoring lacks a score that it needs (`every_score` is false).
--   FROM lds_report() WHERE subset_set = 'lds'
CREATE OR REPLACE MACRO lds_report(resamples := 1000) AS TABLE
WITH per_query AS MATERIALIZED (
    FROM lds_query
),
means AS (
    SELECT subset_set, name, resample, sum(w * lds) / nullif(sum(w), 0) AS mean
    FROM per_query
    JOIN drawn(resamples) USING (query)
    WHERE lds IS NOT NULL
    GROUP BY subset_set, name, resample
),
bounds AS (
    SELECT subset_set, name, quantile_cont(mean, [0.025, 0.975]) AS bound FROM means GROUP BY subset_set, name
)
SELECT
    subset_set, per_query.name, per_query.method, per_query.family, scoring_status.encoder, scoring_status.model,
    count(lds) AS queries, max(subsets) AS subsets,
    CASE WHEN bool_and(every_score) THEN favg(lds) END AS lds,
    CASE WHEN bool_and(every_score) THEN round(any_value(bound[1]), 9) END AS low,
    CASE WHEN bool_and(every_score) THEN round(any_value(bound[2]), 9) END AS high,
    bool_and(every_score) AS every_score
FROM per_query
LEFT JOIN bounds USING (subset_set, name)
JOIN scoring_status ON scoring_status.name = per_query.name
GROUP BY ALL
ORDER BY subset_set, lds DESC NULLS LAST, per_query.name;

-- The queries that a subset of kind leave-out is about: the one whose proponents it lacks, or those of the group.
CREATE OR REPLACE VIEW subset_queries AS
SELECT subset_set, subset, query_id FROM subsets WHERE kind = 'leave-out' AND grouped_by IS NULL
UNION ALL
SELECT subset_set, subset, queries.query_id
FROM subsets
JOIN queries ON queries.metadata ->> subsets.grouped_by = subsets.value
WHERE kind = 'leave-out';

-- Leave-k-out: what became of a query's target, in nats of log-probability, when the k strongest proponents under a
-- scoring were left out (of the query, or of its group) and the model was trained again; and, called `random`, when k
-- examples chosen at random were (the mean over those subsets, for the same queries). Each retraining is compared with
-- the one on the whole corpus from the same seed. Below 0: the target became less likely, as it should.
CREATE OR REPLACE VIEW leave_out_query AS
WITH sizes AS (
    SELECT subset_set, subset, count(*) AS left_out FROM subset_examples GROUP BY subset_set, subset
),
whole AS (
    SELECT subset_set, query_id, seed, loss
    FROM subset_losses
    SEMI JOIN (SELECT subset_set, subset FROM subsets WHERE kind = 'full') USING (subset_set, subset)
),
asked AS (
    SELECT DISTINCT subset_set, query_id FROM subset_queries
)
SELECT
    after.subset_set, coalesce(subsets.scoring, 'random') AS name, queries.external_id AS query,
    max(sizes.left_out) AS left_out, -favg(whole.loss) AS logprob, favg(whole.loss - after.loss) AS change
FROM subset_losses AS after
JOIN whole USING (subset_set, query_id, seed)
SEMI JOIN asked USING (subset_set, query_id)
JOIN queries USING (query_id)
JOIN subsets ON subsets.subset_set = after.subset_set AND subsets.subset = after.subset
JOIN sizes ON sizes.subset_set = after.subset_set AND sizes.subset = after.subset
LEFT JOIN subset_queries AS about
    ON about.subset_set = after.subset_set AND about.subset = after.subset AND about.query_id = after.query_id
WHERE subsets.kind = 'random' OR about.query_id IS NOT NULL
GROUP BY after.subset_set, subsets.scoring, queries.external_id;

-- One row per set and scoring, and one for `random`: the mean change over queries, with its 95% bootstrap interval.
CREATE OR REPLACE MACRO leave_out_report(resamples := 1000) AS TABLE
WITH means AS (
    SELECT subset_set, name, resample, sum(w * change) / nullif(sum(w), 0) AS mean
    FROM leave_out_query
    JOIN drawn(resamples) USING (query)
    GROUP BY subset_set, name, resample
),
bounds AS (
    SELECT subset_set, name, quantile_cont(mean, [0.025, 0.975]) AS bound FROM means GROUP BY subset_set, name
)
SELECT
    subset_set, leave_out_query.name, scoring_status.encoder, scoring_status.model,
    max(left_out) AS left_out, count(*) AS queries,
    favg(change) AS change, round(any_value(bound[1]), 9) AS low, round(any_value(bound[2]), 9) AS high
FROM leave_out_query
LEFT JOIN bounds USING (subset_set, name)
LEFT JOIN scoring_status ON scoring_status.name = leave_out_query.name
GROUP BY ALL
ORDER BY subset_set, change, leave_out_query.name;

-- The query loss difference, as bergson's leaderboard defines it: how much more a query's loss rises, in nats summed over
-- its target, when the strongest share of the corpus is left out (there 1%) than when as many at random are. One row per
-- set, scoring and query that was asked about.
--   rise         the loss without the strongest, less that on the whole corpus from the same seed
--   random_rise  the same without random ones, the mean over those subsets
--   qld          rise - random_rise; above 0: what the scoring found mattered. NULL where one of the two was not measured
CREATE OR REPLACE VIEW qld_query AS
WITH asked AS (
    SELECT subset_set, subset, subsets.scoring AS name, subsets.value, subset_queries.query_id, subsets.n_examples
    FROM subsets
    JOIN subset_queries USING (subset_set, subset)
),
sizes AS (
    SELECT subset_set, subset, count(*) AS left_out FROM subset_examples GROUP BY subset_set, subset
)
SELECT
    asked.subset_set, asked.name, queries.external_id AS query, asked.value,
    sizes.left_out, sizes.left_out / asked.n_examples AS share,
    -strongest.change AS rise, -random.change AS random_rise, random.change - strongest.change AS qld
FROM asked
JOIN queries ON queries.query_id = asked.query_id
JOIN sizes ON sizes.subset_set = asked.subset_set AND sizes.subset = asked.subset
LEFT JOIN leave_out_query AS strongest
    ON strongest.subset_set = asked.subset_set AND strongest.name = asked.name
    AND strongest.query = queries.external_id
LEFT JOIN leave_out_query AS random
    ON random.subset_set = asked.subset_set AND random.name = 'random' AND random.query = queries.external_id;

-- One row per set and scoring: the mean QLD over the `queries` that have one, of the `of_queries` that were asked about,
-- with the central 95% of its values over resamples of these queries. Queries of a group share one retraining.
--   FROM qld_report() WHERE subset_set = 'qld'
CREATE OR REPLACE MACRO qld_report(resamples := 1000) AS TABLE
WITH per_query AS MATERIALIZED (
    FROM qld_query
),
means AS (
    SELECT subset_set, name, resample, sum(w * qld) / nullif(sum(w), 0) AS mean
    FROM per_query
    JOIN drawn(resamples) USING (query)
    WHERE qld IS NOT NULL
    GROUP BY subset_set, name, resample
),
bounds AS (
    SELECT subset_set, name, quantile_cont(mean, [0.025, 0.975]) AS bound FROM means GROUP BY subset_set, name
)
SELECT
    subset_set, per_query.name, scoring_status.encoder, scoring_status.model,
    max(left_out) AS left_out, max(share) AS share, count(qld) AS queries,
    favg(rise ORDER BY query) FILTER (qld IS NOT NULL) AS rise,
    favg(random_rise ORDER BY query) FILTER (qld IS NOT NULL) AS random_rise,
    favg(qld ORDER BY query) AS qld, round(any_value(bound[1]), 9) AS low, round(any_value(bound[2]), 9) AS high,
    count(*) AS of_queries
FROM per_query
LEFT JOIN bounds USING (subset_set, name)
LEFT JOIN scoring_status ON scoring_status.name = per_query.name
GROUP BY subset_set, per_query.name, scoring_status.encoder, scoring_status.model
ORDER BY subset_set, qld DESC NULLS LAST, per_query.name;
