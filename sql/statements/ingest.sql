-- Read files into one shape, find what is wrong with their rows, and merge them into the store.
-- Every reader gives records(line, raw, record): the place in the file, the text of the line if it has one,
-- and the row as a JSON object (NULL when malformed). The job's columns are then taken by JSON pointer.

-- name: read_lines
-- Newline-delimited JSON: `chunks` is a stream of (number of its first line, many lines). Blank lines are
-- left out; trim is slow, so only lines that begin with a space are trimmed.
SELECT line, raw, try_cast(raw AS JSON) AS record
FROM (
    SELECT first_line + generate_subscripts(lines, 1) - 1 AS line, unnest(lines) AS raw
    FROM (SELECT first_line, string_split(chunk, chr(10)) AS lines FROM chunks)
)
WHERE CASE WHEN ascii(raw) > 32 THEN true ELSE trim(raw, e' \t\r') <> '' END

-- name: read_array
-- One JSON array of objects.
SELECT row_number() OVER () AS line, NULL::VARCHAR AS raw, json AS record
FROM read_json_objects($file_path, format = 'array', compression = $file_compression)

-- name: read_delimited
-- csv and tsv, every value a text; the header is row 1. Nothing is guessed, so that no row is taken for a
-- comment or a second header. Lines that do not parse go to `rejected_lines`.
SELECT row_number() OVER () + 1 AS line, NULL::VARCHAR AS raw,
       to_json(map($file_names::VARCHAR[], list_value(*COLUMNS(*)))) AS record
FROM read_csv(
    $file_path, auto_detect = false, columns = $file_columns, header = true, delim = $file_delimiter, quote = '"',
    escape = '"', comment = '', compression = $file_compression, hive_partitioning = false,
    max_line_size = 16000000, store_rejects = true, rejects_table = 'rejected_lines',
    rejects_scan = 'rejected_scans'
)

-- name: read_parquet
SELECT row_number() OVER () AS line, NULL::VARCHAR AS raw, to_json(t) AS record
FROM read_parquet($file_path, hive_partitioning = false) t

-- name: read_arrow
-- `arrow_rows` is the file's stream of record batches.
SELECT row_number() OVER () AS line, NULL::VARCHAR AS raw, to_json(t) AS record
FROM arrow_rows t

-- name: staged_table
-- Rows of all input files: `fields` holds the job's columns in its order.
CREATE OR REPLACE TEMP TABLE staged (
    file INTEGER, line BIGINT, problem VARCHAR, fields VARCHAR[], metadata JSON, shape VARCHAR, original JSON
);
CREATE OR REPLACE TEMP MACRO nothing(field, blank) AS
    CASE WHEN ascii(field) > 32 THEN false
         ELSE field IS NULL OR field = '' OR (NOT blank AND trim(field, e' \t\r\n') = '') END;
CREATE OR REPLACE TEMP MACRO are_turns(turns) AS
    coalesce(json_array_length(turns) > 0
        AND len(list_filter(json_type(turns, '$[*].role'), lambda t: t = 'VARCHAR')) = json_array_length(turns)
        AND len(list_filter(json_type(turns, '$[*].content'), lambda t: t = 'VARCHAR')) = json_array_length(turns), false);
CREATE OR REPLACE TEMP MACRO goes_with(marks, tokens) AS
    marks IS NULL OR json_type(marks) = 'NULL' OR json_array_length(marks) = json_array_length(tokens)

-- name: plain
-- Rows whose columns are what they are called.
SELECT line, raw, record, NULL::VARCHAR AS shape, NULL::JSON AS original, NULL::VARCHAR AS wrong,
       json_extract_string(record, $pointers::VARCHAR[]) AS fields, json_type(record, $pointers::VARCHAR[]) AS types
FROM records

-- name: shaped_examples
-- Examples that may be something else than a text: what the conventions of trainers call it, kept as it was, and
-- a text of it for people and for BM25. A row with a text is a text, unless it has tokens as well.
SELECT line, raw, record, shape, original,
    CASE
        WHEN shape = 'messages' AND NOT are_turns(original -> '$.messages')
            THEN 'messages: every turn needs a role and a content, both texts'
        WHEN shape = 'chat completion'
            AND NOT (are_turns(original -> '$.prompt') AND are_turns(original -> '$.completion'))
            THEN 'prompt and completion: every turn needs a role and a content, both texts'
        WHEN shape = 'tokens' AND len(list_filter(json_type(original, '$.input_ids[*]'), lambda t: t = 'UBIGINT'))
            <> json_array_length(original -> '$.input_ids') THEN 'input_ids: not all are token ids'
        WHEN shape = 'tokens' AND NOT (goes_with(original -> '$.labels', original -> '$.input_ids')
            AND goes_with(original -> '$.loss_mask', original -> '$.input_ids'))
            THEN 'labels and loss_mask need one entry for each of input_ids'
        -- Else every token would carry loss, in silence.
        WHEN shape = 'tokens' AND (original -> '$.labels') IS NULL AND (original -> '$.loss_mask') IS NULL
            AND (json_type(record, '$.assistant_masks') = 'ARRAY' OR json_type(record, '$.completion_mask') = 'ARRAY')
            THEN 'input_ids with assistant_masks or completion_mask: rename the one that was trained by to loss_mask'
        WHEN shape = 'tokens' AND fields[2] IS NULL
            THEN 'input_ids without a text: people and BM25 need one. Decode them into a column text'
    END AS wrong,
    CASE
        WHEN shape IS NULL OR fields[2] IS NOT NULL THEN fields
        ELSE [fields[1], CASE shape
            WHEN 'messages' THEN array_to_string(json_extract_string(original, '$.messages[*].content'), chr(10))
            WHEN 'completion' THEN (original ->> '$.prompt') || (original ->> '$.completion')
            WHEN 'chat completion' THEN array_to_string(list_concat(
                json_extract_string(original, '$.prompt[*].content'),
                json_extract_string(original, '$.completion[*].content')), chr(10))
        END, fields[3]]
    END AS fields,
    types
FROM (
    SELECT line, raw, record, fields, types, shape,
        CASE shape
            WHEN 'messages' THEN json_object('messages', record -> '$.messages')
            -- A patch with a null takes that key away: only what the row has is kept.
            WHEN 'tokens' THEN json_merge_patch('{}', json_object('input_ids', record -> '$.input_ids',
                'labels', record -> '$.labels', 'loss_mask', record -> '$.loss_mask'))
            WHEN 'completion' THEN json_object('prompt', record -> '$.prompt', 'completion', record -> '$.completion')
            WHEN 'chat completion'
                THEN json_object('prompt', record -> '$.prompt', 'completion', record -> '$.completion')
        END AS original
    FROM (
        SELECT *,
            CASE
                -- The search is for speed: most rows have a text and no tokens.
                WHEN fields[2] IS NOT NULL AND NOT contains(record::VARCHAR, '"input_ids"') THEN NULL
                WHEN json_type(record, '$.input_ids') = 'ARRAY' THEN 'tokens'
                WHEN fields[2] IS NOT NULL THEN NULL
                WHEN json_type(record, '$.messages') = 'ARRAY' THEN 'messages'
                WHEN json_type(record, '$.prompt') = 'VARCHAR' AND json_type(record, '$.completion') = 'VARCHAR'
                    THEN 'completion'
                WHEN json_type(record, '$.prompt') = 'ARRAY' AND json_type(record, '$.completion') = 'ARRAY'
                    THEN 'chat completion'
            END AS shape
        FROM (
            SELECT line, raw, record, json_extract_string(record, $pointers::VARCHAR[]) AS fields,
                   json_type(record, $pointers::VARCHAR[]) AS types
            FROM records
        )
    )
)

-- name: shaped_queries
-- Queries that may be something else than two texts: a chat, whose last turn is the target; a prompt and a
-- completion, strings or messages.
SELECT line, raw, record, shape,
    CASE
        WHEN shape = 'messages' AND NOT are_turns(record -> '$.messages')
            OR shape = 'chat completion'
            AND NOT (are_turns(record -> '$.prompt') AND are_turns(record -> '$.completion'))
            THEN 'messages: every turn needs a role and a content, both texts'
        WHEN shape = 'messages' AND (record ->> '$.messages[#-1].role') <> 'assistant'
            OR shape = 'chat completion' AND (record ->> '$.completion[#-1].role') <> 'assistant'
            THEN 'the last turn is not the assistant''s, so there is no target'
        WHEN shape = 'messages' AND json_array_length(record -> '$.messages') < 2
            THEN 'messages: a target needs a turn before it'
    END AS wrong,
    CASE shape
        WHEN 'messages' THEN json_object('messages', record -> '$.messages')
        WHEN 'chat completion'
            THEN json_object('messages', list_concat(record -> '$.prompt[*]', record -> '$.completion[*]'))
    END AS original,
    CASE shape
        WHEN 'messages' THEN [fields[1],
            array_to_string(json_extract_string(record, '$.messages[*].content')[:-2], chr(10)),
            record ->> '$.messages[#-1].content']
        WHEN 'completion' THEN [fields[1], fields[2], record ->> '$.completion']
        WHEN 'chat completion' THEN [fields[1],
            array_to_string(list_concat(json_extract_string(record, '$.prompt[*].content'),
                json_extract_string(record, '$.completion[*].content')[:-2]), chr(10)),
            record ->> '$.completion[#-1].content']
        ELSE fields
    END AS fields,
    CASE WHEN shape IS NULL THEN types END AS types
FROM (
    SELECT *,
        CASE
            WHEN fields[3] IS NOT NULL THEN NULL
            WHEN json_type(record, '$.messages') = 'ARRAY' THEN 'messages'
            WHEN types[2] = 'VARCHAR' AND json_type(record, '$.completion') = 'VARCHAR' THEN 'completion'
            WHEN types[2] = 'ARRAY' AND json_type(record, '$.completion') = 'ARRAY' THEN 'chat completion'
        END AS shape
    FROM (
        SELECT line, raw, record, json_extract_string(record, $pointers::VARCHAR[]) AS fields,
               json_type(record, $pointers::VARCHAR[]) AS types
        FROM records
    )
)

-- name: stage
-- $names are the job's three columns, $required which of them a row must have; a column in $blank may be
-- white space, not empty.
SELECT
    $file AS file,
    line,
    CASE
        WHEN record IS NULL THEN 'malformed JSON: ' || left(raw, 80)
        WHEN json_type(record) <> 'OBJECT' THEN 'not a JSON object: ' || left(record::VARCHAR, 80)
        WHEN wrong IS NOT NULL THEN wrong
        WHEN ($required::BOOLEAN[])[1] AND nothing(fields[1], ($blank::BOOLEAN[])[1])
            THEN 'no ''' || ($names::VARCHAR[])[1] || ''''
        WHEN ($required::BOOLEAN[])[2] AND nothing(fields[2], ($blank::BOOLEAN[])[2])
            THEN 'no ''' || ($names::VARCHAR[])[2] || ''''
        WHEN ($required::BOOLEAN[])[3] AND nothing(fields[3], ($blank::BOOLEAN[])[3])
            THEN 'no ''' || ($names::VARCHAR[])[3] || ''''
        WHEN list_has_any(types, ['OBJECT', 'ARRAY'])
            THEN '''' || ($names::VARCHAR[])[coalesce(nullif(list_position(types, 'OBJECT'), 0),
                list_position(types, 'ARRAY'))] || ''' is neither a text nor a number'
    END AS problem,
    fields,
    nullif(json_merge_patch(record,
        CASE WHEN shape IS NULL THEN $without::JSON ELSE $without_shaped::JSON END)::VARCHAR, '{}')::JSON AS metadata,
    shape,
    original
FROM shaped

-- name: stage_rejected
INSERT INTO staged
SELECT $file, line, 'malformed row: ' || lower(error_type) || ': ' || left(split_part(csv_line, chr(10), 1), 80),
       NULL, NULL, NULL, NULL
FROM rejected_lines

-- name: open_quotes
SELECT count(*) FROM rejected_lines WHERE error_type = 'UNQUOTED VALUE'

-- name: stage_swallowed
-- An open quote takes the lines up to the next one into its value: each line of the file that is in no other row is
-- a bad row. A value may have lines too.
INSERT INTO staged
SELECT $file, line + 1 + unnest(range(greatest(0, $lines - rows)::BIGINT)), 'malformed row: inside the quote that row ' || line || ' opens',
       NULL, NULL, NULL, NULL
FROM (
    SELECT
        (SELECT max(line) FROM rejected_lines WHERE error_type = 'UNQUOTED VALUE') AS line,
        count(*) + coalesce(sum(list_sum(list_transform(fields, lambda f: len(f) - len(replace(f, chr(10), ''))))), 0)
        + coalesce(sum((len(metadata) - len(replace(metadata, '\n', ''))) // 2), 0) AS rows
    FROM staged WHERE file = $file
)

-- name: drop_rejected
DROP TABLE IF EXISTS rejected_lines;
DROP TABLE IF EXISTS rejected_scans

-- name: filled
-- How many rows of each file have each column.
SELECT file, [count(fields[1]), count(fields[2]), count(fields[3])]
FROM staged WHERE fields IS NOT NULL GROUP BY file ORDER BY file

-- name: columns
-- The columns of one file, in the order in which they first appear.
SELECT name
FROM (
    SELECT line, unnest(json_keys(record)) AS name, generate_subscripts(json_keys(record), 1) AS place
    FROM records WHERE json_type(record) = 'OBJECT'
)
GROUP BY name ORDER BY min(line), min(place)

-- name: bad_rows
SELECT file, line, problem, count(*) OVER () AS total
FROM staged WHERE problem IS NOT NULL ORDER BY file, line LIMIT $limit

-- name: count_rows
SELECT count(*) FROM staged

-- name: duplicate_ids
-- Ids that the input has more than once, with the first two places.
SELECT fields[1] AS id, list({'file': file, 'line': line} ORDER BY file, line)[:2] AS places,
       count(*) OVER () AS total
FROM staged WHERE problem IS NULL
GROUP BY fields[1] HAVING count(*) > 1
ORDER BY min((file, line)) LIMIT $limit

-- name: number_examples
-- Ids for rows without one: of their content, so that the same row has the same id whatever stands around it.
UPDATE staged
SET fields = list_concat(['auto-' || left(sha256(coalesce(original::VARCHAR, fields[2])), 16)], fields[2:])
WHERE problem IS NULL

-- name: number_queries
UPDATE staged
SET fields = list_concat(
    ['auto-' || left(sha256(coalesce(original::VARCHAR, fields[2] || chr(31) || fields[3])), 16)], fields[2:])
WHERE problem IS NULL

-- name: drop_repeated
-- Rows of equal content are one, the first.
DELETE FROM staged WHERE rowid IN (
    SELECT rowid FROM staged WHERE problem IS NULL
    QUALIFY row_number() OVER (PARTITION BY fields[1] ORDER BY file, line) > 1)

-- name: decide_examples
-- What becomes of each row: added, unchanged, updated (source or metadata), replaced (text). New ids go on
-- from the largest, in the order of files and lines.
CREATE OR REPLACE TEMP TABLE decided AS
SELECT staged_row, file, line, external_id, action,
    coalesce(known_id, (SELECT coalesce(max(example_id), 0) FROM examples)
        + row_number() OVER (PARTITION BY known_id IS NULL ORDER BY file, line)) AS id
FROM (
    SELECT staged.rowid AS staged_row, file, line, fields[1] AS external_id, example_id AS known_id,
        CASE
            WHEN example_id IS NULL THEN 'added'
            WHEN content_hash <> md5_number(coalesce(original::VARCHAR, fields[2])) THEN 'replaced'
            WHEN source IS DISTINCT FROM fields[3] THEN 'updated'
            WHEN examples.metadata::VARCHAR IS DISTINCT FROM staged.metadata::VARCHAR THEN 'updated'
            ELSE 'unchanged'
        END AS action
    FROM staged LEFT JOIN examples ON external_id = fields[1]
    WHERE problem IS NULL
)

-- name: decide_queries
-- As `decide_examples`; a changed prompt or target replaces.
CREATE OR REPLACE TEMP TABLE decided AS
SELECT staged_row, file, line, external_id, action,
    coalesce(known_id, (SELECT coalesce(max(query_id), 0) FROM queries)
        + row_number() OVER (PARTITION BY known_id IS NULL ORDER BY file, line)) AS id
FROM (
    SELECT staged.rowid AS staged_row, file, line, fields[1] AS external_id, query_id AS known_id,
        CASE
            WHEN query_id IS NULL THEN 'added'
            WHEN content_hash <> md5_number(coalesce(original::VARCHAR, fields[2] || chr(31) || fields[3])) THEN 'replaced'
            WHEN queries.metadata::VARCHAR IS DISTINCT FROM staged.metadata::VARCHAR THEN 'updated'
            ELSE 'unchanged'
        END AS action
    FROM staged LEFT JOIN queries ON external_id = fields[1]
    WHERE problem IS NULL
)

-- name: actions
SELECT action, count(*) FROM decided GROUP BY action

-- name: changed
SELECT external_id, file, line, count(*) OVER () AS total
FROM decided WHERE action = 'replaced' ORDER BY file, line LIMIT $limit

-- name: insert_examples
INSERT INTO examples
SELECT id, fields[1], fields[2], fields[3], metadata, md5_number(coalesce(original::VARCHAR, fields[2]))
FROM decided JOIN staged ON staged.rowid = staged_row
WHERE action = 'added' ORDER BY id

-- name: insert_example_originals
DELETE FROM example_originals WHERE example_id IN (SELECT id FROM decided WHERE action = 'replaced');
INSERT INTO example_originals
SELECT id, shape, original
FROM decided JOIN staged ON staged.rowid = staged_row
WHERE action IN ('added', 'replaced') AND original IS NOT NULL ORDER BY id

-- name: insert_query_originals
DELETE FROM query_originals WHERE query_id IN (SELECT id FROM decided WHERE action = 'replaced');
INSERT INTO query_originals
SELECT id, shape, original
FROM decided JOIN staged ON staged.rowid = staged_row
WHERE action IN ('added', 'replaced') AND original IS NOT NULL ORDER BY id

-- name: shapes
-- What the rows were recognised as.
SELECT coalesce(shape, 'text') AS shape, count(*) FROM staged WHERE problem IS NULL GROUP BY ALL ORDER BY ALL

-- name: update_examples
UPDATE examples
SET text = fields[2], source = fields[3], metadata = staged.metadata,
    content_hash = md5_number(coalesce(original::VARCHAR, fields[2]))
FROM decided JOIN staged ON staged.rowid = staged_row
WHERE action IN ('updated', 'replaced') AND example_id = id

-- name: insert_queries
INSERT INTO queries
SELECT id, fields[1], fields[2], fields[3], metadata,
       md5_number(coalesce(original::VARCHAR, fields[2] || chr(31) || fields[3]))
FROM decided JOIN staged ON staged.rowid = staged_row
WHERE action = 'added' ORDER BY id

-- name: update_queries
UPDATE queries
SET prompt = fields[2], target = fields[3], metadata = staged.metadata,
    content_hash = md5_number(coalesce(original::VARCHAR, fields[2] || chr(31) || fields[3]))
FROM decided JOIN staged ON staged.rowid = staged_row
WHERE action IN ('updated', 'replaced') AND query_id = id

-- name: forget_examples
-- What was derived from a replaced text alone. Labels are ground truth and stay. So do the scorings: they are of the
-- text that there was, and `scoring_status` says that they are stale.
CREATE OR REPLACE TEMP TABLE replaced AS SELECT id FROM decided WHERE action = 'replaced';
DELETE FROM curvatures WHERE side = 'corpus' AND encoder_id IN (
    SELECT encoder_id FROM encodings WHERE example_id IN (SELECT id FROM replaced));
DELETE FROM encodings WHERE example_id IN (SELECT id FROM replaced);
UPDATE terms SET df = df - gone.n
FROM (
    SELECT term_id, count(*) AS n FROM postings
    WHERE example_id IN (SELECT id FROM replaced) GROUP BY term_id
) gone
WHERE terms.term_id = gone.term_id;
DELETE FROM terms WHERE df <= 0;
DELETE FROM postings WHERE example_id IN (SELECT id FROM replaced);
DELETE FROM lexical_stats WHERE example_id IN (SELECT id FROM replaced);
DELETE FROM tail_patches WHERE example_id IN (SELECT id FROM replaced);
DELETE FROM exact_scores WHERE example_id IN (SELECT id FROM replaced);
DELETE FROM subset_losses;
DROP TABLE replaced

-- name: forget_queries
-- As `forget_examples`. A changed query shifts every curvature that is mixed with the queries', hence every ranking.
CREATE OR REPLACE TEMP TABLE replaced AS SELECT id FROM decided WHERE action = 'replaced';
DELETE FROM query_encodings WHERE query_id IN (SELECT id FROM replaced);
DELETE FROM tail_patches WHERE query_id IN (SELECT id FROM replaced);
DELETE FROM exact_scores WHERE query_id IN (SELECT id FROM replaced);
DELETE FROM subset_losses WHERE query_id IN (SELECT id FROM replaced);
DELETE FROM query_losses WHERE query_id IN (SELECT id FROM replaced);
DROP TABLE replaced

-- name: count_scorings
SELECT count(*) FROM scorings

-- name: check_labels
-- Say what is wrong with a label: not a finite number, or a pair that names something unknown.
UPDATE staged
SET problem = CASE
    WHEN NOT coalesce(isfinite(try_cast(fields[3] AS DOUBLE)), false)
        THEN CASE WHEN fields[3] IS NULL THEN 'no ''' || $label || ''''
                  ELSE 'the label ''' || fields[3] || ''' is not a number' END
    WHEN NOT EXISTS (FROM queries WHERE external_id = fields[1]) THEN 'no query ''' || fields[1] || ''''
    WHEN NOT EXISTS (FROM examples WHERE external_id = fields[2]) THEN 'no example ''' || fields[2] || ''''
END
WHERE problem IS NULL

-- name: default_labels
-- Files without a label column name the pairs that are right.
UPDATE staged SET fields = [fields[1], fields[2], '1'] WHERE list_contains($files::INTEGER[], file)

-- name: conflicting_labels
-- Pairs that the input labels in two ways, with the first place of each of two labels.
SELECT query, example, list({'file': file, 'line': line, 'label': label} ORDER BY file, line)[:2] AS places,
       count(*) OVER () AS total
FROM (
    SELECT fields[1] AS query, fields[2] AS example, fields[3]::DOUBLE AS label,
           min((file, line)) AS place, place[1] AS file, place[2] AS line
    FROM staged WHERE problem IS NULL GROUP BY ALL
)
GROUP BY query, example HAVING count(*) > 1
ORDER BY min((file, line)) LIMIT $limit

-- name: decide_labels
-- One row a pair, the first of equal ones.
CREATE OR REPLACE TEMP TABLE decided AS
SELECT query_id, example_id, first.file AS file, first.line AS line, first.label AS label,
    new.query || ', ' || new.example AS external_id,
    CASE WHEN labels.label IS NULL THEN 'added'
         WHEN labels.label <> first.label THEN 'replaced'
         ELSE 'unchanged' END AS action
FROM (
    SELECT fields[1] AS query, fields[2] AS example,
           min({'file': file, 'line': line, 'label': fields[3]::DOUBLE}) AS first
    FROM staged WHERE problem IS NULL GROUP BY ALL
) new
JOIN queries ON queries.external_id = new.query
JOIN examples ON examples.external_id = new.example
LEFT JOIN labels USING (query_id, example_id)

-- name: insert_labels
INSERT INTO labels
SELECT query_id, example_id, label, ($origins::VARCHAR[])[file + 1]
FROM decided WHERE action = 'added' ORDER BY file, line

-- name: update_labels
UPDATE labels
SET label = decided.label, origin = ($origins::VARCHAR[])[file + 1]
FROM decided
WHERE action = 'replaced' AND labels.query_id = decided.query_id AND labels.example_id = decided.example_id

-- name: unstage
DROP TABLE IF EXISTS staged;
DROP TABLE IF EXISTS decided;
DROP TABLE IF EXISTS rejected_lines;
DROP TABLE IF EXISTS rejected_scans;
DROP MACRO IF EXISTS nothing;
DROP MACRO IF EXISTS are_turns;
DROP MACRO IF EXISTS goes_with
