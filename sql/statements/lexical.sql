-- The inverted index: made by `attrstore ingest lexical`, read by the method bm25.

-- name: index
SELECT pattern, fold, stemmer, variant, k1, b, epsilon FROM lexical_index

-- name: insert_index
INSERT INTO lexical_index VALUES ($pattern, $fold, $stemmer, $variant, $k1, $b, $epsilon)

-- name: clear
-- Everything but the examples: the index is made anew.
DELETE FROM lexical_index;
DELETE FROM terms;
DELETE FROM stems;
DELETE FROM postings;
DELETE FROM lexical_stats

-- name: pattern_problem
-- Whether the expression finds empty tokens. Fails where it is not a regular expression.
SELECT regexp_full_match('', $pattern) OR list_contains(regexp_extract_all('a b', $pattern), '')

-- name: behind
-- How many examples the index does not know.
SELECT count(*) FROM examples ANTI JOIN lexical_stats USING (example_id)

-- name: plan
-- The work list, all examples for a rebuild, in batches; in each, examples are numbered from 0. An example counts
-- as 1,280 bytes at least, so that a batch of 128 MB is at most 100,000 examples.
CREATE OR REPLACE TEMP TABLE lexical_work AS
SELECT batch, example_id, (row_number() OVER (PARTITION BY batch ORDER BY example_id) - 1)::INTEGER AS place
FROM (
    SELECT example_id, sum(greatest(strlen(text), 1280)) OVER (ORDER BY example_id) // $batch_bytes AS batch
    FROM examples JOIN (
        SELECT example_id
        FROM examples ANTI JOIN (SELECT example_id FROM lexical_stats WHERE NOT $rebuild) USING (example_id)
    ) USING (example_id)
)

-- name: batches
SELECT batch, count(*) FROM lexical_work GROUP BY batch ORDER BY batch

-- name: batch_examples
SELECT example_id FROM lexical_work WHERE batch = $batch ORDER BY place

-- name: batch_tokens
CREATE OR REPLACE TEMP TABLE batch_tokens AS
SELECT place, unnest(split_tokens(text, $pattern, $fold)) AS token
FROM examples JOIN (SELECT example_id, place FROM lexical_work WHERE batch = $batch) USING (example_id)

-- name: batch_words
CREATE OR REPLACE TEMP TABLE batch_words AS SELECT DISTINCT token FROM batch_tokens

-- name: unstemmed_corpus
SELECT token FROM batch_words ANTI JOIN stems USING (token) ORDER BY token

-- name: unstemmed_queries
SELECT DISTINCT token
FROM (SELECT unnest(split_tokens(prompt || target, $pattern, $fold)) AS token FROM queries)
ANTI JOIN stems USING (token)
ORDER BY token

-- name: insert_stems
-- `new_stems(token, term)`; known tokens are left alone.
INSERT INTO stems SELECT token, term FROM new_stems ANTI JOIN stems USING (token) ORDER BY token

-- name: batch_terms
-- What each word of the batch is counted as; new terms get the next numbers, in their own order.
CREATE OR REPLACE TEMP TABLE batch_terms AS
WITH stemmed AS (
    SELECT token, coalesce(stems.term, token) AS term FROM batch_words LEFT JOIN stems USING (token)
), known AS MATERIALIZED (
    SELECT term, term_id FROM terms SEMI JOIN stemmed USING (term)
), unknown AS (
    SELECT term, (SELECT coalesce(max(term_id), 0) FROM terms) + row_number() OVER (ORDER BY term) AS term_id
    FROM (SELECT DISTINCT term FROM stemmed) ANTI JOIN known USING (term)
)
SELECT token, term, term_id::INTEGER AS term_id, is_new
FROM stemmed
JOIN (SELECT term, term_id, false AS is_new FROM known UNION ALL SELECT term, term_id, true FROM unknown) USING (term)

-- name: batch_keys
-- Every token of the batch as one number, which sorts by term and then by example.
SELECT (term_id::BIGINT << 32) | place AS key FROM batch_tokens JOIN batch_terms USING (token)

-- name: raise_df
-- `new_df(term_id, df)`
UPDATE terms SET df = terms.df + new_df.df FROM new_df WHERE terms.term_id = new_df.term_id

-- name: insert_terms
INSERT INTO terms
SELECT term_id, term, df
FROM new_df JOIN (SELECT DISTINCT term_id, term FROM batch_terms WHERE is_new) USING (term_id)
ORDER BY term_id

-- name: insert_postings
-- `new_postings(term_id, example_id, tf)` comes in the order of terms: it compresses, and a query reads only the
-- row groups of its terms.
INSERT INTO postings SELECT term_id, example_id, tf FROM new_postings

-- name: insert_stats
-- `new_lengths(example_id, length)`: every example of the batch has its row, which also says that it was done.
INSERT INTO lexical_stats SELECT example_id, length FROM new_lengths

-- name: drop_batch
DROP TABLE IF EXISTS batch_tokens;
DROP TABLE IF EXISTS batch_words;
DROP TABLE IF EXISTS batch_terms

-- name: drop_work
DROP TABLE IF EXISTS lexical_work

-- name: totals
SELECT (SELECT count(*) FROM lexical_stats), (SELECT count(*) FROM terms), (SELECT count(*) FROM postings)

-- name: text_tokens
SELECT DISTINCT unnest(tokens($text)) AS token ORDER BY token

-- name: text_terms
-- The terms of one text, by stems that may not be in the store: `new_stems(token, term)`.
SELECT coalesce(list(coalesce(new_stems.term, spoken.token) ORDER BY spoken.token), [])
FROM (SELECT unnest(tokens($text)) AS token) spoken LEFT JOIN new_stems ON new_stems.token = spoken.token

-- name: search
SELECT row_number() OVER () AS rank, * FROM bm25_terms($terms) LIMIT $top_k

-- name: query_tokens
-- A query is its prompt and target, joined exactly.
SELECT query_id, token, count(*) AS n
FROM (SELECT query_id, unnest(split_tokens(prompt || target, $pattern, $fold)) AS token FROM queries)
GROUP BY ALL

-- name: query_terms
-- `query_tokens(query_id, token, n)` and `new_stems(token, term)` become the terms of each query.
CREATE OR REPLACE TEMP TABLE query_terms AS
SELECT query_id, term_id, sum(n)::BIGINT AS n, any_value(df) AS df
FROM query_tokens LEFT JOIN new_stems USING (token)
JOIN terms ON terms.term = coalesce(new_stems.term, query_tokens.token)
GROUP BY query_id, term_id

-- name: asked_terms
-- The distinct terms of all queries, numbered from 0.
CREATE OR REPLACE TEMP TABLE asked_terms AS
SELECT term_id, (row_number() OVER (ORDER BY term_id) - 1)::INTEGER AS term, average_length,
       bm25_idf($variant, n_examples, df, average_idf, $epsilon) AS idf
FROM (SELECT DISTINCT term_id, df FROM query_terms) CROSS JOIN bm25_statistics

-- name: asked
SELECT query_id, term::BIGINT AS term, n::DOUBLE AS n
FROM query_terms JOIN asked_terms USING (term_id)
ORDER BY query_id, term

-- name: parts
-- The selected examples in parts of at most $tokens tokens, and so of fewer postings. An example counts as 64
-- at least, so that a part is at most $tokens / 64 examples.
CREATE OR REPLACE TEMP TABLE parts AS
SELECT part, example_id, length, (row_number() OVER (PARTITION BY part ORDER BY example_id) - 1)::INTEGER AS place
FROM (
    SELECT example_id, length, sum(greatest(length, 64)) OVER (ORDER BY example_id) // $tokens AS part
    FROM lexical_stats SEMI JOIN selected_examples USING (example_id)
)

-- name: part_ranges
SELECT part, min(example_id), max(example_id) FROM parts GROUP BY part ORDER BY part

-- name: part_examples
SELECT example_id FROM parts WHERE part = $part ORDER BY example_id

-- name: part_postings
-- What each term adds to each example of a part that has it. Postings lie in runs of examples and, in each, in
-- the order of terms: only the row groups of this range are read.
SELECT term, place, bm25_units(idf * bm25_gain($variant, tf, length, average_length, $k1, $b)) AS weight
FROM postings
JOIN asked_terms USING (term_id)
JOIN (SELECT example_id, length, place FROM parts WHERE part = $part) USING (example_id)
WHERE example_id BETWEEN $first AND $last

-- name: labelled_units
-- The sums of the labelled pairs that share a word.
SELECT query_id, example_id,
       sum(n * bm25_units(idf * bm25_gain($variant, tf, length, average_length, $k1, $b))) AS units
FROM (SELECT DISTINCT query_id, example_id FROM labels WHERE label > 0)
JOIN query_terms USING (query_id)
JOIN asked_terms USING (term_id)
JOIN parts USING (example_id)
JOIN postings USING (term_id, example_id)
GROUP BY query_id, example_id
ORDER BY query_id, example_id

-- name: drop_rank
DROP TABLE IF EXISTS query_terms;
DROP TABLE IF EXISTS asked_terms;
DROP TABLE IF EXISTS parts

-- name: documents
-- The tokens of every indexed example, for rank_bm25.
SELECT example_id, split_tokens(text, $pattern, $fold) AS tokens
FROM examples SEMI JOIN lexical_stats USING (example_id)
ORDER BY example_id

-- name: questions
SELECT query_id, split_tokens(prompt || target, $pattern, $fold) AS tokens FROM queries ORDER BY query_id
