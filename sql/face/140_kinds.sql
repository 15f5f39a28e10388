-- What kind of example a proponent is: does it state the fact, or only speak of the same things? And how far
-- influence and retrieval agree, model by model.

-- A text as its words: lower case, one space between words, so that phrases can be found whole. A word is a run
-- of letters, digits and underscore, as in the lexical index; punctuation and spacing do not count.
CREATE OR REPLACE MACRO words_of(words_text) AS
    trim(regexp_replace(lower(words_text), '[^\p{L}\p{M}\p{N}_]+', ' ', 'g'));

-- Whether a text has a phrase in it as whole words: mentions('In New York.', 'new york'), but not 'york state'.
-- A script that puts no space between words has no words to find, unless the phrase stands alone.
CREATE OR REPLACE MACRO mentions(mentioning_text, phrase) AS
    coalesce(
        contains(' ' || words_of(mentioning_text) || ' ', ' ' || nullif(words_of(phrase), '') || ' '), false
    );

-- What kind of example a proponent is to a query with a subject and an object, the first that holds of
--   states the fact             labelled so (label > 0)
--   shares subject and object   its text has both as whole words, in any case
--   shares subject              its text has the subject
--   shares object               its text has the object
--   same relation               its metadata has the query's `relation`
--   other
CREATE OR REPLACE MACRO proponent_kind(label, has_subject, has_object, same_relation) AS
    CASE
        WHEN label > 0 THEN 'states the fact'
        WHEN has_subject THEN CASE WHEN has_object THEN 'shares subject and object' ELSE 'shares subject' END
        WHEN has_object THEN 'shares object'
        WHEN same_relation THEN 'same relation'
        ELSE 'other'
    END;

-- Every stored proponent of the queries whose metadata names a `subject` and an `object`, with its kind.
-- FROM classed_proponents WHERE query = 'q-17' AND rank <= 10 ORDER BY scoring, rank
CREATE OR REPLACE VIEW classed_proponents AS
SELECT
    scorings.name AS scoring, queries.external_id AS query, examples.external_id AS example,
    scores.rank, scores.score,
    proponent_kind(
        pair_labels.label,
        mentions(examples.text, queries.metadata ->> 'subject'),
        mentions(examples.text, queries.metadata ->> 'object'),
        examples.metadata ->> 'relation' = queries.metadata ->> 'relation'
    ) AS kind,
    examples.text
FROM scores
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id)
JOIN examples USING (example_id)
LEFT JOIN pair_labels USING (query_id, example_id)
WHERE scores.rank > 0 AND queries.metadata ->> 'subject' IS NOT NULL AND queries.metadata ->> 'object' IS NOT NULL;

-- Of the first `depth` proponents of those queries, how many are of each kind: one row per scoring and kind, a kind
-- that does not occur with 0. `share` is n over all of the scoring's proponents counted here. (A retrieval
-- ranking may have fewer than `depth`.)
--   PIVOT proponent_kinds_at(10) ON kind USING first(share) GROUP BY scoring
CREATE OR REPLACE MACRO proponent_kinds_at(depth) AS TABLE
WITH kinds AS (
    SELECT unnest([
        'states the fact', 'shares subject and object', 'shares subject', 'shares object', 'same relation', 'other'
    ]) AS kind, generate_subscripts([1, 2, 3, 4, 5, 6], 1) AS place
),
counted AS (
    SELECT scoring, kind, count(*) AS n FROM classed_proponents WHERE rank <= depth GROUP BY scoring, kind
),
totals AS (
    SELECT scoring, count(*) AS total, count(DISTINCT query) AS queries
    FROM classed_proponents
    WHERE rank <= depth
    GROUP BY scoring
)
SELECT
    totals.scoring, kinds.kind, coalesce(counted.n, 0) / totals.total AS share, coalesce(counted.n, 0) AS n,
    totals.total AS proponents, totals.queries, scoring_status.encoder, scoring_status.model
FROM totals
JOIN scoring_status ON scoring_status.name = totals.scoring
CROSS JOIN kinds
LEFT JOIN counted ON counted.scoring = totals.scoring AND counted.kind = kinds.kind
ORDER BY totals.scoring, kinds.place;

-- The same over the first ten.
CREATE OR REPLACE VIEW proponent_kinds AS FROM proponent_kinds_at(10);

-- How far each influence scoring agrees with each retrieval scoring, means over the queries that both ranked
-- (overlap_queries and rank_correlation_queries: how many of them have one), with the model behind each: FROM alignment compares
-- checkpoints, models and methods of one store. A method over several encoders is shown with its last. See
-- `agreement` for the two measures, query by query.
CREATE OR REPLACE VIEW alignment AS
SELECT
    influence.name AS influence, retrieval.name AS retrieval,
    favg(agreement.overlap_at_10) AS overlap_at_10,
    count(agreement.overlap_at_10) AS overlap_queries,
    favg(agreement.rank_correlation) AS rank_correlation,
    count(agreement.rank_correlation) AS rank_correlation_queries,
    count(*) AS queries,
    encoders.name AS encoder, models.path AS model, encoders.model_fingerprint,
    retrieval_models.path AS retrieval_model
FROM agreement
JOIN scorings AS influence ON influence.name = agreement.scoring AND influence.family = 'influence'
JOIN scorings AS retrieval ON retrieval.name = agreement.other_scoring AND retrieval.family = 'retrieval'
LEFT JOIN encoders ON encoders.encoder_id = influence.encoder_id
LEFT JOIN models ON models.fingerprint = encoders.model_fingerprint
LEFT JOIN encoders AS retrieval_encoders ON retrieval_encoders.encoder_id = retrieval.encoder_id
LEFT JOIN models AS retrieval_models ON retrieval_models.fingerprint = retrieval_encoders.model_fingerprint
GROUP BY ALL
ORDER BY retrieval.name, influence.name;
