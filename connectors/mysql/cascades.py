"""Changes that the server makes on its own and does not log: foreign keys that cascade within the storage engine.

On MariaDB, and on MySQL before 9.6 (later: with `innodb_native_foreign_keys`), the rows that ON DELETE or ON UPDATE
CASCADE and SET NULL change are not in the binary log. The tables that they are in are reloaded when a row that others
may refer to is deleted or gets another key. Source: MySQL Reference Manual, "Replication and Foreign Keys" and
"innodb_native_foreign_keys"; MariaDB Knowledge Base, "Foreign Keys".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from connectors.mysql.connection import Connection
from connectors.mysql.types import quoted
from engine.changes import Op, TableChanges
from engine.schema import Identity, TableId

_QUERY = """
SELECT k.TABLE_NAME, k.CONSTRAINT_NAME, k.REFERENCED_TABLE_SCHEMA, k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME
FROM information_schema.KEY_COLUMN_USAGE k
WHERE k.TABLE_SCHEMA = %s AND k.REFERENCED_TABLE_NAME IS NOT NULL
ORDER BY k.TABLE_NAME, k.CONSTRAINT_NAME
"""
"""REFERENTIAL_CONSTRAINTS has the rules, but shows MariaDB's to nobody who may only read."""
_NAME = r"`(?:[^`]|``)*`"
_NAMES = rf"\({_NAME}(?:, ?{_NAME})*\)"
_RULES = rf" FOREIGN KEY {_NAMES} REFERENCES (?:{_NAME}\.)?{_NAME} {_NAMES}((?: ON (?:DELETE|UPDATE) [A-Z ]+?)*)(?=,?\n| ON|$)"
_ACTING = ("CASCADE", "SET NULL", "SET DEFAULT")


@dataclass(slots=True)
class _Parent:
    """What refers to a table, directly. `columns` are referred to by a key that acts on updates."""

    on_delete: set[TableId]
    on_update: set[TableId]
    columns: set[str]


class Cascades:
    """Which tables change unseen when rows of another one do. Empty where the server logs all changes.

    A row per column of a foreign key: child, parent's schema and name, whether it acts on deletes and on updates, and
    the parent's column. `schema` is the children's.
    """

    def __init__(
        self, rows: Iterable[tuple[str, str, str, bool, bool, str]] = (), schema: str = "", *, unlogged: bool = False
    ) -> None:
        self.unlogged = unlogged
        """Whether foreign keys act without the log."""
        self._parents: dict[TableId, _Parent] = {}
        for child, parent_schema, parent_name, on_delete, on_update, column in rows:
            parent = self._parents.setdefault(TableId(parent_schema, parent_name), _Parent(set(), set(), set()))
            if on_delete:
                parent.on_delete.add(TableId(schema, child))
            if on_update:
                parent.on_update.add(TableId(schema, child))
                parent.columns.add(column)

    def __bool__(self) -> bool:
        return bool(self._parents)

    def concern(self, table: TableId) -> bool:
        """Whether changes of this table may cascade."""
        return table in self._parents

    def of_changes(self, changes: TableChanges) -> set[TableId]:
        """The tables that these changes may have changed unseen."""
        parent = self._parents.get(changes.table.id)
        if parent is None:
            return set()
        ops = changes.ops.to_numpy(zero_copy_only=False)
        deleted = ops == Op.DELETE
        found = set(parent.on_delete) if bool(deleted.any()) else set()
        if changes.table.identity is Identity.KEY and parent.columns <= set(changes.table.key):
            # Another key is a DELETE with an UPDATE behind it; an update that keeps the key is one image.
            moved = bool((deleted[:-1] & (ops[1:] == Op.UPDATE)).any())
        else:
            moved = bool((ops != Op.INSERT).any())
        return self._with_descendants(found | parent.on_update if moved else found)

    def of_any_change(self, table: TableId) -> set[TableId]:
        """The tables that may change unseen when rows of this one are updated or deleted."""
        parent = self._parents.get(table)
        return set() if parent is None else self._with_descendants(parent.on_delete | parent.on_update)

    def _with_descendants(self, tables: set[TableId]) -> set[TableId]:
        """These and all that refers to them: what cascades goes on cascading."""
        found: set[TableId] = set()
        left = list(tables)
        while left:
            table = left.pop()
            if table not in found:
                found.add(table)
                parent = self._parents.get(table)
                left += [] if parent is None else [*parent.on_delete, *parent.on_update]
        return found


def read_cascades(connection: Connection, schema: str) -> Cascades:
    """Read the foreign keys of a database, if the server does not log what they do."""
    if not _unlogged(connection):
        return Cascades()
    keys = connection.query(_QUERY, [schema])
    connection.statement("SET SESSION sql_quote_show_create = 1")
    created: dict[str, str] = {}
    for table in {str(key[0]) for key in keys}:
        rows = connection.query(f"SHOW CREATE TABLE {quoted(schema)}.{quoted(table)}")
        created[table] = str(rows[0][1])
    rows = []
    for table, constraint, parent_schema, parent, column in keys:
        on_delete, on_update = acting(created[table], constraint)
        rows.append((table, parent_schema, parent, on_delete, on_update, column))
    return Cascades(rows, schema, unlogged=True)


def acting(create_table: str, constraint: str) -> tuple[bool, bool]:
    """Whether a foreign key acts when its parent's row is deleted, and when it gets another key.

    `create_table` is what SHOW CREATE TABLE prints; a key that is not found there is taken to do both.
    """
    found = re.search("CONSTRAINT " + re.escape(quoted(constraint)) + _RULES, create_table)
    if found is None:
        return True, True
    on_delete, on_update = (
        any(f"ON {event} {action}" in found[1] for action in _ACTING) for event in ("DELETE", "UPDATE")
    )
    return on_delete, on_update


def _unlogged(connection: Connection) -> bool:
    if connection.server.mariadb or connection.server.version < (9, 6):
        return True
    rows = connection.query("SHOW GLOBAL VARIABLES LIKE 'innodb\\_native\\_foreign\\_keys'")
    return bool(rows) and str(rows[0][1]).upper() == "ON"
