-- The two scorings that are shown where none is named.

-- name: of_family
SELECT name FROM scorings WHERE family = $family ORDER BY name

-- name: reset
DELETE FROM meta WHERE starts_with(key, 'use ')

-- name: chosen
FROM chosen_scorings
