-- Integrity checks. Each returns one row: how many rows are wrong, and one of them for the message.

-- name: duplicate_ids
SELECT count(*), any_value(what)
FROM (
    SELECT 'example_id ' || example_id AS what FROM examples GROUP BY example_id HAVING count(*) > 1
    UNION ALL
    SELECT 'query_id ' || query_id FROM queries GROUP BY query_id HAVING count(*) > 1
);

-- name: changed_texts
SELECT count(*), any_value(external_id)
FROM examples LEFT JOIN example_originals USING (example_id)
WHERE md5_number(coalesce(original::VARCHAR, text)) <> content_hash;

-- name: labels
SELECT count(*), any_value('query ' || query_id || ', example ' || example_id)
FROM labels
WHERE query_id NOT IN (SELECT query_id FROM queries) OR example_id NOT IN (SELECT example_id FROM examples);

-- name: encoders
SELECT count(*), any_value(name)
FROM encoders
WHERE model_fingerprint NOT IN (SELECT fingerprint FROM models);

-- name: encodings
SELECT count(*), any_value('encoder ' || encoder_id || ', example ' || example_id)
FROM encodings
WHERE encoder_id NOT IN (SELECT encoder_id FROM encoders)
   OR example_id NOT IN (SELECT example_id FROM examples);

-- name: query_encodings
SELECT count(*), any_value('encoder ' || encoder_id || ', query ' || query_id)
FROM query_encodings
WHERE encoder_id NOT IN (SELECT encoder_id FROM encoders) OR query_id NOT IN (SELECT query_id FROM queries);

-- name: curvatures
SELECT count(*), any_value('encoder ' || encoder_id)
FROM (SELECT encoder_id FROM curvatures UNION ALL SELECT encoder_id FROM projections)
WHERE encoder_id NOT IN (SELECT encoder_id FROM encoders);

-- name: duplicate_encodings
SELECT count(*), any_value(what)
FROM (
    SELECT 'encoder ' || encoder_id || ', example ' || example_id AS what
    FROM encodings GROUP BY encoder_id, example_id HAVING count(*) > 1
    UNION ALL
    SELECT 'encoder ' || encoder_id || ', query ' || query_id
    FROM query_encodings GROUP BY encoder_id, query_id HAVING count(*) > 1
    UNION ALL
    SELECT 'curvature of encoder ' || encoder_id || ', ' || side || ', ' || block
    FROM curvatures GROUP BY encoder_id, side, block HAVING count(*) > 1
);

-- name: code_lengths
-- Codes, scales and query vectors of one encoder are as long as each other, and there unless the row is skipped.
WITH lengths AS (
    SELECT encoder_id, 'example ' || example_id AS what, octet_length(code) AS a, octet_length(scales) AS b, status
    FROM encodings
    UNION ALL
    SELECT encoder_id || ' (queries)', 'query ' || query_id, octet_length(vector), 0, status FROM query_encodings
),
usual AS (
    SELECT encoder_id, mode(a) AS a, mode(b) AS b FROM lengths WHERE NOT starts_with(status, 'skipped') GROUP BY encoder_id
)
SELECT count(*), any_value('encoder ' || encoder_id || ', ' || what)
FROM lengths
JOIN usual USING (encoder_id)
WHERE CASE
    WHEN starts_with(status, 'skipped') THEN lengths.a IS NOT NULL
    ELSE lengths.a IS NULL OR lengths.a <> usual.a OR lengths.b IS DISTINCT FROM usual.b
END;

-- name: lexical_examples
SELECT count(*), any_value('example ' || example_id)
FROM (
    SELECT example_id FROM examples ANTI JOIN lexical_stats USING (example_id)
    WHERE EXISTS (FROM lexical_index)
    UNION ALL
    SELECT example_id FROM lexical_stats ANTI JOIN examples USING (example_id)
    UNION ALL
    SELECT example_id FROM postings ANTI JOIN lexical_stats USING (example_id)
    UNION ALL
    SELECT example_id FROM lexical_stats GROUP BY example_id HAVING count(*) > 1
);

-- name: lexical_counts
SELECT count(*), any_value(what)
FROM (
    SELECT 'term ' || coalesce(term, term_id::VARCHAR) AS what
    FROM (SELECT term_id, term, df FROM terms)
    FULL JOIN (
        SELECT term_id, count(*) AS n, count(DISTINCT example_id) AS n_examples FROM postings GROUP BY term_id
    ) USING (term_id)
    WHERE df IS NULL OR df <> coalesce(n, 0) OR n <> n_examples
    UNION ALL
    SELECT 'length of example ' || example_id
    FROM lexical_stats
    LEFT JOIN (SELECT example_id, sum(tf) AS n FROM postings GROUP BY example_id) USING (example_id)
    WHERE length <> coalesce(n, 0)
    UNION ALL
    SELECT 'term ' || term FROM terms GROUP BY term HAVING count(*) > 1
);

-- name: scores
SELECT count(*), any_value('scoring ' || scoring_id || ', query ' || query_id || ', example ' || example_id)
FROM scores
WHERE scoring_id NOT IN (SELECT scoring_id FROM scorings)
   OR query_id NOT IN (SELECT query_id FROM queries)
   OR example_id NOT IN (SELECT example_id FROM examples);

-- name: scorings
SELECT count(*), any_value(name)
FROM scorings
WHERE encoder_id IS NOT NULL AND encoder_id NOT IN (SELECT encoder_id FROM encoders);

-- name: scoring_queries
-- Whatever has pairs was ranked, once.
SELECT count(*), any_value('scoring ' || scoring_id || coalesce(', query ' || query_id, ''))
FROM (
    SELECT scoring_id, query_id FROM scoring_queries
    WHERE scoring_id NOT IN (SELECT scoring_id FROM scorings) OR query_id NOT IN (SELECT query_id FROM queries)
    UNION ALL
    SELECT DISTINCT scoring_id, query_id FROM scores ANTI JOIN scoring_queries USING (scoring_id, query_id)
    UNION ALL
    SELECT scoring_id, query_id FROM scoring_queries GROUP BY scoring_id, query_id HAVING count(*) > 1
    UNION ALL
    SELECT scoring_id, NULL FROM scoring_inputs WHERE scoring_id NOT IN (SELECT scoring_id FROM scorings)
);

-- name: ranks
-- No rank twice, no rank 0, and a stronger rank never has a lower score.
WITH neighbours AS (
    SELECT
        scoring_id, query_id, rank, score,
        lag(rank) OVER stronger AS rank_before, lag(score) OVER stronger AS score_before
    FROM scores
    WINDOW stronger AS (PARTITION BY scoring_id, query_id ORDER BY rank < 0, rank)
)
SELECT count(*), any_value('scoring ' || scoring_id || ', query ' || query_id || ', rank ' || rank)
FROM neighbours
WHERE rank = 0 OR NOT isfinite(score) OR rank = rank_before
   OR (score > score_before AND (rank > 0) = (rank_before > 0));

-- name: tail_patches
SELECT count(*), any_value('query ' || query_id || ', example ' || example_id)
FROM tail_patches
WHERE query_id NOT IN (SELECT query_id FROM queries) OR example_id NOT IN (SELECT example_id FROM examples)
   OR model_fingerprint NOT IN (SELECT fingerprint FROM models);

-- name: subsets
SELECT count(*), any_value(what)
FROM (
    SELECT subset_set || ', subset ' || subset || ', example ' || example_id AS what
    FROM subset_examples
    WHERE (subset_set, subset) NOT IN (SELECT (subset_set, subset) FROM subsets)
       OR example_id NOT IN (SELECT example_id FROM examples)
    UNION ALL
    SELECT subset_set || ', subset ' || subset || ', query ' || query_id
    FROM subset_losses
    WHERE (subset_set, subset) NOT IN (SELECT (subset_set, subset) FROM subsets)
       OR query_id NOT IN (SELECT query_id FROM queries)
);

-- name: checkpoints
SELECT count(*), any_value(what)
FROM (
    SELECT 'loss of query ' || query_id || ' under ' || model_fingerprint AS what
    FROM query_losses
    WHERE query_id NOT IN (SELECT query_id FROM queries)
       OR model_fingerprint NOT IN (SELECT fingerprint FROM models)
    UNION ALL
    SELECT 'loss of query ' || query_id || ' under ' || model_fingerprint
    FROM query_losses GROUP BY model_fingerprint, query_id HAVING count(*) > 1
    UNION ALL
    SELECT 'change of ' || parameter || ' from ' || from_fingerprint || ' to ' || to_fingerprint
    FROM parameter_changes
    WHERE from_fingerprint NOT IN (SELECT fingerprint FROM models)
       OR to_fingerprint NOT IN (SELECT fingerprint FROM models)
);

-- name: runs
-- Jobs that stopped before their end and were not run to the end since.
SELECT count(*), max_by('run ' || run_id || ' (' || job || '), ' || state, run_id)
FROM runs AS stopped
WHERE state IN ('running', 'killed', 'interrupted')
  AND NOT EXISTS (
      FROM runs AS later
      WHERE later.job = stopped.job AND later.run_id > stopped.run_id AND later.state = 'finished'
  );
