-- What `attrstore rerank` computed: a pair's score from whole gradients, by each method, so that a stopped job goes on
-- and another method over the same candidates costs nothing. `recipe` is a digest of what the gradients depend on
-- (model, correction, maps, blocks, context), whatever the encoder's projection and code, and of the curvature whose
-- inverse products and norms are taken with, if there is one. NaN where a gradient is not finite.
CREATE TABLE exact_scores (
    recipe       VARCHAR NOT NULL,
    query_id     BIGINT NOT NULL,
    example_id   BIGINT NOT NULL,
    dot          FLOAT NOT NULL,              -- inner product of the gradients
    cosine       FLOAT NOT NULL,              -- over the norms of both
    cosine_block FLOAT NOT NULL               -- the mean over the blocks of each block's own cosine
);
