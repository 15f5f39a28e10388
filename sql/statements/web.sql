-- name: scorings
-- Every scoring that the two columns may show; `shown` is the one of its family that is shown where none is named.
SELECT
    scoring_status.scoring_id, scoring_status.name, scoring_status.family, scoring_status.method,
    scoring_status.queries, scoring_status.examples, (spec ->> 'top_k')::BIGINT AS top_k, scoring_status.model, encoder_id,
    scoring_status.partial, scoring_status.stale, scoring_status.reasons, chosen_scorings.name IS NOT NULL AS shown
FROM scoring_status
JOIN scorings USING (scoring_id)
LEFT JOIN chosen_scorings ON chosen_scorings.name = scoring_status.name
ORDER BY scoring_status.family, scoring_status.name;

-- name: totals
SELECT
    (SELECT count(*) FROM examples) AS examples, (SELECT count(*) FROM queries) AS queries,
    (SELECT count(*) FROM labels WHERE label > 0) AS labels;

-- name: keys
-- The keys of the queries' metadata with at most 200 values, the most frequent first; a key that nearly every query
-- has for itself is no filter.
SELECT key, list(value ORDER BY n DESC, value) AS found
FROM (
    SELECT key, metadata ->> key AS value, count(*) AS n
    FROM (SELECT metadata, unnest(json_keys(metadata)) AS key FROM queries)
    GROUP BY key, value
)
WHERE value IS NOT NULL
GROUP BY key
HAVING count(*) <= 200
ORDER BY key;

-- name: queries_in_order
-- The queries that a search and a value of the metadata leave, as they came.
SELECT query_id
FROM queries
WHERE ($search IS NULL OR contains(lower(concat_ws(' ', external_id, prompt, target)), lower($search)))
    AND ($key IS NULL OR metadata ->> $key = $value)
ORDER BY query_id;

-- name: queries_measured
-- The same with what two scorings make of them: `overlap`, the share of their first ten that they share, and
-- the best place of a labelled example in each. One that a scoring did not find at all comes last.
WITH chosen AS (
    SELECT query_id
    FROM queries
    WHERE query_id BETWEEN $first AND $last
        AND ($search IS NULL OR contains(lower(concat_ws(' ', external_id, prompt, target)), lower($search)))
        AND ($key IS NULL OR metadata ->> $key = $value)
),
tops AS (
    SELECT query_id, example_id, scoring_id = $a AS on_a
    FROM scores
    WHERE query_id BETWEEN $first AND $last AND rank BETWEEN 1 AND 10 AND (scoring_id = $a OR scoring_id = $b)
),
shared AS (
    SELECT query_id, count(*) AS n
    FROM tops AS a JOIN tops AS b USING (query_id, example_id)
    WHERE a.on_a AND NOT b.on_a
    GROUP BY query_id
),
lengths AS (
    SELECT query_id, greatest(count(*) FILTER (on_a), count(*) FILTER (NOT on_a)) AS n FROM tops GROUP BY query_id
),
places AS (
    SELECT
        query_id,
        min(position_of(rank, n_examples)) FILTER (scoring_id = $a) AS a_place,
        min(position_of(rank, n_examples)) FILTER (scoring_id = $b) AS b_place
    FROM scores
    JOIN scorings USING (scoring_id)
    SEMI JOIN (SELECT query_id, example_id FROM labels WHERE label > 0) USING (query_id, example_id)
    WHERE query_id BETWEEN $first AND $last AND (scoring_id = $a OR scoring_id = $b)
    GROUP BY query_id
),
measured AS (
    SELECT
        query_id, CASE WHEN $a <> $b THEN coalesce(shared.n, 0) / lengths.n::DOUBLE END AS overlap,
        a_place, b_place, ln(b_place) - ln(a_place) AS gap
    FROM chosen
    LEFT JOIN lengths USING (query_id)
    LEFT JOIN shared USING (query_id)
    LEFT JOIN places USING (query_id)
)
SELECT query_id, overlap, a_place, b_place
FROM measured
WHERE ($metric IS NULL OR (
    CASE $metric WHEN 'overlap' THEN overlap WHEN 'a' THEN a_place WHEN 'b' THEN b_place END
    BETWEEN coalesce($low, '-inf'::DOUBLE) AND coalesce($high, 'inf'::DOUBLE)
))
ORDER BY
    CASE $sort
        WHEN 'disagree' THEN overlap WHEN 'agree' THEN -overlap WHEN 'a' THEN a_place WHEN 'b' THEN b_place
        WHEN 'only-a' THEN -gap WHEN 'only-b' THEN gap
    END NULLS LAST,
    query_id;

-- name: query_texts
-- What the list shows of the queries of one page. The log-probability is the newest one that an encoder noted.
SELECT
    query_id, external_id, left(prompt, $length), left(target, $length),
    (SELECT arg_max(-loss, encoders.created) FROM query_encodings JOIN encoders USING (encoder_id)
     WHERE query_encodings.query_id = queries.query_id AND encoders.kind = 'gradient') AS logprob
FROM queries
WHERE query_id BETWEEN $first AND $last AND list_contains($ids, query_id);

-- name: query_names
SELECT query_id, external_id FROM queries WHERE query_id IN (SELECT unnest($ids::BIGINT[]));

-- name: query
SELECT query_id, external_id, prompt, target, metadata FROM queries WHERE external_id = $id;

-- name: first_queries
SELECT external_id FROM queries ORDER BY query_id LIMIT $n;

-- name: losses
-- What an encoder noted of the targets of a stretch of queries.
SELECT query_id, loss
FROM query_encodings
WHERE encoder_id = $encoder AND query_id BETWEEN $first AND $last AND loss IS NOT NULL;

-- name: labels
-- The labels of a stretch of queries.
SELECT query_id, example_id, max(label) AS label
FROM labels
WHERE query_id BETWEEN $first AND $last
GROUP BY query_id, example_id;

-- name: gradient_encoders
-- The newest first.
SELECT encoder_id FROM encoders WHERE kind = 'gradient' ORDER BY created DESC;

-- name: ranked
-- All that a scoring keeps of a stretch of queries.
SELECT query_id, example_id, rank, score
FROM scores
WHERE scoring_id = $scoring AND query_id BETWEEN $first AND $last;

-- name: ranked_of_source
-- What one or two scorings keep of a query, of the examples of one source.
SELECT example_id, scoring_id, rank, score
FROM scores
SEMI JOIN (SELECT example_id FROM examples WHERE source = $source) USING (example_id)
WHERE query_id = $query AND scoring_id IN ($a, $b);

-- name: example_texts
-- What the cards show of their examples. A text comes as its first $length characters.
SELECT
    example_id, external_id, left(text, $length), length(text), source, metadata ->> 'relation'
FROM examples
WHERE example_id IN (SELECT unnest($ids::BIGINT[]));

-- name: patched
-- The setting that measured most pairs.
SELECT model_fingerprint, optimizer, learning_rate
FROM tail_patches
GROUP BY ALL
ORDER BY count(*) DESC, model_fingerprint, optimizer, learning_rate
LIMIT 1;

-- name: patches
-- What was measured in one setting, for a stretch of queries.
SELECT query_id, example_id, avg(delta_logprob) AS delta
FROM tail_patches
WHERE query_id BETWEEN $first AND $last AND model_fingerprint = $model AND optimizer = $optimizer
    AND learning_rate = $rate
GROUP BY query_id, example_id;

-- name: letters
-- What `words_of` makes of each character; empty where it is between words.
SELECT letter, words_of(letter) FROM (SELECT unnest($letters::VARCHAR[]) AS letter);

-- name: sources
-- The sources of the examples, the most frequent first.
SELECT source, count(*) AS n FROM examples WHERE source IS NOT NULL GROUP BY source ORDER BY n DESC, source LIMIT 200;

-- name: common_words
-- The words of at least one example in twenty (and two): they say nothing of what two texts share. In a stemmed index a
-- word is as common as its stem. Without an index none is known.
WITH common AS (
    SELECT term FROM terms WHERE df * 20 >= (SELECT greatest(count(*), 40) FROM examples)
)
SELECT term FROM common ANTI JOIN stems ON stems.token = common.term
UNION ALL
SELECT token FROM stems SEMI JOIN common USING (term);

-- name: example
SELECT example_id, external_id, left(text, $length), length(text), source, metadata
FROM examples
WHERE external_id = $id;

-- name: drives
-- The queries for which a scoring ranks an example among its first fifty, the strongest first.
SELECT queries.external_id, left(prompt, 400), left(target, 400), rank, score, label
FROM scores
JOIN queries USING (query_id)
LEFT JOIN pair_labels USING (query_id, example_id)
WHERE scoring_id = $scoring AND example_id = $example AND rank BETWEEN 1 AND 50
ORDER BY rank, query_id
LIMIT 100;

-- name: overlaps
-- How many queries have so many of ten in common under two scorings.
WITH tops AS (
    SELECT query_id, example_id, scoring_id = $a AS on_a
    FROM scores
    WHERE rank BETWEEN 1 AND 10 AND (scoring_id = $a OR scoring_id = $b)
),
counted AS (
    SELECT query_id, count(*) - count(DISTINCT example_id) AS n FROM tops GROUP BY query_id
)
SELECT n, count(*) FROM counted GROUP BY n ORDER BY n;

-- name: planes
-- Examples that two scorings both rank as proponents, counted by the power of two of each place; whether labelled.
SELECT floor(log2(a.rank))::INTEGER AS a, floor(log2(b.rank))::INTEGER AS b, coalesce(label, 0) > 0 AS labelled, count(*)
FROM scores AS a
JOIN scores AS b ON b.query_id = a.query_id AND b.example_id = a.example_id
LEFT JOIN (SELECT query_id, example_id, max(label) AS label FROM labels GROUP BY query_id, example_id) AS told
    ON told.query_id = a.query_id AND told.example_id = a.example_id
WHERE a.scoring_id = $a AND b.scoring_id = $b AND a.rank > 0 AND b.rank > 0 AND a.query_id <= $last
    AND b.query_id <= $last
GROUP BY ALL;

-- name: last_of_first
-- The id of the last of the first $n queries.
SELECT max(query_id) FROM (SELECT query_id FROM queries ORDER BY query_id LIMIT $n);

-- name: by_value
-- Means of two scorings for each value of a metadata key.
SELECT value, max(queries), max(mrr) FILTER (name = $a), max(mrr) FILTER (name = $b)
FROM report_by($key)
WHERE value IS NOT NULL AND (name = $a OR name = $b)
GROUP BY value
ORDER BY try_cast(value AS DOUBLE) NULLS LAST, value;

-- name: several_checkpoints
SELECT count(DISTINCT model_fingerprint) > 1 FROM encoders WHERE kind = 'gradient';

-- name: checkpoints
SELECT method, scoring, other_scoring, queries, overlap_at_10, overlap_low, overlap_high, rank_correlation
FROM checkpoint_agreement
ORDER BY ALL;

-- name: changes
SELECT from_model, to_model, queries, relative_distance, mean_change, low, high, improved
FROM behaviour_change
ORDER BY ALL;

-- name: measured
-- Whether there are models trained on subsets, and checkpoints that were compared.
SELECT
    EXISTS (SELECT 1 FROM subset_losses JOIN subsets USING (subset_set, subset) WHERE kind = 'lds'),
    EXISTS (FROM query_losses);

-- name: schema
-- What SQL can read: views first, then macros that give rows, then tables.
SELECT kind, name, columns
FROM (
    SELECT 1 AS place, 'view' AS kind, view_name AS name, list(column_name ORDER BY column_index) AS columns
    FROM duckdb_views() JOIN duckdb_columns() ON table_name = view_name
    WHERE NOT duckdb_views.internal
    GROUP BY view_name
    UNION ALL
    SELECT 2, 'macro', function_name, any_value(parameters) FROM duckdb_functions()
    WHERE function_type = 'table_macro' AND NOT internal
    GROUP BY function_name
    UNION ALL
    SELECT 3, 'table', duckdb_tables.table_name, list(column_name ORDER BY column_index)
    FROM duckdb_tables() JOIN duckdb_columns() ON duckdb_columns.table_name = duckdb_tables.table_name
    WHERE NOT duckdb_tables.internal
    GROUP BY duckdb_tables.table_name
)
ORDER BY place, name;

-- name: any_explained
SELECT EXISTS (FROM token_parts);

-- name: explained
-- The tokens of the examples that were explained for a query.
SELECT scoring_id, example_id, start, token, part
FROM token_parts
WHERE query_id = $query AND side = 'example' AND scoring_id IN ($a, $b)
ORDER BY scoring_id, example_id, position;

-- name: why
SELECT query_id, prompt, target, example_id, text
FROM queries CROSS JOIN examples
WHERE queries.external_id = $query AND examples.external_id = $example;

-- name: token_parts
SELECT side, start, token, part
FROM token_parts
WHERE scoring_id = $scoring AND query_id = $query AND example_id = $example
ORDER BY side, position;

-- name: block_parts
SELECT block, part, source
FROM block_parts
WHERE scoring_id = $scoring AND query_id = $query AND example_id = $example
ORDER BY position;
