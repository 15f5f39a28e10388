-- What `attrstore explain` found: the score of a pair under a scoring, taken apart. The parts of a side sum to the
-- score (of the example's encoding before it was quantised, where the source is the model).

CREATE TABLE token_parts (
    scoring_id VARCHAR NOT NULL,
    query_id   BIGINT NOT NULL,
    example_id BIGINT NOT NULL,
    side       VARCHAR NOT NULL,              -- example: by its tokens; target: by the tokens of the query's target
    position   INTEGER NOT NULL,              -- among the tokens of the side, from 1
    start      INTEGER,                       -- its first character in the example's text, from 0; NULL of a target,
                                              -- and where the tokenizer does not say
    token      VARCHAR NOT NULL,
    part       DOUBLE NOT NULL
);

CREATE TABLE block_parts (
    scoring_id VARCHAR NOT NULL,
    query_id   BIGINT NOT NULL,
    example_id BIGINT NOT NULL,
    source     VARCHAR NOT NULL,              -- model: encoded anew; codes: from the stored code
    position   INTEGER NOT NULL,              -- among the encoder's blocks, from 1
    block      VARCHAR NOT NULL,
    part       DOUBLE NOT NULL
);
