"""Definitions: physical tables, the views that readers see, and changes of a live table's layout.

A user's table is a view ``schema.name`` over a physical table ``_reflex.t<N>``. To make a load copy live, or to rename
a table, the view is replaced, in the transaction that carries the data; readers keep the view of their own snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import duckdb

from engine.errors import ReplicaError
from engine.replica.catalog import Stored
from engine.replica.sql import CATALOG, INTERNAL, listed, literal, physical_name, quote, view_name
from engine.schema import AddColumn, ColumnChange, DropColumn, RenameColumn, TableId, TableSchema

_KEPT_SCHEMAS = frozenset({"main", INTERNAL})


def create_table(con: duckdb.DuckDBPyConnection, stored: Stored, compression: Mapping[int, str]) -> None:
    """Create the physical table of a copy. Without constraints and indexes: they would slow down and forbid changes.

    `compression`: by column index, as `engine.replica.compression` chooses it; the rest is left to DuckDB.
    """
    if not stored.columns:
        raise ReplicaError(f"{stored.layout.id} has no column to replicate: exclude the table")
    columns = enumerate(zip(stored.columns, stored.layout.columns, strict=True))
    definition = listed(
        f"{physical} {column.type}{f' USING COMPRESSION {compression[i]}' if i in compression else ''}"
        for i, (physical, column) in columns
    )
    con.execute(f"CREATE TABLE {physical_name(stored.number)} ({definition})")


def drop_table(con: duckdb.DuckDBPyConnection, number: int) -> None:
    """Drop a physical table."""
    con.execute(f"DROP TABLE IF EXISTS {physical_name(number)}")


def create_view(con: duckdb.DuckDBPyConnection, stored: Stored, others: Iterable[TableId]) -> None:
    """Show a copy to readers under its table's name, in place of what had that name.

    `others` are the tables shown besides: DuckDB's names do not distinguish letter case, so a second table that differs
    in case only is refused rather than put in the place of the first.
    """
    table = stored.layout.id
    for other in others:
        if other != table and str(other).casefold() == str(table).casefold():
            raise ReplicaError(f"{table} and {other} differ in letter case only: exclude one of them")
    if table.schema.casefold() in {INTERNAL, CATALOG}:
        raise ReplicaError(f"schema {table.schema} has a name that the engine uses itself: exclude {table}")
    columns = zip(stored.columns, stored.layout.columns, strict=True)
    selected = listed(f"{physical} AS {quote(column.name)}" for physical, column in columns)
    con.execute(f"CREATE SCHEMA IF NOT EXISTS {CATALOG}.{quote(table.schema)}")
    con.execute(f"CREATE OR REPLACE VIEW {view_name(table)} AS SELECT {selected} FROM {physical_name(stored.number)}")


def drop_view(con: duckdb.DuckDBPyConnection, table: TableId) -> None:
    """Hide a table from readers, and its schema when it was the last one in it."""
    con.execute(f"DROP VIEW IF EXISTS {view_name(table)}")
    if table.schema.casefold() in _KEPT_SCHEMAS:
        return
    left = con.execute(
        f"SELECT 1 FROM duckdb_views() WHERE database_name = '{CATALOG}' "
        f"AND lower(schema_name) = lower({literal(table.schema)}) LIMIT 1"
    ).fetchall()
    if not left:
        con.execute(f"DROP SCHEMA IF EXISTS {CATALOG}.{quote(table.schema)}")


def change_layout(
    con: duckdb.DuckDBPyConnection, stored: Stored, new: TableSchema, changes: Sequence[ColumnChange]
) -> Stored:
    """Bring a physical table from its layout to `new`; returns the copy as it is then. The view is the caller's.

    A rename touches nothing physical. Additions come before drops, because DuckDB keeps no table without columns.
    """
    table = physical_name(stored.number)
    physical = dict(zip(stored.layout.column_names, stored.columns, strict=True))
    drops: list[str] = []
    following = 1 + max(int(name[1:]) for name in stored.columns)
    for change in changes:
        match change:
            case DropColumn(name):
                drops.append(physical.pop(name))
            case RenameColumn(old, renamed):
                physical[renamed] = physical.pop(old)
            case AddColumn(column):
                physical[column.name] = f"c{following}"
                con.execute(f"ALTER TABLE {table} ADD COLUMN c{following} {column.type}")
                following += 1
    for name in drops:
        con.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
    if set(physical) != set(new.column_names):
        raise ReplicaError(f"{new.id}: the changes do not lead from the stored layout to the new one")
    return Stored(new, stored.number, tuple(physical[name] for name in new.column_names))
