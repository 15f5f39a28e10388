-- The tables of an attrstore file. Migrations are numbered and never edited once released.

CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);

-- A training example. `example_id` joins; `external_id` is the user's own and what people see.
CREATE TABLE examples (
    example_id   BIGINT NOT NULL,
    external_id  VARCHAR NOT NULL UNIQUE,
    text         VARCHAR NOT NULL,
    source       VARCHAR,
    metadata     JSON,
    content_hash UHUGEINT NOT NULL          -- md5_number(text): a changed text under a known id is noticed
);

-- A prompt and the target whose probability is explained.
CREATE TABLE queries (
    query_id     BIGINT NOT NULL,
    external_id  VARCHAR NOT NULL UNIQUE,
    prompt       VARCHAR NOT NULL,
    target       VARCHAR NOT NULL,
    metadata     JSON,
    content_hash UHUGEINT NOT NULL          -- md5_number of prompt, a unit separator and target
);

-- Ground truth for one pair; a label above 0 marks a proponent.
CREATE TABLE labels (
    query_id   BIGINT NOT NULL,
    example_id BIGINT NOT NULL,
    label      DOUBLE NOT NULL,
    origin     VARCHAR
);

CREATE TABLE models (
    fingerprint           VARCHAR PRIMARY KEY,   -- of config and weights
    tokenizer_fingerprint VARCHAR NOT NULL,
    path                  VARCHAR NOT NULL,
    revision              VARCHAR,
    architecture          VARCHAR NOT NULL,
    parameters            BIGINT NOT NULL
);

-- A recipe text -> vector. `encoder_id` is a hash of `spec`, so the same recipe is the same encoder everywhere.
CREATE TABLE encoders (
    encoder_id        VARCHAR PRIMARY KEY,
    kind              VARCHAR NOT NULL,       -- gradient, representation, embedding
    name              VARCHAR NOT NULL,       -- short and readable, for people
    model_fingerprint VARCHAR NOT NULL,
    spec              JSON NOT NULL,          -- everything that changes a vector
    blocks            JSON NOT NULL,          -- [{"name", "offset", "length", "rows"}] in the order of the code
    created           TIMESTAMPTZ NOT NULL
);

-- What a recipe measured before its first encoding, so that every later one uses the same: for each module
-- `scale_in` and `scale_out` (the optimizer's factored correction, one row each), `p_in` and `p_out` (projection
-- matrices with Kronecker whitening, or principal directions), and of principal directions `spread_in`,
-- `spread_out` and `pair_weights` (the deviations by which bits are given). float16 by rows, divided by `scale`.
-- What is not here follows from the spec alone.
CREATE TABLE projections (
    encoder_id VARCHAR NOT NULL,
    module     VARCHAR NOT NULL,
    part       VARCHAR NOT NULL,
    n_rows     INTEGER NOT NULL,
    scale      DOUBLE NOT NULL,
    matrix     BLOB NOT NULL USING COMPRESSION uncompressed
);

-- One example under one encoder. `code` holds each block's direction, quantised; `scales` each block's
-- norm, bfloat16. Codes do not compress, and trying makes a checkpoint ten times slower.
CREATE TABLE encodings (
    encoder_id VARCHAR NOT NULL,
    example_id BIGINT NOT NULL,
    code       BLOB USING COMPRESSION uncompressed,
    scales     BLOB USING COMPRESSION uncompressed,
    n_tokens   INTEGER,
    loss       FLOAT,                         -- summed over the example's target tokens, in nats
    status     VARCHAR NOT NULL               -- ok; truncated: ...; split: ...; skipped: reason
);

-- One query under one encoder, unquantised: float32 in the order of the encoder's blocks.
CREATE TABLE query_encodings (
    encoder_id VARCHAR NOT NULL,
    query_id   BIGINT NOT NULL,
    vector     BLOB USING COMPRESSION uncompressed,
    n_tokens   INTEGER,
    loss       FLOAT,                         -- of the target's tokens only, in nats
    status     VARCHAR NOT NULL
);

-- The uncentred second moment of one block: E[phi phi^T] over `n` vectors.
-- `matrix` is the upper triangle, row by row, float16, divided by `scale`.
CREATE TABLE curvatures (
    encoder_id VARCHAR NOT NULL,
    side       VARCHAR NOT NULL,              -- corpus, queries
    block      VARCHAR NOT NULL,
    n          BIGINT NOT NULL,
    scale      DOUBLE NOT NULL,
    matrix     BLOB NOT NULL USING COMPRESSION uncompressed
);

-- What each block of a code weighs in its example's score, for the examples of one chunk of a scan; found again
-- by what it was computed from. A cache: its rows may be deleted. `weights` is float32 for each block, the
-- chunk's largest, and then float16 for each example and block, divided by it.
CREATE TABLE block_weights (
    encoder_id VARCHAR NOT NULL,
    norm       VARCHAR NOT NULL,
    recipe     VARCHAR NOT NULL,              -- digest of the norm and of the matrices before it
    examples   VARCHAR NOT NULL,              -- digest of the chunk's ids, norms and the starts of its codes
    weights    BLOB NOT NULL USING COMPRESSION uncompressed
);

-- The inverted index. idf and the average length are read from these at query time.
CREATE TABLE lexical_index (
    pattern  VARCHAR NOT NULL,                -- RE2: what a token is
    fold     BOOLEAN NOT NULL,                -- lower-case first
    stemmer  VARCHAR,                         -- a Snowball algorithm, or NULL
    variant  VARCHAR NOT NULL,                -- okapi, lucene
    k1       DOUBLE NOT NULL,
    b        DOUBLE NOT NULL,
    epsilon  DOUBLE NOT NULL                  -- okapi: floor of a negative idf, as a share of the mean idf
);
CREATE TABLE terms (term_id INTEGER NOT NULL, term VARCHAR NOT NULL, df BIGINT NOT NULL);
CREATE TABLE stems (token VARCHAR NOT NULL, term VARCHAR NOT NULL);
CREATE TABLE postings (term_id INTEGER NOT NULL, example_id BIGINT NOT NULL, tf INTEGER NOT NULL);
CREATE TABLE lexical_stats (example_id BIGINT NOT NULL, length INTEGER NOT NULL);

-- One method with its parameters, applied once.
CREATE TABLE scorings (
    scoring_id VARCHAR PRIMARY KEY,
    name       VARCHAR NOT NULL UNIQUE,
    family     VARCHAR NOT NULL,              -- influence, retrieval
    method     VARCHAR NOT NULL,
    spec       JSON NOT NULL,
    encoder_id VARCHAR,
    n_examples BIGINT NOT NULL,               -- how many were ranked
    created    TIMESTAMPTZ NOT NULL,
    version    VARCHAR NOT NULL               -- of attrstore
);

-- A ranked pair. rank 1 is the strongest proponent, -1 the strongest opponent. Besides the two ends,
-- every labelled pair is kept with its exact rank, so that metrics never depend on --top-k.
CREATE TABLE scores (
    scoring_id VARCHAR NOT NULL,
    query_id   BIGINT NOT NULL,
    example_id BIGINT NOT NULL,
    rank       INTEGER NOT NULL,
    score      DOUBLE NOT NULL
);

-- What one training step on the example did to the target.
CREATE TABLE tail_patches (
    query_id          BIGINT NOT NULL,
    example_id        BIGINT NOT NULL,
    model_fingerprint VARCHAR NOT NULL,
    optimizer         VARCHAR NOT NULL,
    learning_rate     DOUBLE NOT NULL,
    base_logprob      DOUBLE NOT NULL,
    delta_logprob     DOUBLE NOT NULL,
    base_prob         DOUBLE NOT NULL,
    delta_prob        DOUBLE NOT NULL
);

-- Which queries a scoring ranked: a query for which it found nothing has a row here and none in `scores`, so that
-- it counts 0 in every mean instead of dropping out.
CREATE TABLE scoring_queries (scoring_id VARCHAR NOT NULL, query_id BIGINT NOT NULL);

-- A part of the corpus that a model is trained on again, one of a named set (arXiv 2202.00622). kind: lds (a random
-- share is kept); in a set for leave-k-out: full (nothing left out), random (k at random), leave-out (the k
-- strongest proponents of one query under one scoring).
CREATE TABLE subsets (
    subset_set VARCHAR NOT NULL,
    subset     INTEGER NOT NULL,              -- 1, 2, ... within its set
    kind       VARCHAR NOT NULL,
    n_examples BIGINT NOT NULL,               -- of the corpus that it is a part of
    seed       BIGINT NOT NULL,               -- of what was chosen at random
    scoring    VARCHAR,                       -- of leave-out: its name
    query_id   BIGINT
);

-- What a subset leaves out; it keeps all the rest. (At a share of one half both are as many; in leave-k-out what
-- is left out are a few.)
CREATE TABLE subset_examples (
    subset_set VARCHAR NOT NULL,
    subset     INTEGER NOT NULL,
    example_id BIGINT NOT NULL
);

-- How well a model that was trained on the subset knows a query's target. Retrainings of one subset are averaged.
CREATE TABLE subset_losses (
    subset_set VARCHAR NOT NULL,
    subset     INTEGER NOT NULL,
    query_id   BIGINT NOT NULL,
    seed       BIGINT NOT NULL,               -- of the retraining
    loss       DOUBLE NOT NULL,               -- summed over the target's tokens, in nats
    origin     VARCHAR NOT NULL               -- the file, or how it was trained
);

-- What `attrstore diagnose` found: one block under one way to invert, psi for H^{-1} phi, H = R + damping * mean eigenvalue * I, R of the corpus.
CREATE TABLE residuals (
    encoder_id VARCHAR NOT NULL,
    damping    DOUBLE NOT NULL,
    method     VARCHAR NOT NULL,              -- of attrstore.solvers, or identity: R's mean eigenvalue for R
    iterations INTEGER,                       -- NULL where the method does not iterate
    block      VARCHAR NOT NULL,
    n_queries  BIGINT NOT NULL,               -- whose gradient in this block is not zero
    residual   DOUBLE NOT NULL,               -- |H psi - phi| / |phi|, mean over queries
    cosine     DOUBLE NOT NULL                -- of psi and the exact H^{-1} phi, mean over queries
);

-- How far each tensor lies between two checkpoints, as sums, so that any group of tensors can be put together.
-- `attrstore compare-checkpoints` writes this table and the next.
CREATE TABLE parameter_changes (
    from_fingerprint VARCHAR NOT NULL,
    to_fingerprint   VARCHAR NOT NULL,
    parameter        VARCHAR NOT NULL,        -- as the weights' file calls it
    n                BIGINT NOT NULL,         -- numbers in it
    from_square      DOUBLE NOT NULL,         -- |a|^2
    to_square        DOUBLE NOT NULL,         -- |b|^2
    change_square    DOUBLE NOT NULL,         -- |b - a|^2
    inner_product    DOUBLE NOT NULL          -- <a, b>
);

-- What a checkpoint makes of each query's target.
CREATE TABLE query_losses (
    model_fingerprint VARCHAR NOT NULL,
    query_id          BIGINT NOT NULL,
    n_targets         BIGINT NOT NULL,
    loss              DOUBLE,                 -- summed over the target's tokens, in nats; NULL if skipped
    status            VARCHAR NOT NULL        -- ok; truncated: ...; skipped: reason
);

-- One execution of one job.
CREATE TABLE runs (
    run_id     BIGINT NOT NULL,
    job        VARCHAR NOT NULL,
    parameters JSON NOT NULL,
    version    VARCHAR NOT NULL,
    machine    VARCHAR NOT NULL,
    started    TIMESTAMPTZ NOT NULL,
    finished   TIMESTAMPTZ,
    rows       BIGINT,
    state      VARCHAR NOT NULL,              -- running, finished, interrupted, failed, killed
    message    VARCHAR
);
