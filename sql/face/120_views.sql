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

-- Below so many queries no mean of tail-patch is given.
CREATE OR REPLACE VIEW tail_patch_minimum AS SELECT 10 AS queries;

-- Which measurements count for a scoring: those of its own model; for a retrieval and an imported scoring, which are
-- of none, those of the only model that was measured, or else of the chosen influence scoring's. Of the model's
-- settings (optimizer, learning rate) it is the one that measured most pairs. No row where there are none.
CREATE OR REPLACE VIEW tail_patch_settings AS
WITH settings AS (
    SELECT model_fingerprint, optimizer, learning_rate
    FROM tail_patches
    GROUP BY model_fingerprint, optimizer, learning_rate
    QUALIFY row_number() OVER (
        PARTITION BY model_fingerprint ORDER BY count(*) DESC, optimizer, learning_rate
    ) = 1
),
of_store AS (
    SELECT coalesce(
        (SELECT max(model_fingerprint) FROM settings HAVING count(*) = 1),
        (SELECT model_fingerprint FROM chosen_scorings WHERE family = 'influence')
    ) AS fingerprint
)
SELECT
    scoring_status.scoring_id, scoring_status.name, scoring_status.partial,
    models.path AS model, settings.optimizer, settings.learning_rate, settings.model_fingerprint
FROM scoring_status
CROSS JOIN of_store
JOIN settings
    ON settings.model_fingerprint = CASE
        WHEN scoring_status.family = 'influence' AND scoring_status.model_fingerprint IS NOT NULL
            THEN scoring_status.model_fingerprint
        ELSE of_store.fingerprint
    END
LEFT JOIN models ON models.fingerprint = settings.model_fingerprint;

-- Tail-patch of one query: the mean over its ten strongest proponents, over all of them if a retrieval found fewer.
-- No row unless each of them was measured under the scoring's setting, and none where there are no proponents: no
-- step was taken, so there is nothing to average.
--   shared  whether a mean is over this query. Means stand beside each other, so they are over the queries that
--           every scoring of the setting has that ranks all queries and reaches the minimum.
CREATE OR REPLACE VIEW tail_patch_query AS
WITH moved AS (
    SELECT
        scores.scoring_id, scores.query_id,
        avg(tail_patches.delta_logprob) AS delta_logprob, avg(tail_patches.delta_prob) AS delta_prob,
        count(DISTINCT scores.example_id) = count(DISTINCT scores.example_id)
            FILTER (tail_patches.delta_logprob IS NOT NULL) AS whole
    FROM scores
    JOIN tail_patch_settings ON tail_patch_settings.scoring_id = scores.scoring_id
    LEFT JOIN tail_patches
        ON tail_patches.query_id = scores.query_id AND tail_patches.example_id = scores.example_id
        AND tail_patches.model_fingerprint = tail_patch_settings.model_fingerprint
        AND tail_patches.optimizer = tail_patch_settings.optimizer
        AND tail_patches.learning_rate = tail_patch_settings.learning_rate
    WHERE scores.rank BETWEEN 1 AND 10
    GROUP BY scores.scoring_id, scores.query_id
),
measured AS (
    SELECT
        moved.scoring_id, moved.query_id, moved.delta_logprob, moved.delta_prob,
        tail_patch_settings.model, tail_patch_settings.optimizer, tail_patch_settings.learning_rate,
        tail_patch_settings.model_fingerprint,
        NOT tail_patch_settings.partial
            AND count(*) OVER (PARTITION BY moved.scoring_id) >= (SELECT queries FROM tail_patch_minimum) AS counts
    FROM moved
    JOIN tail_patch_settings ON tail_patch_settings.scoring_id = moved.scoring_id
    WHERE moved.whole
),
compared AS (
    SELECT model_fingerprint, count(DISTINCT scoring_id) AS n FROM measured WHERE counts GROUP BY model_fingerprint
),
common AS (
    SELECT model_fingerprint, query_id, count(*) AS n FROM measured WHERE counts GROUP BY model_fingerprint, query_id
)
SELECT
    measured.scoring_id, measured.query_id, measured.delta_logprob, measured.delta_prob,
    measured.model, measured.optimizer, measured.learning_rate,
    compared.n IS NULL OR coalesce(common.n = compared.n, false) AS shared
FROM measured
LEFT JOIN compared ON compared.model_fingerprint = measured.model_fingerprint
LEFT JOIN common
    ON common.model_fingerprint = measured.model_fingerprint AND common.query_id = measured.query_id;

-- One row per scoring and query that it ranked: the metrics before they are averaged. NULL where the query has
-- no labelled example, 0 where the scoring found none of them, as for a query for which it found nothing at all.
-- `encoder` and `model` are the scoring's; for tail-patch and the model that was measured see `tail_patch_query`.
CREATE OR REPLACE VIEW query_report AS
WITH relevant AS (
    SELECT query_id, example_id FROM pair_labels WHERE label > 0
),
labelled AS (
    SELECT query_id, count(*) AS n_labelled FROM relevant GROUP BY query_id
),
found AS (
    SELECT scores.scoring_id, scores.query_id, list(position_of(scores.rank, scorings.n_examples)) AS ranks
    FROM scores
    JOIN relevant USING (query_id, example_id)
    JOIN scorings USING (scoring_id)
    GROUP BY scores.scoring_id, scores.query_id
)
SELECT
    scoring_status.name, scoring_status.method, scoring_status.family, scoring_status.encoder, scoring_status.model,
    queries.external_id AS query,
    coalesce(labelled.n_labelled, 0) AS labelled,
    CASE WHEN labelled.n_labelled > 0 THEN reciprocal_rank(found.ranks) END AS reciprocal_rank,
    CASE WHEN labelled.n_labelled > 0 THEN hit_at(found.ranks, 10) END AS hit_at_10,
    recall_at(found.ranks, labelled.n_labelled, 10) AS recall_at_10,
    recall_at(found.ranks, labelled.n_labelled, 50) AS recall_at_50,
    CASE WHEN labelled.n_labelled > 0 THEN precision_at(found.ranks, 1) END AS precision_at_1,
    average_precision(found.ranks, labelled.n_labelled) AS average_precision,
    moved.delta_logprob AS tail_patch_logprob, moved.delta_prob AS tail_patch_prob, moved.shared AS tail_patch_shared,
    moved.model AS tail_patch_model, moved.optimizer AS tail_patch_optimizer,
    moved.learning_rate AS tail_patch_learning_rate,
    queries.metadata AS query_metadata
FROM scoring_queries
JOIN scoring_status ON scoring_status.scoring_id = scoring_queries.scoring_id
JOIN queries ON queries.query_id = scoring_queries.query_id
LEFT JOIN labelled ON labelled.query_id = scoring_queries.query_id
LEFT JOIN found ON found.scoring_id = scoring_queries.scoring_id AND found.query_id = scoring_queries.query_id
LEFT JOIN tail_patch_query AS moved
    ON moved.scoring_id = scoring_queries.scoring_id AND moved.query_id = scoring_queries.query_id;

-- Means over queries, for each scoring and value (of what is grouped by; NULL if by nothing). favg is avg with
-- compensated summation, here in one order: threads add in any, and the last digit should not depend on it.
CREATE OR REPLACE MACRO report_means(metadata_key) AS TABLE
SELECT
    name, query_metadata ->> metadata_key AS value,
    count(*) AS queries,
    count(reciprocal_rank) AS labelled_queries,
    favg(reciprocal_rank ORDER BY query) AS mrr,
    favg(hit_at_10 ORDER BY query) AS hit_at_10,
    favg(recall_at_10 ORDER BY query) AS recall_at_10,
    favg(recall_at_50 ORDER BY query) AS recall_at_50,
    favg(precision_at_1 ORDER BY query) AS precision_at_1,
    favg(average_precision ORDER BY query) AS map,
    count(*) FILTER (tail_patch_shared) AS tail_patch_queries,
    CASE WHEN count(*) FILTER (tail_patch_shared) >= (SELECT queries FROM tail_patch_minimum)
        THEN favg(tail_patch_logprob ORDER BY query) FILTER (tail_patch_shared) END AS tail_patch_logprob,
    CASE WHEN count(*) FILTER (tail_patch_shared) >= (SELECT queries FROM tail_patch_minimum)
        THEN favg(tail_patch_prob ORDER BY query) FILTER (tail_patch_shared) END AS tail_patch_prob,
    count(tail_patch_logprob) AS tail_patch_measured,
    max(tail_patch_model) AS tail_patch_model, max(tail_patch_optimizer) AS tail_patch_optimizer,
    max(tail_patch_learning_rate) AS tail_patch_learning_rate
FROM query_report
GROUP BY name, value;

-- One row per scoring. `queries` is how many it ranked; the metrics are means over the `labelled_queries` of them that
-- have a labelled example; NULL where there are none. Tail-patch is over `tail_patch_queries`, the same for all
-- scorings that rank all queries (see `tail_patch_query`), of the `tail_patch_measured` that this one has; NULL below
-- the minimum. encoder, model: of the scoring. partial, stale: see `scoring_status`.
CREATE OR REPLACE VIEW method_report AS
SELECT
    scoring_status.name, scoring_status.method, scoring_status.family, scoring_status.encoder, scoring_status.model,
    coalesce(means.queries, 0) AS queries, coalesce(means.labelled_queries, 0) AS labelled_queries,
    mrr, hit_at_10, recall_at_10, recall_at_50, precision_at_1, map,
    coalesce(tail_patch_queries, 0) AS tail_patch_queries, tail_patch_logprob, tail_patch_prob,
    coalesce(tail_patch_measured, 0) AS tail_patch_measured,
    tail_patch_model, tail_patch_optimizer, tail_patch_learning_rate,
    scoring_status.partial, scoring_status.stale
FROM scoring_status
LEFT JOIN report_means(NULL) AS means ON means.name = scoring_status.name
ORDER BY scoring_status.family, mrr DESC NULLS LAST, scoring_status.name;

-- The same for each value of one key of the queries' metadata: FROM report_by('relation')
CREATE OR REPLACE MACRO report_by(metadata_key) AS TABLE
SELECT
    scoring_status.name, scoring_status.method, scoring_status.family, scoring_status.encoder, scoring_status.model,
    means.value, means.queries, means.labelled_queries,
    mrr, hit_at_10, recall_at_10, recall_at_50, precision_at_1, map,
    tail_patch_queries, tail_patch_logprob, tail_patch_prob, tail_patch_measured,
    tail_patch_model, tail_patch_optimizer, tail_patch_learning_rate,
    scoring_status.partial, scoring_status.stale
FROM report_means(metadata_key) AS means
JOIN scoring_status ON scoring_status.name = means.name
ORDER BY means.value NULLS LAST, scoring_status.family, mrr DESC NULLS LAST, scoring_status.name;
