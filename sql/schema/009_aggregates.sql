-- What `attrstore score --group-by COLUMN` found while it scanned: over all examples that were ranked, not only the kept
-- ends, their scores for a query by the value of a column. Quantiles are interpolated between neighbours.
CREATE TABLE score_groups (
    scoring_id VARCHAR NOT NULL,
    query_id   BIGINT NOT NULL,
    grouped_by VARCHAR NOT NULL,              -- source, or a key of the examples' metadata
    value      VARCHAR,                       -- NULL: the examples that have none
    examples   BIGINT NOT NULL,
    total      DOUBLE NOT NULL,               -- sum of the scores
    mean       DOUBLE NOT NULL,
    q05        DOUBLE NOT NULL,
    q25        DOUBLE NOT NULL,
    median     DOUBLE NOT NULL,
    q75        DOUBLE NOT NULL,
    q95        DOUBLE NOT NULL
);
