"""docs/schema.md says what the tables' and views' own comments say, and leaves none out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docs import schema

if TYPE_CHECKING:
    from attrstore import Store


def test_the_page_is_what_the_comments_make() -> None:
    assert schema.PAGE.read_text(encoding="utf-8") == schema.page(), "python -m docs.schema writes it again"


def test_every_table_and_view_says_what_it_is(store: Store) -> None:
    of_table, _ = schema.tables()
    said = {table for table, comment in of_table.items() if any(comment)} | {
        thing.name for thing in schema.face()
    }
    names = "SELECT table_name FROM duckdb_tables() UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal"
    there = {name for (name,) in store.rows(names)}
    assert sorted(there - said) == []
