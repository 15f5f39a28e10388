-- The views that people read. They need no Python: any DuckDB client that opens the file has them.

-- Every stored pair of every scoring, by name. rank 1 = strongest proponent, -1 = strongest opponent.
CREATE OR REPLACE VIEW ranked_pairs AS
SELECT
    scorings.name AS scoring, scorings.method, scorings.family,
    queries.external_id AS query, examples.external_id AS example,
    scores.rank, scores.score, examples.text, pair_labels.label, queries.prompt, queries.target
FROM scores
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id)
JOIN examples USING (example_id)
LEFT JOIN pair_labels USING (query_id, example_id);

-- FROM influence WHERE query = 'q-17' AND rank > 0 ORDER BY scoring, rank
CREATE OR REPLACE VIEW influence AS
SELECT * EXCLUDE (family) FROM ranked_pairs WHERE family = 'influence';

-- The same for retrieval scorings.
CREATE OR REPLACE VIEW retrieval AS
SELECT * EXCLUDE (family) FROM ranked_pairs WHERE family = 'retrieval';

-- The id of the scoring called so; NULL for NULL, an error for a name that does not exist.
CREATE OR REPLACE MACRO scoring_called(scoring_name) AS
    coalesce(
        (SELECT max(scoring_id) FROM scorings WHERE name = scoring_name),
        error('No scoring is called ' || scoring_name || '. Those there are: SELECT name FROM scorings')
    );

-- Two scorings side by side: one row per query and example that at least one of them ranks as a proponent.
-- An example that only one side found has NULL on the other. Ranks count from the strongest proponent on both
-- sides (one side's proponent that is the other's strongest opponent stands there at its place from the end),
-- so ORDER BY influence_rank LIMIT 20 gives the top proponents.
CREATE OR REPLACE MACRO compare(influence_scoring, retrieval_scoring) AS TABLE
WITH named AS MATERIALIZED (
    SELECT influence_scoring::VARCHAR AS influence_name, retrieval_scoring::VARCHAR AS retrieval_name
),
asked AS MATERIALIZED (
    SELECT
        influence_name, scoring_called(influence_name) AS influence_id,
        retrieval_name, scoring_called(retrieval_name) AS retrieval_id
    FROM named
),
sides AS (
    SELECT
        query_id, example_id, score, rank > 0 AS proponent, position_of(rank, n_examples) AS place,
        scoring_id = influence_id AS on_influence, scoring_id = retrieval_id AS on_retrieval
    FROM scores
    JOIN scorings USING (scoring_id)
    JOIN asked ON scoring_id = influence_id OR scoring_id = retrieval_id
),
pairs AS (
    SELECT
        query_id, example_id,
        min(place) FILTER (on_influence) AS influence_rank,
        max(score) FILTER (on_influence) AS influence_score,
        min(place) FILTER (on_retrieval) AS retrieval_rank,
        max(score) FILTER (on_retrieval) AS retrieval_score
    FROM sides
    GROUP BY query_id, example_id
    HAVING bool_or(proponent)
)
SELECT
    queries.external_id AS query, examples.external_id AS example,
    asked.influence_name AS influence_scoring, pairs.influence_rank, pairs.influence_score,
    asked.retrieval_name AS retrieval_scoring, pairs.retrieval_rank, pairs.retrieval_score,
    pair_labels.label, examples.text, examples.source, queries.prompt, queries.target, examples.metadata
FROM pairs
CROSS JOIN asked
JOIN queries USING (query_id)
JOIN examples USING (example_id)
LEFT JOIN pair_labels USING (query_id, example_id);

-- The two of `chosen_scorings` side by side, each by name; a side for which there is none to choose is NULL.
CREATE OR REPLACE VIEW comparison AS
FROM compare(
    (SELECT name FROM chosen_scorings WHERE family = 'influence'),
    (SELECT name FROM chosen_scorings WHERE family = 'retrieval')
);

-- How alike two rankings of one query are, for every pair of scorings that both ranked it.
--   overlap           share of the first `depth` proponents that both have (of the longer list, if both are shorter);
--                     0 where only one side found any, NULL where neither did
--   in_common         how many examples rank_correlation is over
--   rank_correlation  Spearman's, over examples ranked again among themselves; NULL below three
--   basis             which examples: `all examples` where both scorings keep every rank, else `common top`, those
--                     among the first --top-k of both. Labelled examples are also stored from further down, and are
--                     left out there: they are the ones on which two methods differ most.
-- A common top is a selection: its correlation may be above or below that over all examples, and does not compare
-- with a top of another depth.
CREATE OR REPLACE MACRO agreement_at(depth) AS TABLE
WITH numbered AS (
    SELECT
        scoring_id, name, n_examples, row_number() OVER (ORDER BY family, name) AS number,
        (spec ->> 'top_k')::BIGINT AS top_k, family = 'influence'
            AND CASE WHEN spec ->> 'candidates' IS NULL THEN 2 * top_k ELSE top_k END >= n_examples AS whole
    FROM scorings
),
lists AS (
    SELECT
        numbered.name, numbered.number, numbered.whole, query_id,
        count(*) FILTER (scores.rank BETWEEN 1 AND least(depth, numbered.top_k)) AS n_top
    FROM scoring_queries
    JOIN numbered USING (scoring_id)
    LEFT JOIN scores USING (scoring_id, query_id)
    GROUP BY numbered.name, numbered.number, numbered.whole, query_id
),
ends AS (
    SELECT
        numbered.number, numbered.whole, scores.query_id, scores.example_id,
        scores.rank BETWEEN 1 AND numbered.top_k AS in_top,
        scores.rank BETWEEN 1 AND least(depth, numbered.top_k) AS in_first,
        position_of(scores.rank, numbered.n_examples) AS place
    FROM scores
    JOIN numbered USING (scoring_id)
    WHERE numbered.whole OR scores.rank BETWEEN 1 AND numbered.top_k
),
common AS (
    SELECT
        one.number AS one_number, other.number AS other_number, query_id,
        one.in_first AND other.in_first AS in_both_first,
        row_number() OVER (PARTITION BY one.number, other.number, query_id ORDER BY one.place) AS one_place,
        row_number() OVER (PARTITION BY one.number, other.number, query_id ORDER BY other.place) AS other_place
    FROM ends AS one
    JOIN ends AS other USING (query_id, example_id)
    WHERE one.number < other.number AND ((one.whole AND other.whole) OR (one.in_top AND other.in_top))
),
counted AS (
    SELECT
        one_number, other_number, query_id,
        count(*) AS n, count(*) FILTER (in_both_first) AS n_both, corr(one_place, other_place) AS correlation
    FROM common
    GROUP BY one_number, other_number, query_id
)
SELECT
    queries.external_id AS query, one.name AS scoring, other.name AS other_scoring,
    coalesce(counted.n_both, 0) / nullif(greatest(one.n_top, other.n_top), 0)::DOUBLE AS overlap,
    coalesce(counted.n, 0) AS in_common,
    CASE WHEN counted.n >= 3 THEN counted.correlation END AS rank_correlation,
    CASE WHEN one.whole AND other.whole THEN 'all examples' ELSE 'common top' END AS basis
FROM lists AS one
JOIN lists AS other ON other.query_id = one.query_id AND one.number < other.number
JOIN queries ON queries.query_id = one.query_id
LEFT JOIN counted
    ON counted.one_number = one.number AND counted.other_number = other.number
    AND counted.query_id = one.query_id;

-- The same at a depth of ten.
CREATE OR REPLACE VIEW agreement AS
SELECT query, scoring, other_scoring, overlap AS overlap_at_10, in_common, rank_correlation, basis
FROM agreement_at(10);

-- One row per scoring and query that it ranked: the metrics before they are averaged. NULL where the query has
-- no labelled example, 0 where the scoring found none of them, as for a query for which it found nothing at all.
-- Tail-patch is the mean over the query's ten strongest proponents, over all of them if a retrieval found fewer.
-- It is NULL unless each of them was measured, under the one setting (model, optimizer, learning rate) that
-- measured most pairs, and NULL where there are none: no step was taken, so there is nothing to average.
CREATE OR REPLACE VIEW query_report AS
WITH relevant AS (
    SELECT query_id, example_id FROM pair_labels WHERE label > 0
),
labelled AS (
    SELECT query_id, count(*) AS n_labelled FROM relevant GROUP BY query_id
),
setting AS (
    SELECT model_fingerprint, optimizer, learning_rate
    FROM tail_patches
    GROUP BY model_fingerprint, optimizer, learning_rate
    ORDER BY count(*) DESC, model_fingerprint, optimizer, learning_rate
    LIMIT 1
),
patches AS (
    SELECT query_id, example_id, avg(delta_logprob) AS delta_logprob, avg(delta_prob) AS delta_prob
    FROM tail_patches
    SEMI JOIN setting USING (model_fingerprint, optimizer, learning_rate)
    GROUP BY query_id, example_id
),
found AS (
    SELECT scores.scoring_id, scores.query_id, list(position_of(scores.rank, scorings.n_examples)) AS ranks
    FROM scores
    JOIN relevant USING (query_id, example_id)
    JOIN scorings USING (scoring_id)
    GROUP BY scores.scoring_id, scores.query_id
),
top_ten AS (
    SELECT
        scores.scoring_id, scores.query_id,
        avg(patches.delta_logprob) AS delta_logprob, avg(patches.delta_prob) AS delta_prob
    FROM scores
    LEFT JOIN patches USING (query_id, example_id)
    WHERE scores.rank BETWEEN 1 AND 10
    GROUP BY scores.scoring_id, scores.query_id
    HAVING count(*) = count(patches.delta_logprob)
)
SELECT
    scorings.name, scorings.method, scorings.family, queries.external_id AS query,
    coalesce(labelled.n_labelled, 0) AS labelled,
    CASE WHEN labelled.n_labelled > 0 THEN reciprocal_rank(found.ranks) END AS reciprocal_rank,
    CASE WHEN labelled.n_labelled > 0 THEN hit_at(found.ranks, 10) END AS hit_at_10,
    recall_at(found.ranks, labelled.n_labelled, 10) AS recall_at_10,
    CASE WHEN labelled.n_labelled > 0 THEN precision_at(found.ranks, 1) END AS precision_at_1,
    average_precision(found.ranks, labelled.n_labelled) AS average_precision,
    top_ten.delta_logprob AS tail_patch_logprob, top_ten.delta_prob AS tail_patch_prob,
    queries.metadata AS query_metadata
FROM scoring_queries
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id)
LEFT JOIN labelled USING (query_id)
LEFT JOIN found USING (scoring_id, query_id)
LEFT JOIN top_ten USING (scoring_id, query_id);

-- One row per scoring. `queries` is how many it ranked; the metrics are means over those of them that have a
-- labelled example, tail-patch over those of them that were measured; NULL where there are none. favg is avg with
-- compensated summation: threads add in any order, and the last digit should not depend on it.
CREATE OR REPLACE VIEW method_report AS
SELECT
    scorings.name, scorings.method, scorings.family,
    count(query_report.query) AS queries,
    favg(query_report.reciprocal_rank) AS mrr,
    favg(query_report.hit_at_10) AS hit_at_10,
    favg(query_report.recall_at_10) AS recall_at_10,
    favg(query_report.precision_at_1) AS precision_at_1,
    favg(query_report.average_precision) AS map,
    favg(query_report.tail_patch_logprob) AS tail_patch_logprob,
    favg(query_report.tail_patch_prob) AS tail_patch_prob
FROM scorings
LEFT JOIN query_report USING (name)
GROUP BY scorings.name, scorings.method, scorings.family
ORDER BY scorings.family, mrr DESC NULLS LAST, scorings.name;

-- The same for each value of one key of the queries' metadata: FROM report_by('relation')
CREATE OR REPLACE MACRO report_by(metadata_key) AS TABLE
SELECT
    name, method, family, query_metadata ->> metadata_key AS value,
    count(*) AS queries,
    favg(reciprocal_rank) AS mrr,
    favg(hit_at_10) AS hit_at_10,
    favg(recall_at_10) AS recall_at_10,
    favg(precision_at_1) AS precision_at_1,
    favg(average_precision) AS map,
    favg(tail_patch_logprob) AS tail_patch_logprob,
    favg(tail_patch_prob) AS tail_patch_prob
FROM query_report
GROUP BY name, method, family, value
ORDER BY value NULLS LAST, family, mrr DESC NULLS LAST, name;
