-- Integrity checks. Each returns one row: how many rows are wrong, and one of them for the message.

-- name: duplicate_ids
SELECT count(*), any_value(what)
FROM (
    SELECT 'example_id ' || example_id AS what FROM examples GROUP BY example_id HAVING count(*) > 1
    UNION ALL
    SELECT 'query_id ' || query_id FROM queries GROUP BY query_id HAVING count(*) > 1
);

-- name: changed_texts
SELECT count(*), any_value(what)
FROM (
    SELECT 'example ' || external_id AS what
    FROM examples LEFT JOIN example_originals USING (example_id)
    WHERE md5_number(coalesce(original::VARCHAR, text)) <> content_hash
    UNION ALL
    SELECT 'query ' || external_id
    FROM queries LEFT JOIN query_originals USING (query_id)
    WHERE md5_number(coalesce(original::VARCHAR, prompt || chr(31) || target)) <> content_hash
);

-- name: originals
SELECT count(*), any_value(what)
FROM (
    SELECT 'example ' || example_id AS what FROM example_originals ANTI JOIN examples USING (example_id)
    UNION ALL
    SELECT 'example ' || example_id FROM example_originals GROUP BY example_id HAVING count(*) > 1
    UNION ALL
    SELECT 'query ' || query_id FROM query_originals ANTI JOIN queries USING (query_id)
    UNION ALL
    SELECT 'query ' || query_id FROM query_originals GROUP BY query_id HAVING count(*) > 1
);

-- name: labels
SELECT count(*), any_value('query ' || query_id || ', example ' || example_id)
FROM (
    SELECT query_id, example_id FROM labels
    WHERE query_id NOT IN (SELECT query_id FROM queries) OR example_id NOT IN (SELECT example_id FROM examples)
       OR NOT isfinite(label)
    UNION ALL
    SELECT query_id, example_id FROM labels GROUP BY query_id, example_id, origin HAVING count(*) > 1
);

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

-- name: encoded
-- An encoder that has encoded some examples has looked at all of them, and so for queries.
SELECT count(*), any_value('encoder ' || encoder_id || ', ' || what)
FROM (
    SELECT encoder_id, 'example ' || example_id AS what
    FROM (SELECT DISTINCT encoder_id FROM encodings) CROSS JOIN examples
    ANTI JOIN encodings USING (encoder_id, example_id)
    UNION ALL
    SELECT encoder_id, 'query ' || query_id
    FROM (SELECT DISTINCT encoder_id FROM query_encodings) CROSS JOIN queries
    ANTI JOIN query_encodings USING (encoder_id, query_id)
);

-- name: odd_lengths
-- Encodings of another length than the encoder's, and those that are there though skipped, or not there.
SELECT example_id FROM encodings
WHERE encoder_id = $encoder AND CASE
    WHEN starts_with(status, 'skipped') THEN code IS NOT NULL OR scales IS NOT NULL
    ELSE code IS NULL OR scales IS NULL OR octet_length(code) <> $code OR octet_length(scales) <> $scales
END;

-- name: odd_vectors
SELECT query_id FROM query_encodings
WHERE encoder_id = $encoder AND CASE
    WHEN starts_with(status, 'skipped') THEN vector IS NOT NULL
    ELSE vector IS NULL OR octet_length(vector) <> $length
END;

-- name: matrices
-- Of curvatures with the block, whose length follows; a scale that is not finite counts as a matrix that is not.
SELECT 'curvature of ' || side || ', ' || block, block, CASE WHEN isfinite(scale) THEN matrix ELSE '\x00\x7C'::BLOB END
FROM curvatures WHERE encoder_id = $encoder
UNION ALL
SELECT part || ' of ' || module, NULL, CASE WHEN isfinite(scale) THEN matrix ELSE '\x00\x7C'::BLOB END
FROM projections WHERE encoder_id = $encoder;

-- name: projection_parts
SELECT module, list(part) FROM projections WHERE encoder_id = $encoder GROUP BY module;

-- name: lexical_index
-- One index, or none and nothing of one.
SELECT CASE WHEN n > 1 THEN n - 1 WHEN n = 0 AND left_over > 0 THEN left_over ELSE 0 END,
       CASE WHEN n > 1 THEN n || ' of them' WHEN n = 0 AND left_over > 0 THEN 'terms or lengths of none' END
FROM (
    SELECT (SELECT count(*) FROM lexical_index) AS n,
           (SELECT count(*) FROM terms) + (SELECT count(*) FROM lexical_stats) AS left_over
);

-- name: recount_batches
SELECT min(example_id), max(example_id)
FROM (
    SELECT example_id, sum(greatest(strlen(text), 1280)) OVER (ORDER BY example_id) // $bytes AS batch
    FROM examples
)
GROUP BY batch
ORDER BY batch;

-- name: recount
-- Indexed examples whose words are counted otherwise in the postings.
WITH spoken AS (
    SELECT example_id, unnest(split_tokens(text, $pattern, $fold)) AS token
    FROM examples SEMI JOIN lexical_stats USING (example_id)
    WHERE example_id BETWEEN $first AND $last
),
counted AS (
    SELECT example_id, coalesce(stems.term, token) AS term, sum(n)::BIGINT AS tf
    FROM (SELECT example_id, token, count(*) AS n FROM spoken GROUP BY ALL) LEFT JOIN stems USING (token)
    GROUP BY ALL
),
held AS (
    SELECT example_id, coalesce(term, 'term_id ' || term_id) AS term, tf
    FROM postings LEFT JOIN terms USING (term_id)
    WHERE example_id BETWEEN $first AND $last
)
SELECT count(*), any_value('example ' || example_id || ', word ' || term)
FROM counted FULL JOIN held USING (example_id, term)
WHERE counted.tf IS DISTINCT FROM held.tf;

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
    UNION ALL
    SELECT 'term_id ' || term_id FROM terms GROUP BY term_id HAVING count(*) > 1
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

-- name: rank_gaps
-- Each end is whole: ranks 1, 2, ... and -1, -2, ... up to top_k, no labelled pair beyond a rank that is missing, none
-- beyond the examples that were ranked. What was ranked by vectors keeps as many of every query.
WITH ends AS (
    SELECT
        scoring_id, query_id, family, n_examples, (spec ->> 'code') IS NOT NULL AS by_vectors,
        coalesce((spec ->> 'top_k')::BIGINT, n_examples) AS top_k,
        count(*) FILTER (rank BETWEEN 1 AND top_k) AS n_best,
        count(*) FILTER (rank < 0) AS n_worst,
        coalesce(max(rank) FILTER (rank BETWEEN 1 AND top_k), 0) AS last_best,
        coalesce(-min(rank) FILTER (rank < 0), 0) AS last_worst,
        coalesce(max(rank), 0) AS furthest
    FROM scoring_queries
    JOIN scorings USING (scoring_id)
    LEFT JOIN scores USING (scoring_id, query_id)
    GROUP BY ALL
)
SELECT count(*), any_value('scoring ' || scoring_id || ', query ' || query_id)
FROM ends
WHERE n_best <> last_best OR n_worst <> last_worst OR last_worst > top_k
   OR greatest(furthest, last_worst) > n_examples OR (furthest > top_k AND n_best < top_k)
   OR (by_vectors AND n_best <> least(top_k, n_examples))
   OR (by_vectors AND family = 'influence' AND n_worst <> least(top_k, n_examples - n_best));

-- name: written_scores
-- As `insert_written` of sql/statements/scoring.sql took them down; scorings of before that have no such rows.
SELECT count(*), any_value(what)
FROM (
    SELECT 'scoring ' || found.scoring_id || ', query ' || query_id AS what
    FROM (
        SELECT
            scoring_id, query_id, count(score) AS n,
            coalesce(sum(md5_number_lower(concat_ws(' ', example_id, rank, score))::HUGEINT), 0)::HUGEINT AS digest
        FROM scoring_queries LEFT JOIN scores USING (scoring_id, query_id)
        GROUP BY ALL
    ) AS found
    SEMI JOIN (SELECT scoring_id FROM scoring_inputs WHERE input = 'recipe') AS recipes USING (scoring_id)
    LEFT JOIN scoring_inputs AS written
        ON written.scoring_id = found.scoring_id AND written.input = 'scores of query ' || query_id
    WHERE written.n IS DISTINCT FROM found.n OR written.digest IS DISTINCT FROM found.digest
    UNION ALL
    SELECT 'recipe of scoring ' || scorings.name
    FROM scorings
    JOIN scoring_inputs AS written ON written.scoring_id = scorings.scoring_id AND written.input = 'recipe'
    WHERE written.n <> n_examples
       OR written.digest <> md5_number_lower(concat_ws(chr(31), family, method, spec, encoder_id))::HUGEINT
);

-- name: fresh_scorings
-- Scorings whose scores must come out again, nothing that they depend on having changed: bm25's, and one an encoder.
-- Not those of before scores were taken down: what a block of no length weighs was another thing then.
SELECT name, scoring_id, encoder_id, spec
FROM scorings JOIN (SELECT scoring_id, stale FROM scoring_status) USING (scoring_id)
SEMI JOIN (SELECT scoring_id FROM scoring_inputs WHERE input = 'recipe') AS written USING (scoring_id)
WHERE NOT stale AND (method = 'bm25' AND encoder_id IS NULL OR encoder_id IS NOT NULL AND (spec ->> 'code') IS NOT NULL)
QUALIFY encoder_id IS NULL OR row_number() OVER (
    PARTITION BY encoder_id ORDER BY coalesce(spec ->> 'curvature', 'none') <> 'none', name
) = 1
ORDER BY name;

-- name: sampled_queries
SELECT query_id FROM scoring_queries SEMI JOIN queries USING (query_id)
WHERE scoring_id = $scoring
ORDER BY md5(query_id || $scoring), query_id LIMIT $n;

-- name: sampled_scores
SELECT query_id, example_id, score FROM scores
WHERE scoring_id = $scoring AND list_contains($queries, query_id);

-- name: sampled_terms
SELECT lexical_terms(prompt || target) FROM queries WHERE query_id = $query;

-- name: recomputed_bm25
-- Pairs of one query whose score is another now, or that should be among the first and are not.
WITH kept AS (
    SELECT example_id, rank, score FROM scores WHERE scoring_id = $scoring AND query_id = $query
),
now AS (
    SELECT example_id, score, row_number() OVER (ORDER BY score DESC, example_id) AS rank FROM bm25_terms($terms)
),
least_kept AS (
    SELECT CASE WHEN count(*) < $top_k THEN '-inf'::DOUBLE ELSE min(score) END AS score FROM kept WHERE rank <= $top_k
)
SELECT example_id
FROM kept FULL JOIN now USING (example_id) CROSS JOIN least_kept
WHERE (kept.rank IS NOT NULL AND abs(kept.score - coalesce(now.score, '-inf'::DOUBLE)) > 2e-9)
   OR (kept.rank IS NULL AND now.rank <= $top_k AND now.score > least_kept.score + 2e-9)
ORDER BY example_id;

-- name: tail_patches
SELECT count(*), any_value('query ' || query_id || ', example ' || example_id)
FROM (
    SELECT query_id, example_id FROM tail_patches
    WHERE query_id NOT IN (SELECT query_id FROM queries) OR example_id NOT IN (SELECT example_id FROM examples)
       OR model_fingerprint NOT IN (SELECT fingerprint FROM models)
       OR NOT (isfinite(base_logprob) AND isfinite(delta_logprob) AND isfinite(base_prob) AND isfinite(delta_prob))
    UNION ALL
    SELECT query_id, example_id FROM tail_patches
    GROUP BY query_id, example_id, model_fingerprint, optimizer, learning_rate HAVING count(*) > 1
);

-- name: explanations
SELECT count(*), any_value(what)
FROM (
    SELECT 'token parts of scoring ' || scoring_id || ', query ' || query_id AS what
    FROM token_parts
    WHERE scoring_id NOT IN (SELECT scoring_id FROM scorings) OR query_id NOT IN (SELECT query_id FROM queries)
       OR example_id NOT IN (SELECT example_id FROM examples) OR NOT isfinite(part)
    UNION ALL
    SELECT 'block parts of scoring ' || scoring_id || ', query ' || query_id
    FROM block_parts
    WHERE scoring_id NOT IN (SELECT scoring_id FROM scorings) OR query_id NOT IN (SELECT query_id FROM queries)
       OR example_id NOT IN (SELECT example_id FROM examples) OR NOT isfinite(part)
    UNION ALL
    SELECT 'exact score of query ' || query_id || ', example ' || example_id
    FROM exact_scores
    WHERE query_id NOT IN (SELECT query_id FROM queries) OR example_id NOT IN (SELECT example_id FROM examples)
    UNION ALL
    SELECT 'exact score of query ' || query_id || ', example ' || example_id
    FROM exact_scores GROUP BY recipe, query_id, example_id HAVING count(*) > 1
    UNION ALL
    SELECT 'scores by group of scoring ' || scoring_id || ', query ' || query_id
    FROM score_groups
    WHERE scoring_id NOT IN (SELECT scoring_id FROM scorings) OR query_id NOT IN (SELECT query_id FROM queries)
       OR NOT isfinite(mean)
    UNION ALL
    SELECT 'residuals of encoder ' || encoder_id FROM residuals
    WHERE encoder_id NOT IN (SELECT encoder_id FROM encoders)
);

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
       OR query_id NOT IN (SELECT query_id FROM queries) OR NOT isfinite(loss)
    UNION ALL
    SELECT subset_set || ', subset ' || subset || ', query ' || query_id || ', twice'
    FROM subset_losses GROUP BY subset_set, subset, query_id, seed HAVING count(*) > 1
    UNION ALL
    SELECT subset_set || ', subset ' || subset || ', twice'
    FROM subsets GROUP BY subset_set, subset HAVING count(*) > 1
    UNION ALL
    SELECT subset_set || ', subset ' || subset || ', example ' || example_id || ', twice'
    FROM subset_examples GROUP BY subset_set, subset, example_id HAVING count(*) > 1
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
