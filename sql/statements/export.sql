-- name: relations
-- What can be exported by name.
SELECT name, kind
FROM (
    SELECT table_name AS name, 'table' AS kind FROM duckdb_tables() WHERE NOT internal AND NOT temporary
    UNION ALL
    SELECT view_name, 'view' FROM duckdb_views() WHERE NOT internal AND NOT temporary
    UNION ALL
    SELECT name, 'scoring' FROM scorings
)
ORDER BY kind, name;

-- name: copy_parquet
COPY (FROM exported) TO $path (FORMAT parquet, COMPRESSION zstd);

-- name: json_lines
-- Each row as one JSON object.
SELECT to_json(exported)::VARCHAR FROM exported;

-- name: blank_ids
-- Ids that a TREC file cannot hold, because white space separates its columns.
SELECT external_id FROM queries WHERE regexp_matches(external_id, '\s')
UNION ALL
SELECT external_id FROM examples WHERE regexp_matches(external_id, '\s')
LIMIT 1;

-- name: trec_run
-- The proponents of a scoring without a gap: a tool that ranks again by score must see the same ranks, so the
-- labelled examples stored from further down are left out.
SELECT concat_ws(
    ' ', queries.external_id, 'Q0', examples.external_id, top.rank, top.score,
    regexp_replace(scorings.name, '\s', '_', 'g')
)
FROM (
    SELECT * FROM scores
    WHERE scoring_id = $scoring AND rank > 0
    QUALIFY rank = row_number() OVER (PARTITION BY query_id ORDER BY rank)
) AS top
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id)
JOIN examples USING (example_id)
ORDER BY top.query_id, top.rank;

-- name: trec_qrels
-- TREC relevance is an integer: a label above 0 is at least 1.
SELECT concat_ws(
    ' ', queries.external_id, 0, examples.external_id,
    CASE WHEN label > 0 THEN greatest(1, round(label)::BIGINT) ELSE least(0, round(label)::BIGINT) END
)
FROM pair_labels
JOIN queries USING (query_id)
JOIN examples USING (example_id)
ORDER BY query_id, example_id;

-- name: kept
-- All kept scores of some queries.
SELECT query_id, example_id, score FROM scores
WHERE scoring_id = $scoring AND list_contains($queries::BIGINT[], query_id);

-- name: scored_queries
SELECT DISTINCT query_id FROM scores WHERE scoring_id = $scoring ORDER BY query_id;

-- name: pair
-- Both gap-free ends of some queries' rankings, one query a row.
WITH ends AS (
    SELECT scores.*, rank > 0 AS proponent FROM scores
    WHERE scoring_id = $scoring AND list_contains($queries::BIGINT[], query_id)
    QUALIFY abs(rank) = row_number() OVER (PARTITION BY query_id, rank > 0 ORDER BY abs(rank))
)
SELECT
    queries.external_id AS example_id,
    coalesce(queries.metadata ->> 'query_set', scorings.name) AS query_set,
    queries.prompt AS inputs_plaintext,
    queries.target AS targets_plaintext,
    coalesce(list(examples.text ORDER BY abs(ends.rank)) FILTER (proponent), []) AS proponents,
    coalesce(list(examples.external_id ORDER BY abs(ends.rank)) FILTER (proponent), []) AS proponent_ids,
    coalesce(list(ends.score ORDER BY abs(ends.rank)) FILTER (proponent), []) AS proponent_scores,
    coalesce(list(examples.text ORDER BY abs(ends.rank)) FILTER (NOT proponent), []) AS opponents,
    coalesce(list(examples.external_id ORDER BY abs(ends.rank)) FILTER (NOT proponent), []) AS opponent_ids,
    coalesce(list(ends.score ORDER BY abs(ends.rank)) FILTER (NOT proponent), []) AS opponent_scores,
    CASE WHEN queries.query_id IN (SELECT query_id FROM labels) THEN
        coalesce(list(coalesce(pair_labels.label > 0, false) ORDER BY abs(ends.rank)) FILTER (proponent), [])
    END AS proponent_correct,
    queries.metadata ->> 'relation' AS relation,
    queries.metadata ->> 'fact_id' AS fact_id
FROM ends
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id)
JOIN examples USING (example_id)
LEFT JOIN pair_labels USING (query_id, example_id)
GROUP BY queries.query_id, queries.external_id, queries.prompt, queries.target, queries.metadata, scorings.name
ORDER BY queries.query_id;

-- name: unknown_examples
SELECT example FROM chosen ANTI JOIN examples ON external_id = example LIMIT 1;

-- name: originals
-- Some of the chosen examples, as they came in.
SELECT example_id, external_id, text, source, metadata, shape, original
FROM examples SEMI JOIN chosen ON external_id = example
LEFT JOIN example_originals USING (example_id)
WHERE example_id > $after
ORDER BY example_id LIMIT $limit;
