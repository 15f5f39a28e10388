-- What a training example or a query was before it was a text. Only those that were something else have a row:
-- `messages`: a chat. `completion`: a prompt and its completion. `chat completion`: both as messages.
-- `tokens`: input_ids, with labels or loss_mask where the row had them. `original` holds just those keys.
-- `text`, `prompt` and `target` are there all the same, for people and for BM25.
CREATE TABLE example_originals (example_id BIGINT NOT NULL, shape VARCHAR NOT NULL, original JSON NOT NULL);
CREATE TABLE query_originals (query_id BIGINT NOT NULL, shape VARCHAR NOT NULL, original JSON NOT NULL);
