"""A digest of all that a store holds, to keep elsewhere: a store that lost its last commits is whole, and differs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from attrstore.schema import own_columns

if TYPE_CHECKING:
    from attrstore.store import Store

CACHES = {"block_weights"}
# Of other types the text; a time's would depend on where it is read.
AS_TEXT = {"BLOB": "md5({})", "TIMESTAMP WITH TIME ZONE": "epoch_us({})::VARCHAR"}


def digest(store: Store) -> str:
    """Return 32 hexadecimal digits over every row of attrstore's own tables, in whatever order they lie.

    A copy has the same digest; caches do not count, and neither do views, macros and tables of others.
    """
    total = hashlib.sha256()
    for table, columns in own_columns().items():
        if table in CACHES:
            continue
        parts = ", ".join(
            f"coalesce({AS_TEXT.get(kind, '{}::VARCHAR').format(f'{chr(34)}{name}{chr(34)}')}, chr(30))"
            for name, kind in columns
        )
        row = f"md5_number_lower(concat_ws(chr(31), {parts}))::HUGEINT"
        [found] = store.rows(f'SELECT count(*), coalesce(sum({row}), 0) FROM "{table}"')
        total.update(f"{table} {found[0]} {found[1]}\n".encode())
    return total.hexdigest()[:32]
