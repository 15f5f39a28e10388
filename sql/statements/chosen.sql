-- The two scorings that are shown where none is named.

-- name: names
SELECT name FROM scorings WHERE $family IS NULL OR family = $family ORDER BY created, name

-- name: reset
DELETE FROM meta WHERE starts_with(key, 'use ')

-- name: chosen
FROM chosen_scorings
