-- Why a pair scores: its score by token and by block, as `attrstore explain` took it apart.

-- One row per token of an explained pair; `part` is in the unit of the score, `share` of the sum of all parts' sizes.
--   side   example: a token of the example; target: a token of the query's target
-- FROM token_influence WHERE query = 'q-17' AND side = 'example' ORDER BY example, position
CREATE OR REPLACE VIEW token_influence AS
SELECT
    scorings.name AS scoring, queries.external_id AS query, examples.external_id AS example,
    side, position, token, part,
    part / nullif(sum(abs(part)) OVER (PARTITION BY token_parts.scoring_id, query_id, example_id, side), 0) AS share,
    pair_labels.label, start
FROM token_parts
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id)
JOIN examples USING (example_id)
LEFT JOIN pair_labels USING (query_id, example_id);

-- One row per block of an explained pair. Which blocks carry a behaviour, over all explained pairs:
--   SELECT block, avg(share) FROM block_influence WHERE label > 0 GROUP BY block ORDER BY 2 DESC
CREATE OR REPLACE VIEW block_influence AS
SELECT
    scorings.name AS scoring, queries.external_id AS query, examples.external_id AS example,
    position, block, part,
    part / nullif(sum(abs(part)) OVER (PARTITION BY block_parts.scoring_id, query_id, example_id), 0) AS share,
    pair_labels.label, block_parts.source
FROM block_parts
JOIN scorings USING (scoring_id)
JOIN queries USING (query_id)
JOIN examples USING (example_id)
LEFT JOIN pair_labels USING (query_id, example_id);
