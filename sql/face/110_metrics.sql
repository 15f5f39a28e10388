-- Metrics of one query's ranking, as macros over the ranks of its labelled examples.
--
-- `ranks` is a list of the ranks r (1 = strongest) at which labelled examples were found. An example that was
-- not found has no entry; entries that are NULL or below 1 count as not found, repeated ones count once. A NULL
-- or empty list is a ranking that found nothing, so every metric is 0. A labelled example has label > 0.
-- Try one: SELECT reciprocal_rank([3, 7]), hit_at([3, 7], 10), average_precision([3, 7], 2);

-- Where a rank stands among all `n_ranked` examples: opponents (-1 = strongest) count from the far end.
CREATE OR REPLACE MACRO position_of(signed_rank, n_ranked) AS
    CASE WHEN signed_rank > 0 THEN signed_rank ELSE n_ranked + 1 + signed_rank END;

-- The ranks that count, strongest first.
CREATE OR REPLACE MACRO found_ranks(ranks) AS
    coalesce(list_sort(list_distinct(list_filter(ranks::BIGINT[], lambda r: r >= 1))), []::BIGINT[]);

-- 1 / min r, or 0. Its mean over queries is MRR.
CREATE OR REPLACE MACRO reciprocal_rank(ranks) AS
    coalesce(1.0::DOUBLE / found_ranks(ranks)[1], 0.0::DOUBLE);

-- How many labelled examples are among the first k.
CREATE OR REPLACE MACRO found_at(ranks, k) AS
    len(list_filter(found_ranks(ranks), lambda r: r <= k));

-- 1 if any labelled example is among the first k, else 0. Its mean over queries is hit@k
-- (the TrackStar paper calls this recall@k).
CREATE OR REPLACE MACRO hit_at(ranks, k) AS
    (found_at(ranks, k) > 0)::INTEGER::DOUBLE;

-- |{r <= k}| / n_labelled: the share of the labelled examples that are among the first k. DATE-LM (arXiv 2507.09424)
-- reports it at 50.
CREATE OR REPLACE MACRO recall_at(ranks, n_labelled, k) AS
    found_at(ranks, k)::DOUBLE / nullif(n_labelled, 0);

-- |{r <= k}| / k: the share of the first k that is labelled.
CREATE OR REPLACE MACRO precision_at(ranks, k) AS
    found_at(ranks, k)::DOUBLE / nullif(k, 0);

-- (1 / n_labelled) * sum over i of i / r_i, where r_1 < r_2 < ... are the ranks found: the precision at each
-- labelled example, with 0 for those not found. Its mean over queries is MAP. It is the area under the curve of
-- precision over recall in steps, as sklearn.metrics.average_precision_score has it.
CREATE OR REPLACE MACRO average_precision(ranks, n_labelled) AS
    coalesce(list_sum(list_transform(found_ranks(ranks), lambda r, i: i::DOUBLE / r)), 0.0::DOUBLE)
    / nullif(n_labelled, 0);

-- The area under the same curve with straight lines from point to point, as DATE-LM (arXiv 2507.09424) reports it:
-- sklearn.metrics.auc of precision_recall_curve. To the labelled example at rank r_i the line runs from the precision
-- one rank before it, (i - 1) / (r_i - 1), to i / r_i; where r_1 = 1, from 1. One that was not found adds nothing.
CREATE OR REPLACE MACRO auprc(ranks, n_labelled) AS
    coalesce(
        list_sum(list_transform(
            found_ranks(ranks),
            lambda r, i: (CASE WHEN r = 1 THEN 1.0 ELSE (i - 1)::DOUBLE / nullif(r - 1, 0) END + i::DOUBLE / r) / 2
        )),
        0.0::DOUBLE
    ) / nullif(n_labelled, 0);
