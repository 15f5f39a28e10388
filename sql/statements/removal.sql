-- name: find_example
SELECT example_id, external_id FROM examples WHERE list_contains($names::VARCHAR[], external_id)

-- name: find_query
SELECT query_id, external_id FROM queries WHERE list_contains($names::VARCHAR[], external_id)

-- name: find_scoring
SELECT scoring_id, name FROM scorings WHERE list_contains($names::VARCHAR[], name)

-- name: find_encoder
SELECT encoder_id, name FROM encoders WHERE list_contains($names::VARCHAR[], name)

-- name: doomed
CREATE OR REPLACE TEMP TABLE doomed AS FROM ids

-- name: doomed_scorings_of_example
-- Those that ranked all examples, and those of a selection that has one of these.
CREATE OR REPLACE TEMP TABLE doomed_scorings AS
SELECT scoring_id FROM scorings
WHERE (spec ->> 'where') IS NULL OR scoring_id IN (SELECT scoring_id FROM scores WHERE example_id IN (FROM doomed))

-- name: doomed_scorings_of_query
CREATE OR REPLACE TEMP TABLE doomed_scorings AS SELECT scoring_id FROM scorings WHERE false

-- name: doomed_scorings_of_scoring
CREATE OR REPLACE TEMP TABLE doomed_scorings AS SELECT scoring_id FROM scorings WHERE false

-- name: doomed_scorings_of_encoder
CREATE OR REPLACE TEMP TABLE doomed_scorings AS
SELECT scoring_id FROM scorings
-- Some methods read several encoders, and name them in their spec.
WHERE EXISTS (FROM doomed WHERE encoder_id = id OR contains(spec::VARCHAR, id))

-- name: lower_frequencies
UPDATE terms SET df = df - gone.n
FROM (SELECT term_id, count(*) AS n FROM postings WHERE example_id IN (FROM doomed) GROUP BY term_id) gone
WHERE terms.term_id = gone.term_id

-- name: drop_unused_terms
DELETE FROM terms WHERE df <= 0

-- name: rename_example
UPDATE examples SET external_id = $new WHERE external_id = $old

-- name: rename_query
UPDATE queries SET external_id = $new WHERE external_id = $old

-- name: rename_scoring
UPDATE scorings SET name = $new WHERE name = $old

-- name: rename_scoring_subsets
UPDATE subsets SET scoring = $new WHERE scoring = $old

-- name: rename_scoring_use
UPDATE meta SET value = $new WHERE starts_with(key, 'use ') AND value = $old

-- name: rename_encoder
UPDATE encoders SET name = $new WHERE name = $old
