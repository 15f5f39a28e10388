-- Class attribution: does influence come from examples of the query's own class?

-- One row per scoring and query that has a value under `metadata_key`.
--   accuracy   1 where the strongest proponent has the query's class, else 0
--   cover      that class's share of the first `depth` = n_train / n_classes proponents; NULL where fewer are
--              stored. (A retrieval ranking that --top-k did not cut is complete, however short: nothing else matched.)
-- An example's class is its metadata's; its source where the key is 'source'.
CREATE OR REPLACE MACRO class_query_report(metadata_key) AS TABLE
WITH query_classes AS (
    SELECT query_id, metadata ->> metadata_key AS class FROM queries WHERE metadata ->> metadata_key IS NOT NULL
),
example_classes AS (
    SELECT example_id, coalesce(metadata ->> metadata_key, CASE WHEN metadata_key = 'source' THEN source END) AS class
    FROM examples
    WHERE class IS NOT NULL
),
sizes AS (
    SELECT
        scoring_id, name, method, family,
        greatest(1, n_examples // nullif(n_classes, 0)) AS depth,
        family = 'retrieval' AND (spec ->> 'top_k')::BIGINT >= depth AS complete
    FROM scorings, (SELECT count(DISTINCT class) AS n_classes FROM example_classes)
),
counted AS (
    SELECT
        scoring_id, query_id,
        count(*) FILTER (scores.rank BETWEEN 1 AND sizes.depth) AS n_stored,
        count(*) FILTER (scores.rank = 1 AND example_classes.class = query_classes.class) AS n_first,
        count(*) FILTER (
            scores.rank BETWEEN 1 AND sizes.depth AND example_classes.class = query_classes.class
        ) AS n_same
    FROM scoring_queries
    JOIN sizes USING (scoring_id)
    JOIN query_classes USING (query_id)
    LEFT JOIN scores USING (scoring_id, query_id)
    LEFT JOIN example_classes USING (example_id)
    GROUP BY scoring_id, query_id
)
SELECT
    sizes.name, sizes.method, sizes.family, queries.external_id AS query,
    counted.n_first::DOUBLE AS accuracy,
    CASE WHEN counted.n_stored = sizes.depth OR sizes.complete THEN counted.n_same / sizes.depth END AS cover,
    sizes.depth, counted.n_stored AS stored
FROM counted
JOIN sizes USING (scoring_id)
JOIN queries USING (query_id);

-- The means over `queries`, one row per scoring; cover is NULL if it is for any query, whose ranking is then
-- `shallowest` < `depth` proponents deep: FROM class_report('label')
CREATE OR REPLACE MACRO class_report(metadata_key) AS TABLE
SELECT
    means.name, scoring_status.method, scoring_status.family, scoring_status.encoder, scoring_status.model,
    means.queries, means.accuracy, means.cover, means.depth, means.shallowest
FROM (
    SELECT
        name, count(*) AS queries, favg(accuracy) AS accuracy,
        CASE WHEN count(cover) = count(*) THEN favg(cover) END AS cover,
        depth, min(stored) AS shallowest
    FROM class_query_report(metadata_key)
    GROUP BY name, depth
) AS means
JOIN scoring_status ON scoring_status.name = means.name
ORDER BY scoring_status.family, means.accuracy DESC, means.name;

-- The same with 95% bootstrap intervals, in the columns of report_intervals():
--   FROM class_intervals('label') WHERE metric = 'cover'
CREATE OR REPLACE MACRO class_intervals(metadata_key, resamples := 1000) AS TABLE
WITH means AS (
    SELECT
        name, resample,
        sum(w * accuracy) / nullif(sum(w), 0) AS accuracy, sum(w * cover) / nullif(sum(w), 0) AS cover
    FROM class_query_report(metadata_key)
    JOIN drawn(resamples) USING (query)
    GROUP BY name, resample
),
bounds AS (
    UNPIVOT (
        SELECT name, quantile_cont(COLUMNS(* EXCLUDE (name, resample)), [0.025, 0.975]) FROM means GROUP BY name
    )
    ON accuracy, cover
    INTO NAME metric VALUE bound
),
measured AS (
    UNPIVOT (FROM class_report(metadata_key))
    ON accuracy, cover
    INTO NAME metric VALUE mean
)
SELECT
    name, method, family, encoder, model, NULL::VARCHAR AS setting, metric, queries,
    mean, round(bound[1], 9) AS low, round(bound[2], 9) AS high
FROM measured
JOIN bounds USING (name, metric)
ORDER BY metric, family, mean DESC, name;
