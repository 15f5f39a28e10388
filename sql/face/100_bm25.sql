-- BM25 in SQL: what a token is, what a term weighs, and bm25('any text'). Nothing here needs Python.

-- A text as the list of its tokens, by a given regular expression (RE2), in lower case if `fold`.
CREATE OR REPLACE MACRO split_tokens(input, pattern, fold) AS
    regexp_extract_all(CASE WHEN fold THEN lower(input) ELSE input END, pattern);

-- The same with the expression that the index was made with; NULL when there is no index. DuckDB compiles an
-- expression that is not a constant once a row (2 ms), hence the branches for the default one and that of older stores,
-- which split words at their marks (Hindi vowels, a decomposed accent).
CREATE OR REPLACE MACRO tokens(input) AS
    CASE WHEN (SELECT pattern FROM lexical_index) = '[\p{L}\p{M}\p{N}_]+'
         THEN split_tokens(input, '[\p{L}\p{M}\p{N}_]+', (SELECT fold FROM lexical_index))
         WHEN (SELECT pattern FROM lexical_index) = '[\p{L}\p{N}_]+'
         THEN split_tokens(input, '[\p{L}\p{N}_]+', (SELECT fold FROM lexical_index))
         ELSE split_tokens(input, (SELECT pattern FROM lexical_index), (SELECT fold FROM lexical_index)) END;

-- Tokens after stemming, in no order. A token that the index of a stemmed corpus has not met is its own stem.
CREATE OR REPLACE MACRO lexical_terms(input) AS (
    SELECT coalesce(list(coalesce(stems.term, spoken.token)), [])
    FROM (SELECT unnest(tokens(input)) AS token) spoken LEFT JOIN stems ON stems.token = spoken.token
);

-- Robertson and Sparck Jones's weight: negative for a term of more than half of the examples.
CREATE OR REPLACE MACRO bm25_plain_idf(n_examples, df) AS
    ln(n_examples - df + 0.5::DOUBLE) - ln(df + 0.5::DOUBLE);

-- okapi is rank_bm25.BM25Okapi: a negative idf becomes epsilon x the mean idf of the vocabulary.
-- lucene is Lucene's BM25Similarity since 8.0: idf = ln(1 + (N - df + 0.5) / (df + 0.5)).
CREATE OR REPLACE MACRO bm25_idf(variant, n_examples, df, average_idf, epsilon) AS
    CASE WHEN variant = 'lucene'
         THEN ln(1 + (n_examples - df + 0.5::DOUBLE) / (df + 0.5::DOUBLE))
         WHEN bm25_plain_idf(n_examples, df) < 0 THEN epsilon * average_idf
         ELSE bm25_plain_idf(n_examples, df) END;

-- What `tf` occurrences in an example of `length` tokens count for:
--   okapi   tf (k1 + 1) / (tf + k1 (1 - b + b length / average))
--   lucene  tf          / (tf + k1 (1 - b + b length / average))
-- Lucene keeps a length in one byte and leaves texts without a token out of N; here lengths are exact and
-- every example counts, in both variants. Its own default k1 is 1.2.
CREATE OR REPLACE MACRO bm25_gain(variant, tf, length, average_length, k1, b) AS
    tf * CASE WHEN variant = 'lucene' THEN 1::DOUBLE ELSE k1 + 1 END
    / (tf + k1 * (1 - b + b * length / average_length));

-- A weight as a whole number of 2^-36, still a DOUBLE: sums of these are exact (up to a score of 131,072), so
-- that whatever the order in which they are added, equal examples get equal scores and a ranking is the same
-- every time. Scores are given to nine decimals.
CREATE OR REPLACE MACRO bm25_units(weight) AS floor(weight * 68719476736::DOUBLE + 0.5::DOUBLE);
CREATE OR REPLACE MACRO bm25_score(units) AS
    floor(units / 68719476736::DOUBLE * 1e9::DOUBLE + 0.5::DOUBLE) / 1e9::DOUBLE;

-- What the formula needs of the whole corpus, as it is now. The mean idf is summed in the order of df, over
-- the few distinct ones, to be the same every time.
CREATE OR REPLACE VIEW bm25_statistics AS
WITH totals AS (SELECT count(*) AS n_examples, sum(length) / count(*) AS average_length FROM lexical_stats),
     frequencies AS (SELECT df, count(*) AS n_terms FROM terms GROUP BY df)
SELECT n_examples, average_length,
       (SELECT sum(n_terms * bm25_plain_idf(totals.n_examples, df) ORDER BY df) / sum(n_terms)
        FROM frequencies) AS average_idf
FROM totals;

-- Examples with at least one of the terms, best first. A term that is given twice counts twice.
CREATE OR REPLACE MACRO bm25_terms(query_terms) AS TABLE
WITH wanted AS (
    SELECT term_id, asked.n, variant, k1, b, average_length,
           bm25_idf(variant, n_examples, df, average_idf, epsilon) AS idf
    FROM (SELECT term, count(*) AS n FROM (SELECT unnest(query_terms) AS term) GROUP BY term) asked
    JOIN terms ON terms.term = asked.term
    CROSS JOIN bm25_statistics
    CROSS JOIN lexical_index
), ranked AS (
    SELECT postings.example_id,
           bm25_score(sum(n * bm25_units(idf * bm25_gain(variant, tf, length, average_length, k1, b)))) AS score
    FROM wanted
    JOIN postings ON postings.term_id = wanted.term_id
    JOIN lexical_stats ON lexical_stats.example_id = postings.example_id
    GROUP BY postings.example_id
)
SELECT ranked.example_id, external_id AS id, score, text, source, metadata
FROM ranked JOIN examples ON examples.example_id = ranked.example_id
ORDER BY score DESC, ranked.example_id;

-- FROM bm25('any text') LIMIT 10. No rows when there is no index: attrstore ingest lexical STORE.
CREATE OR REPLACE MACRO bm25(input) AS TABLE
FROM bm25_terms(lexical_terms(input));
