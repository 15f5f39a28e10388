-- Which parts of the corpus drive a behaviour: scores of all examples by a column, as `attrstore score --group-by` kept
-- them.

-- One row per scoring, query and value of the column; over all examples of that value that were ranked.
-- FROM group_influence WHERE query = 'q-17' ORDER BY mean DESC
CREATE OR REPLACE VIEW group_influence AS
SELECT
    scorings.name AS scoring, models.path AS model, queries.external_id AS query, grouped_by, value, examples,
    total, total / nullif(sum(total) OVER (PARTITION BY score_groups.scoring_id, query_id), 0) AS share,
    mean, q05, q25, median, q75, q95
FROM score_groups
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id)
LEFT JOIN encoders USING (encoder_id)
LEFT JOIN models ON models.fingerprint = encoders.model_fingerprint;

-- Which sources drive the behaviour that the queries ask about? One row per scoring and value of the column.
--   queries    over how many
--   mean       the mean over the queries of the value's mean score
--   above      in how many queries that is above the mean of all their examples
--   strongest  in how many queries no other value's mean is higher
-- FROM group_report WHERE scoring = 'cosine-block' ORDER BY mean DESC
CREATE OR REPLACE VIEW group_report AS
SELECT
    scoring, model, grouped_by, value, count(*) AS queries, max(examples) AS examples,
    avg(mean) AS mean, avg(median) AS median, avg(q95) AS q95,
    count(*) FILTER (mean > of_all) AS above, count(*) FILTER (mean = highest) AS strongest
FROM (
    SELECT
        *, sum(total) OVER of_query / sum(examples) OVER of_query AS of_all, max(mean) OVER of_query AS highest
    FROM group_influence
    WINDOW of_query AS (PARTITION BY scoring, query)
)
GROUP BY ALL;
