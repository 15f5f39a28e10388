-- What a scoring was made of, so that it is seen when that changes. `digest` is that of the view `present_inputs`
-- when it was made. A scoring from before this table has no row here; its counts alone are compared.
CREATE TABLE scoring_inputs (
    scoring_id VARCHAR NOT NULL,
    input      VARCHAR NOT NULL,              -- examples, queries, labels; recipe and scores of query N: what was written
    n          BIGINT NOT NULL,
    digest     HUGEINT NOT NULL
);
