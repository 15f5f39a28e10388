-- name: encoded
-- The codes to scan. No order: ties are broken by example_id, not by position.
SELECT example_id, code, scales
FROM encodings SEMI JOIN selected_examples USING (example_id)
WHERE encoder_id = $encoder AND code IS NOT NULL

-- name: all_are_selected
SELECT (SELECT count(*) FROM selected_examples) = (SELECT count(*) FROM examples)

-- name: all_encoded
-- The codes to scan where every example is selected.
SELECT example_id, code, scales
FROM encodings
WHERE encoder_id = $encoder AND code IS NOT NULL

-- name: encoded_part
-- Of the codes to scan those in a range of the table's rows.
SELECT example_id, code, scales
FROM encodings SEMI JOIN selected_examples USING (example_id)
WHERE encoder_id = $encoder AND code IS NOT NULL AND encodings.rowid BETWEEN $first AND $last

-- name: all_encoded_part
SELECT example_id, code, scales
FROM encodings
WHERE encoder_id = $encoder AND code IS NOT NULL AND rowid BETWEEN $first AND $last

-- name: parts
-- The first and the last row of so many codes to scan each: as one scan would take them, so that all round alike.
SELECT min(row), max(row)
FROM (
    SELECT encodings.rowid AS row, (row_number() OVER (ORDER BY encodings.rowid) - 1) // $size AS part
    FROM encodings SEMI JOIN selected_examples USING (example_id)
    WHERE encoder_id = $encoder AND code IS NOT NULL
)
GROUP BY part
ORDER BY part

-- name: curvature_rows
-- The codes whose second moment is the corpus's curvature: all, or a fixed sample of a large corpus.
SELECT example_id, code, scales
FROM encodings
WHERE encoder_id = $encoder AND code IS NOT NULL AND md5_number(example_id::VARCHAR) % $one_in::UHUGEINT = 0

-- name: labelled_codes
-- The codes of the labelled examples, whose exact ranks are wanted.
SELECT example_id, code, scales
FROM encodings SEMI JOIN selected_examples USING (example_id)
WHERE encoder_id = $encoder AND code IS NOT NULL
  AND example_id IN (SELECT example_id FROM labels WHERE label > 0)

-- name: labelled_pairs
SELECT DISTINCT query_id, example_id FROM labels WHERE label > 0

-- name: common_examples
-- The selected examples that each of these encoders has encoded, or the labelled ones among them.
SELECT example_id
FROM encodings SEMI JOIN selected_examples USING (example_id)
WHERE list_contains($encoders, encoder_id) AND code IS NOT NULL
  AND (NOT $labelled OR example_id IN (SELECT example_id FROM labels WHERE label > 0))
GROUP BY example_id
HAVING count(*) = len($encoders)
ORDER BY example_id

-- name: piece_codes
-- Some examples' codes, in an order that every encoder gives them in.
SELECT example_id, code, scales
FROM encodings SEMI JOIN piece USING (example_id)
WHERE encoder_id = $encoder
ORDER BY example_id

-- name: query_vectors
SELECT query_id, vector
FROM query_encodings
WHERE encoder_id = $encoder AND vector IS NOT NULL
ORDER BY query_id

-- name: not_encoded
-- How many selected examples an encoder has not looked at.
SELECT count(*)
FROM selected_examples ANTI JOIN (SELECT example_id FROM encodings WHERE encoder_id = $encoder) USING (example_id)

-- name: queries_not_encoded
-- How many queries an encoder has not looked at, of how many.
SELECT
    (SELECT count(*) FROM queries
     ANTI JOIN (SELECT query_id FROM query_encodings WHERE encoder_id = $encoder) USING (query_id)),
    (SELECT count(*) FROM queries)

-- name: curvature
SELECT block, n, scale, matrix FROM curvatures WHERE encoder_id = $encoder AND side = $side

-- name: drop_curvature
DELETE FROM curvatures WHERE encoder_id = $encoder AND side = $side

-- name: insert_curvature
INSERT INTO curvatures SELECT $encoder, $side, block, n, scale, matrix FROM moments

-- name: block_weights
SELECT weights FROM block_weights WHERE encoder_id = $encoder AND recipe = $recipe AND examples = $examples

-- name: insert_block_weights
INSERT INTO block_weights VALUES ($encoder, $norm, $recipe, $examples, $weights)

-- name: drop_other_block_weights
DELETE FROM block_weights WHERE encoder_id = $encoder AND norm = $norm AND recipe <> $recipe

-- name: insert_scoring
INSERT INTO scorings VALUES ($id, $name, $family, $method, $spec, $encoder, $n_examples, now(), $version)

-- name: insert_scores
INSERT INTO scores SELECT $scoring, query_id, example_id, rank, score FROM ranked ORDER BY query_id, rank

-- name: insert_scoring_queries
INSERT INTO scoring_queries SELECT $scoring, unnest($queries::BIGINT[])

-- name: insert_inputs
-- What the ranking was made of, to see when that changes.
INSERT INTO scoring_inputs SELECT $scoring, input, n, digest FROM present_inputs

-- name: insert_written
-- What was written, to see when that changes: the recipe, and of each query its scores.
INSERT INTO scoring_inputs
SELECT
    $scoring, 'recipe', n_examples, md5_number_lower(concat_ws(chr(31), family, method, spec, encoder_id))::HUGEINT
FROM scorings WHERE scoring_id = $scoring
UNION ALL
SELECT
    $scoring, 'scores of query ' || query_id, count(score),
    coalesce(sum(md5_number_lower(concat_ws(' ', example_id, rank, score))::HUGEINT), 0)::HUGEINT
FROM (SELECT query_id FROM scoring_queries WHERE scoring_id = $scoring)
LEFT JOIN (SELECT query_id, example_id, rank, score FROM scores WHERE scoring_id = $scoring) USING (query_id)
GROUP BY query_id

-- name: ranked_texts
-- The proponents of a ranking that is not in the store.
SELECT rank, external_id, score, text
FROM ranked JOIN examples USING (example_id)
WHERE rank BETWEEN 1 AND $top
ORDER BY rank
