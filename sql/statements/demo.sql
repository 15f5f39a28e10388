-- What the demo prints at its end.

-- name: methods
-- The method table, in the order in which the methods build on each other.
SELECT name, queries, mrr, hit_at_10, recall_at_10
FROM method_report
ORDER BY list_position($methods, name);

-- name: disagreement
-- The query for which the two rankings have least in common; first those whose fact is stated three times or more,
-- that the model answers with a probability above one half, for which influence ranks a statement first and
-- retrieval has one in its first five.
SELECT agreement.query, queries.prompt, queries.target, (queries.metadata ->> 'frequency')::INTEGER AS frequency
FROM agreement
JOIN queries ON queries.external_id = agreement.query
JOIN query_encodings USING (query_id)
JOIN query_report AS one ON one.query = agreement.query AND one.name = agreement.scoring
JOIN query_report AS other ON other.query = agreement.query AND other.name = agreement.other_scoring
WHERE
    agreement.scoring = $influence AND agreement.other_scoring = $retrieval
ORDER BY
    (
        (queries.metadata ->> 'frequency')::INTEGER >= 3 AND query_encodings.loss < ln(2)
        AND one.reciprocal_rank = 1 AND other.reciprocal_rank >= 0.2
    ) DESC,
    agreement.overlap_at_10, agreement.rank_correlation NULLS LAST, agreement.query
LIMIT 1;

-- name: proponents
-- The strongest proponents of one query under one scoring; `states` marks those that state the fact.
SELECT rank, text, coalesce(label, 0) > 0 AS states
FROM ranked_pairs
WHERE scoring = $scoring AND query = $query AND rank BETWEEN 1 AND $depth
ORDER BY rank;
