-- How much of a model an encoder of gradients sees: the numbers in its weights, by what they are.
CREATE TABLE encoder_weights (
    encoder_id VARCHAR NOT NULL,
    part       VARCHAR NOT NULL,              -- linear maps, experts, token embedding, output head, norms, biases; or a module's class
    encoded    BOOLEAN NOT NULL,              -- whether their gradient is in the code, or left out
    weights    BIGINT NOT NULL                -- of an adapter's model, the adapter's alone: the others were not trained
);
