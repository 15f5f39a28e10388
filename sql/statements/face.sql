-- What a store has besides tables. Names are qualified: a store of somebody else's may shadow them.

-- name: catalog
SELECT 'view ' || view_name AS what, sql AS made
FROM system.main.duckdb_views()
WHERE NOT internal AND NOT temporary AND database_name = system.main.current_database()
UNION ALL
SELECT 'macro ' || function_name, parameters::VARCHAR || ' ' || macro_definition
FROM system.main.duckdb_functions()
WHERE NOT internal AND database_name = system.main.current_database()
UNION ALL
SELECT 'trigger ' || trigger_name || ' on ' || table_name, sql
FROM system.main.duckdb_triggers()
WHERE NOT temporary AND database_name = system.main.current_database();

-- name: own
-- Macros and triggers by name.
SELECT DISTINCT 'macro ' || function_name AS what
FROM system.main.duckdb_functions()
WHERE NOT internal AND database_name = system.main.current_database()
UNION ALL
SELECT 'trigger ' || trigger_name || ' on ' || table_name
FROM system.main.duckdb_triggers()
WHERE NOT temporary AND database_name = system.main.current_database()
ORDER BY what;

-- name: built_in
-- DuckDB's own functions.
SELECT DISTINCT 'macro ' || function_name FROM system.main.duckdb_functions() WHERE internal;

-- name: storage
SELECT tags['storage_version'] FROM system.main.duckdb_databases()
WHERE database_name = system.main.current_database();

-- name: tables
SELECT table_name FROM system.main.duckdb_tables()
WHERE NOT internal AND NOT temporary AND database_name = system.main.current_database()
ORDER BY table_name;

-- name: tables_with
-- The tables that have a column, so that one of a later schema is not forgotten.
SELECT table_name FROM system.main.duckdb_columns()
WHERE NOT internal AND database_name = system.main.current_database() AND schema_name = 'main'
  AND column_name = $column AND table_name IN (SELECT table_name FROM system.main.duckdb_tables() WHERE NOT temporary)
ORDER BY table_name;

-- name: columns
SELECT table_name, column_name || ' ' || data_type FROM system.main.duckdb_columns()
WHERE NOT internal AND database_name = system.main.current_database()
  AND table_name IN (
      SELECT table_name FROM system.main.duckdb_tables()
      WHERE NOT internal AND NOT temporary AND database_name = system.main.current_database()
  )
ORDER BY ALL;

-- name: removals
-- What removes each view, macro and trigger, whatever they are called.
SELECT system.main.concat('DROP TRIGGER "', system.main.replace(trigger_name, '"', '""'),
    '" ON "', system.main.replace(table_name, '"', '""'), '"')
FROM system.main.duckdb_triggers()
WHERE NOT temporary AND database_name = system.main.current_database()
UNION ALL
SELECT system.main.concat('DROP VIEW "', system.main.replace(view_name, '"', '""'), '"')
FROM system.main.duckdb_views()
WHERE NOT internal AND NOT temporary AND database_name = system.main.current_database()
UNION ALL
SELECT DISTINCT system.main.concat(
    'DROP MACRO ', CASE function_type WHEN 'table_macro' THEN 'TABLE ' END, '"',
    system.main.replace(function_name, '"', '""'), '"'
)
FROM system.main.duckdb_functions()
WHERE NOT internal AND database_name = system.main.current_database();
