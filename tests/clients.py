"""Call every view and macro of a store with whatever DuckDB runs this: python clients.py STORE open|use|path.

Prints one JSON object: version, how many calls, how many rows, and what failed. Imports nothing but duckdb.
"""

from __future__ import annotations

import json
import sys

import duckdb

# By the parameter's name, so that a new macro is called too; one with a new name of a parameter fails until it is here.
ARGUMENTS = {
    "average_idf": "1.5", "average_length": "4.0", "b": "0.75", "depth": "3", "df": "2", "epsilon": "0.25",
    "fold": "true", "has_object": "true", "has_subject": "true", "label": "1", "same_relation": "true",
    "influence_scoring": "'cosine'", "input": "'Text 7'", "k": "10", "k1": "1.5", "length": "5",
    "mentioning_text": "'In New York.'", "metadata_key": "'kind'", "n_examples": "60", "n_labelled": "2",
    "n_ranked": "60", "pattern": "'[a-z]+'", "phrase": "'new york'", "query_name": "'q1'",
    "query_terms": "['text']", "ranks": "[1, 3]", "reference": "'bm25'", "resample": "1", "resamples": "20",
    "retrieval_scoring": "'bm25'", "scoring_name": "'cosine'", "signed_rank": "1", "tf": "2", "units": "1.0",
    "variant": "'okapi'", "weight": "1.0", "words_text": "'In New York.'",
}  # fmt: skip
PREFIX = {"open": "", "use": "f.", "path": "f."}


def connected(path: str, how: str) -> duckdb.DuckDBPyConnection:
    if how == "open":
        return duckdb.connect(path, read_only=True)
    connection = duckdb.connect()
    connection.execute("CREATE TABLE mine AS SELECT 42 AS answer")
    connection.execute(f"ATTACH '{path}' AS f (READ_ONLY)")
    # A macro's names are looked up where the caller's are: DuckDB has to be told to look into f too.
    connection.execute("USE f" if how == "use" else "SET search_path = 'memory,f'")
    return connection


def calls(connection: duckdb.DuckDBPyConnection, prefix: str) -> list[list[str]]:
    """Each view and macro, with the ways to call it: by name, or, as 1.2 wants it, by place but for the defaults."""
    found = [
        [f"FROM {prefix}{name}"]
        for (name,) in connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE NOT internal"
        ).fetchall()
    ]
    for name, kind, parameters in connection.execute(
        "SELECT function_name, function_type, parameters FROM duckdb_functions() WHERE NOT internal"
    ).fetchall():
        given = {p: ARGUMENTS.get(p, "NO_ARGUMENT_IN_TESTS_CLIENTS_PY") for p in parameters}
        named = [f"{p} := {v}" for p, v in given.items()]
        placed = [f"resamples := {v}" if p == "resamples" else v for p, v in given.items()]
        head = f"{'FROM' if kind == 'table_macro' else 'SELECT'} {prefix}{name}"
        found.append([f"{head}({', '.join(a)})" for a in (named, placed, list(given.values()))])
    return sorted(found)


def rows(connection: duckdb.DuckDBPyConnection, ways: list[str]) -> int:
    """How many rows it has, called in the first way that this version takes."""
    for way in ways[:-1]:
        try:
            return len(connection.execute(way).fetchall())
        except duckdb.BinderException as error:
            if "positional argument" not in str(error):
                raise
    return len(connection.execute(ways[-1]).fetchall())


def main() -> None:
    path, how = sys.argv[1:]
    with connected(path, how) as connection:
        failed, found = {}, {}
        for ways in calls(connection, PREFIX[how]):
            try:
                found[ways[0].replace(" f.", " ")] = rows(connection, ways)
            except duckdb.Error as error:
                failed[ways[0]] = str(error)
        mine = how == "open" or connection.execute("FROM memory.mine").fetchall() == [(42,)]
    print(json.dumps({"version": duckdb.__version__, "rows": found, "failed": failed, "mine": mine}))  # noqa: T201


if __name__ == "__main__":
    main()
