-- name: counts
SELECT
    (SELECT count(*) FROM examples) AS examples, (SELECT count(*) FROM queries) AS queries,
    (SELECT count(*) FROM labels) AS labels, (SELECT count(*) FROM models) AS models,
    (SELECT count(*) FROM encoders) AS encoders, (SELECT count(*) FROM encodings) AS encodings,
    (SELECT count(*) FROM query_encodings) AS query_encodings, (SELECT count(*) FROM curvatures) AS curvatures,
    (SELECT count(*) FROM terms) AS terms, (SELECT count(*) FROM postings) AS postings,
    (SELECT count(*) FROM scorings) AS scorings, (SELECT count(*) FROM scores) AS scores,
    (SELECT count(*) FROM tail_patches) AS tail_patches, (SELECT count(*) FROM runs) AS runs;

-- name: sources
SELECT coalesce(source, '(none)') AS source, count(*) AS examples
FROM examples
GROUP BY ALL
ORDER BY examples DESC, source
LIMIT 10;

-- name: models
SELECT path, revision, architecture, parameters, fingerprint FROM models ORDER BY path, fingerprint;

-- name: encoders
-- Codes of one encoder are all of one length (`attrstore check` looks at each), so a thousand tell the size.
WITH outcomes AS (
    SELECT
        encoder_id,
        count(*) FILTER (NOT starts_with(status, 'skipped')) AS encoded,
        count(*) FILTER (starts_with(status, 'skipped')) AS skipped,
        count(*) FILTER (starts_with(status, 'truncated')) AS truncated
    FROM encodings
    GROUP BY encoder_id
),
shares AS (
    SELECT encoder_id, part, encoded, sum(weights) / sum(sum(weights)) OVER (PARTITION BY encoder_id) AS share
    FROM encoder_weights
    GROUP BY encoder_id, part, encoded
),
of_weights AS (
    SELECT
        encoder_id,
        coalesce(sum(share) FILTER (encoded), 0) AS weights_encoded,
        string_agg(
            part || ' ' || CASE WHEN share < 0.001 THEN 'below 0.1%' ELSE format('{:.1f}%', 100 * share) END,
            ', ' ORDER BY share DESC, part
        ) FILTER (NOT encoded) AS weights_left_out
    FROM shares
    GROUP BY encoder_id
)
SELECT
    name, kind, spec ->> 'code' AS code,
    json_array_length(blocks)::BIGINT AS blocks,
    coalesce(list_sum((blocks -> '$[*].length')::BIGINT[]), 0)::BIGINT AS dimensions,
    (
        SELECT avg(octet_length(code) + coalesce(octet_length(scales), 0))
        FROM (
            SELECT code, scales FROM encodings
            WHERE encodings.encoder_id = encoders.encoder_id AND code IS NOT NULL LIMIT 1000
        )
    ) AS bytes_per_example,
    coalesce(encoded, 0) AS encoded, coalesce(skipped, 0) AS skipped, coalesce(truncated, 0) AS truncated,
    (SELECT count(*) FROM query_encodings WHERE query_encodings.encoder_id = encoders.encoder_id) AS queries,
    weights_encoded, weights_left_out, encoder_id
FROM encoders
LEFT JOIN outcomes USING (encoder_id)
LEFT JOIN of_weights USING (encoder_id)
ORDER BY created, name;

-- name: lexical
SELECT
    pattern, fold, stemmer, variant, k1, b, epsilon,
    (SELECT count(*) FROM lexical_stats) AS examples,
    (SELECT avg(length) FROM lexical_stats) AS mean_length
FROM lexical_index;

-- name: scorings
SELECT
    name, family, method, n_examples AS examples,
    (SELECT count(*) FROM scoring_queries WHERE scoring_queries.scoring_id = scorings.scoring_id) AS queries,
    date_trunc('second', created)::VARCHAR AS created, spec
FROM scorings
ORDER BY scorings.created, name;

-- name: runs
SELECT
    run_id, job, state, rows, date_trunc('second', started)::VARCHAR AS started,
    round(epoch(finished - started), 1) AS seconds, message
FROM runs
ORDER BY run_id DESC
LIMIT 10;

-- name: text_bytes
SELECT avg(strlen(text) + coalesce(strlen(metadata::VARCHAR), 0)) FROM examples;
