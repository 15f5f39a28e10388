-- A subset without the strongest proponents of a group of queries instead of one: those with this value under this key of
-- their metadata. It has no query_id.
ALTER TABLE subsets ADD COLUMN grouped_by VARCHAR; -- of leave-out by a group of queries: a key of the queries' metadata
ALTER TABLE subsets ADD COLUMN value VARCHAR; -- of the group
