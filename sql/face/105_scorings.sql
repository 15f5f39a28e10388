-- What each scoring is about, whether it still holds, and which two are shown where none is named.

-- One label for a pair, whatever number of origins gave one: the strongest.
CREATE OR REPLACE VIEW pair_labels AS
SELECT query_id, example_id, max(label) AS label
FROM labels
GROUP BY query_id, example_id;

-- What every ranking depends on, as it is now: how many, and a digest in which the order does not count.
CREATE OR REPLACE VIEW present_inputs AS
SELECT
    'examples' AS input, count(*) AS n,
    coalesce(sum((content_hash & 2147483647)::HUGEINT * (2 * example_id + 1)), 0)::HUGEINT AS digest
FROM examples
UNION ALL
SELECT
    'queries', count(*),
    coalesce(sum((content_hash & 2147483647)::HUGEINT * (2 * query_id + 1)), 0)::HUGEINT
FROM queries
UNION ALL
SELECT
    'labels', count(*),
    coalesce(sum(md5_number_lower(query_id || ' ' || example_id)::HUGEINT), 0)::HUGEINT
FROM pair_labels
WHERE label > 0;

-- One row per scoring: what it is of, and what it is over.
--   encoder, model    whose encodings it reads, and the model that made them: the last of several; NULL where it reads none
--   queries, examples how many it ranked, of how many there are now (of_queries, of_examples)
--   skipped_queries   that its encoder could not encode
--   partial           it was made for some queries or examples only (--queries, --where), or while others were not encoded
--   stale             examples, queries, labels or encodings are not those that it was made of
--   reasons           why it is partial or stale; NULL where it is neither
CREATE OR REPLACE VIEW scoring_status AS
WITH present AS (
    SELECT
        max(n) FILTER (input = 'examples') AS examples, max(digest) FILTER (input = 'examples') AS examples_digest,
        max(n) FILTER (input = 'queries') AS queries, max(digest) FILTER (input = 'queries') AS queries_digest,
        max(digest) FILTER (input = 'labels') AS labels_digest
    FROM present_inputs
),
made AS (
    SELECT
        scoring_id,
        max(n) FILTER (input = 'examples') AS examples, max(digest) FILTER (input = 'examples') AS examples_digest,
        max(n) FILTER (input = 'queries') AS queries, max(digest) FILTER (input = 'queries') AS queries_digest,
        max(digest) FILTER (input = 'labels') AS labels_digest
    FROM scoring_inputs
    GROUP BY scoring_id
),
ranked AS (
    SELECT scoring_id, count(*) AS queries FROM scoring_queries GROUP BY scoring_id
),
encoded AS (
    SELECT encoder_id, count(*) FILTER (NOT starts_with(status, 'skipped')) AS examples
    FROM encodings
    GROUP BY encoder_id
),
encoded_queries AS (
    SELECT encoder_id, count(*) FILTER (starts_with(status, 'skipped')) AS skipped
    FROM query_encodings
    GROUP BY encoder_id
),
counted AS (
    SELECT
        scorings.scoring_id, scorings.name, scorings.family, scorings.method,
        encoders.name AS encoder, models.path AS model, models.fingerprint AS model_fingerprint,
        coalesce(ranked.queries, 0) AS queries, present.queries AS of_queries,
        coalesce(encoded_queries.skipped, 0) AS skipped_queries,
        scorings.n_examples AS examples, present.examples AS of_examples,
        scorings.spec ->> 'where' AS selection,
        -- Without a record of what there was, what there is has to do.
        coalesce(made.queries, present.queries) AS queries_then,
        coalesce(made.examples, present.examples) AS examples_then,
        coalesce(made.examples_digest <> present.examples_digest, false) AS other_examples,
        coalesce(made.queries_digest <> present.queries_digest, false) AS other_queries,
        coalesce(made.labels_digest <> present.labels_digest, false)
            AND NOT (scorings.family = 'influence' AND 2 * (scorings.spec ->> 'top_k')::BIGINT >= scorings.n_examples)
            AS other_labels,
        -- How many it would rank now; NULL where that cannot be told.
        CASE
            WHEN scorings.spec ->> 'where' IS NOT NULL OR scorings.spec ->> 'encoders' IS NOT NULL THEN NULL
            WHEN scorings.encoder_id IS NOT NULL THEN coalesce(encoded.examples, 0)
            WHEN scorings.method IN ('bm25', 'imported') THEN present.examples
        END AS would_rank
    FROM scorings
    CROSS JOIN present
    LEFT JOIN made ON made.scoring_id = scorings.scoring_id
    LEFT JOIN ranked ON ranked.scoring_id = scorings.scoring_id
    LEFT JOIN encoders ON encoders.encoder_id = scorings.encoder_id
    LEFT JOIN models ON models.fingerprint = coalesce(encoders.model_fingerprint, scorings.spec ->> 'model')
    LEFT JOIN encoded ON encoded.encoder_id = scorings.encoder_id
    LEFT JOIN encoded_queries ON encoded_queries.encoder_id = scorings.encoder_id
),
judged AS (
    SELECT
        *,
        selection IS NOT NULL OR queries + skipped_queries < queries_then AS partial,
        other_examples OR other_queries OR other_labels OR coalesce(examples <> would_rank, false) AS stale
    FROM counted
)
SELECT
    name, family, method, encoder, model, queries, of_queries, skipped_queries, examples, of_examples, partial, stale,
    nullif(concat_ws(
        '; ',
        CASE WHEN selection IS NOT NULL THEN 'ranks only examples where ' || selection END,
        CASE WHEN queries + skipped_queries < queries_then THEN 'ranks ' || queries || ' of ' || queries_then || ' queries' END,
        CASE
            WHEN examples_then <> of_examples THEN 'made of ' || examples_then || ' examples, now there are ' || of_examples
            WHEN other_examples THEN 'examples were replaced since'
            WHEN examples <> would_rank THEN 'ranks ' || examples || ' examples, now it would rank ' || would_rank
        END,
        CASE
            WHEN queries_then <> of_queries THEN 'made for ' || queries_then || ' queries, now there are ' || of_queries
            WHEN other_queries THEN 'queries were replaced since'
        END,
        CASE WHEN other_labels THEN 'labels were changed since, whose ranks it may lack' END
    ), '') AS reasons,
    model_fingerprint, scoring_id
FROM judged
ORDER BY family, name;

-- One row per scoring and query for which it found something: whether it has the score of every example (--top-k as large
-- as the corpus). One that was cut, or made with --where, says nothing about the rest. A retrieval that was not cut has
-- every score: what it did not find is 0.
CREATE OR REPLACE VIEW whole_rankings AS
SELECT
    scoring_id, query_id,
    spec ->> 'where' IS NULL AND (
        count(*) = n_examples OR (family = 'retrieval' AND count(*) < (spec ->> 'top_k')::BIGINT)
    ) AS every_score
FROM scores
JOIN scorings USING (scoring_id)
GROUP BY scoring_id, query_id, spec, family, n_examples;

-- The methods, the one to show first at its place 1.
CREATE OR REPLACE VIEW recommended AS
SELECT unnest(methods) AS method, generate_subscripts(methods, 1) AS place
FROM (
    SELECT [
        'cosine-block', 'damped-block', 'trackstar-block', 'trackstar', 'less', 'cosine', 'ekfac', 'kfac', 'influence',
        'datainf', 'trak', 'tracincp', 'cg', 'lissa', 'repsim', 'dot', 'mirrored', 'bm25', 'dense'
    ] AS methods
);

-- The influence and the retrieval scoring that are shown where none is named: `comparison` reads them. They are what
-- `attrstore use` set, or else the first complete one in the order of `recommended`, by its method; among several of
-- one method that which is called like it. A scoring of another method, such as an imported one, is taken only where
-- it is the only one. `name` is NULL where there is none to take, and `reason` says why.
CREATE OR REPLACE VIEW chosen_scorings AS
WITH candidates AS (
    SELECT
        scoring_status.*, place,
        count(*) FILTER (NOT partial) OVER (PARTITION BY family) AS n_complete,
        row_number() OVER (
            PARTITION BY family ORDER BY partial, place NULLS LAST, (name = scoring_status.method) DESC, name
        ) AS number,
        count(*) FILTER (NOT partial) OVER (PARTITION BY family, scoring_status.method) AS n_of_method
    FROM scoring_status
    LEFT JOIN recommended ON recommended.method = scoring_status.method
),
firsts AS (
    SELECT
        family, method, place, n_complete, partial,
        CASE WHEN NOT partial AND CASE
            WHEN place IS NULL THEN n_complete = 1
            ELSE name = method OR n_of_method = 1
        END THEN name END AS name
    FROM candidates
    WHERE number = 1
),
families AS (
    SELECT unnest(['influence', 'retrieval']) AS family
),
decided AS (
    SELECT
        families.family, meta.value AS wanted,
        CASE WHEN meta.value IS NULL THEN firsts.name ELSE asked.name END AS name,
        CASE
            WHEN meta.value IS NOT NULL AND asked.name IS NULL
                THEN 'attrstore use chose ' || meta.value || ', and no ' || families.family || ' scoring is called so'
            WHEN meta.value IS NOT NULL THEN 'chosen by attrstore use'
            WHEN firsts.family IS NULL THEN 'no ' || families.family || ' scoring'
            WHEN firsts.n_complete = 0 THEN 'no ' || families.family || ' scoring is complete'
            WHEN firsts.name IS NULL AND firsts.place IS NULL
                THEN 'several, none by a recommended method: choose one, attrstore use'
            WHEN firsts.name IS NULL THEN 'several of ' || firsts.method || ': choose one, attrstore use'
            WHEN firsts.n_complete = 1 THEN 'the only complete one'
            ELSE 'the first recommended'
        END AS reason
    FROM families
    LEFT JOIN meta ON meta.key = 'use ' || families.family
    LEFT JOIN firsts ON firsts.family = families.family
    LEFT JOIN scoring_status AS asked ON asked.name = meta.value AND asked.family = families.family
)
SELECT
    decided.family, decided.name, decided.reason, method, encoder, model, queries, of_queries, examples, of_examples,
    partial, stale, reasons, model_fingerprint
FROM decided
LEFT JOIN scoring_status ON scoring_status.name = decided.name
ORDER BY decided.family;
