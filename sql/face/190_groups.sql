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

-- AUPRC of groups of queries, each group one task, as DATE-LM (arXiv 2507.09424) detects examples of a kind by a
-- reference set: examples are ranked by the sum of their scores over the group's queries, equal ones in the order of the
-- corpus, and those labelled for any of its queries are to come first. One row per scoring and value of a key of the
-- queries' metadata.
--   average_precision  the area in steps, of one query that of `query_report`
--   auprc              the area with straight lines, DATE-LM's number: see the macro of that name
--   every_score        whether the scoring has the score of every example for each query; if not, both are NULL
-- FROM auprc_by('relation') WHERE name = 'cosine-block'
CREATE OR REPLACE MACRO auprc_by(metadata_key) AS TABLE
WITH members AS (
    SELECT query_id, metadata ->> metadata_key AS value FROM queries WHERE metadata ->> metadata_key IS NOT NULL
),
relevant AS (
    SELECT DISTINCT members.value, pair_labels.example_id
    FROM pair_labels
    JOIN members USING (query_id)
    WHERE pair_labels.label > 0
),
labelled AS (
    SELECT value, count(*) AS n_labelled FROM relevant GROUP BY value
),
tasks AS (
    SELECT
        scorings.scoring_id, members.value, count(*) AS queries,
        -- A retrieval that found nothing has every score: they are 0.
        bool_and(scoring_queries.query_id IS NOT NULL AND coalesce(every_score, scorings.family = 'retrieval'))
            AS every_score
    FROM scorings
    CROSS JOIN members
    LEFT JOIN scoring_queries
        ON scoring_queries.scoring_id = scorings.scoring_id AND scoring_queries.query_id = members.query_id
    LEFT JOIN whole_rankings
        ON whole_rankings.scoring_id = scorings.scoring_id AND whole_rankings.query_id = members.query_id
    GROUP BY scorings.scoring_id, members.value
),
summed AS (
    SELECT scoring_id, value, example_id, fsum(score ORDER BY query_id) AS total
    FROM scores
    JOIN members USING (query_id)
    SEMI JOIN (SELECT scoring_id, value FROM tasks WHERE every_score) USING (scoring_id, value)
    GROUP BY scoring_id, value, example_id
),
placed AS (
    SELECT
        scoring_id, value, example_id,
        row_number() OVER (PARTITION BY scoring_id, value ORDER BY total DESC, example_id) AS rank
    FROM summed
),
found AS (
    SELECT scoring_id, value, list(rank) AS ranks
    FROM placed
    SEMI JOIN relevant USING (value, example_id)
    GROUP BY scoring_id, value
)
SELECT
    scoring_status.name, scoring_status.encoder, scoring_status.model, tasks.value, tasks.queries,
    coalesce(labelled.n_labelled, 0) AS labelled,
    CASE WHEN tasks.every_score THEN average_precision(found.ranks, labelled.n_labelled) END AS average_precision,
    CASE WHEN tasks.every_score THEN auprc(found.ranks, labelled.n_labelled) END AS auprc,
    tasks.every_score
FROM tasks
JOIN scoring_status USING (scoring_id)
LEFT JOIN labelled ON labelled.value = tasks.value
LEFT JOIN found ON found.scoring_id = tasks.scoring_id AND found.value = tasks.value
ORDER BY tasks.value, auprc DESC NULLS LAST, scoring_status.name;

-- One row per scoring: the mean AUPRC over the `tasks` (values of the key) that have one, of `queries` in all, with the
-- central 95% of its values over resamples of these tasks: FROM auprc_report('relation')
CREATE OR REPLACE MACRO auprc_report(metadata_key, resamples := 1000) AS TABLE
WITH per_task AS MATERIALIZED (
    FROM auprc_by(metadata_key) WHERE auprc IS NOT NULL
),
drawn_tasks AS MATERIALIZED (
    SELECT value, range AS resample, times_drawn(range, value)::DOUBLE AS w
    FROM (SELECT DISTINCT value FROM per_task), range(resamples)
),
means AS (
    SELECT name, resample, sum(w * auprc) / nullif(sum(w), 0) AS mean
    FROM per_task
    JOIN drawn_tasks USING (value)
    GROUP BY name, resample
),
bounds AS (
    SELECT name, quantile_cont(mean, [0.025, 0.975]) AS bound FROM means GROUP BY name
)
SELECT
    name, encoder, model, count(*) AS tasks, sum(queries)::BIGINT AS queries,
    favg(auprc ORDER BY value) AS auprc, round(any_value(bound[1]), 9) AS low, round(any_value(bound[2]), 9) AS high
FROM per_task
JOIN bounds USING (name)
GROUP BY name, encoder, model
ORDER BY auprc DESC, name;
