"""Which of the chosen tables can be replicated beside each other, and which are left out, why, and how that is mended.

A table that cannot be is left out by itself: the others go on. What is left out is not in the replica, and is shown
as a failing check until someone mends it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from connectors.leftout import LeftOut
from connectors.mysql.catalog import Catalog, CatalogTable
from connectors.mysql.connection import Connection
from connectors.mysql.failures import DRIVER_ERRORS, number_of
from connectors.mysql.grants import READ, Grants
from connectors.mysql.types import quoted
from engine.schema import TableId, TableSchema
from engine.source import SourceOptions

RIGHT, _NAMES = "grant SELECT", "identifiers"
_RENAME = "Rename one of them, or leave one out (`tables.exclude`, `tables.columns`)."


class Selection(NamedTuple):
    """The tables to replicate, and those that are left out."""

    tables: list[CatalogTable]
    left_out: list[LeftOut]


def select(
    connection: Connection, options: SourceOptions, known: Iterable[TableSchema] = (), *, read: bool = True
) -> Selection:
    """Look at the catalog of now. `known`: what is replicated already, which keeps its name against newcomers.

    `read`: the known tables were read by this process, and are not tried again. Tables that no one can follow (of other
    storage engines) are in neither list: `check` tells of them.
    """
    ids = {t.id for t in known}
    candidates = Catalog(connection, options).candidates()
    return _select(connection, options, candidates, ids, {}, readable=ids if read else ())


def look_up(
    connection: Connection, options: SourceOptions, table: TableId, known: Collection[TableId]
) -> CatalogTable | None:
    """One table as `select` would have it; None where it is not there, or not to be replicated."""
    found = Catalog(connection, options).table(table)
    if found is None:
        return None
    taken = {t.name.casefold(): t for t in known if t != table}
    chosen = _select(connection, options, [found], set(known), taken, readable=known).tables
    return chosen[0] if chosen else None


def _select(
    connection: Connection,
    options: SourceOptions,
    candidates: Sequence[CatalogTable],
    known: Collection[TableId],
    taken: dict[str, TableId],
    *,
    readable: Collection[TableId],
) -> Selection:
    """`taken`: tables by their names in one case, which others may not have. `readable`: what need not be tried."""
    left_out = [_without_key(t) for t in candidates if t.lost_key]
    followable = [t for t in candidates if not t.hindrance]
    unread = _unreadable(connection, options, [t for t in followable if t.id not in readable])
    tables = []
    for table in sorted(followable, key=lambda t: (t.id not in known, t.created, t.id)):
        why = _clash(table) or unread.get(table.id)
        if why is None:
            other = taken.setdefault(table.id.name.casefold(), table.id)
            if other != table.id:
                why = LeftOut(table.id, f"its name differs from {str(other)!r} only in case", _RENAME, name=_NAMES)
        if why is None:
            tables.append(table)
        else:
            left_out.append(why)
    return Selection(sorted(tables, key=lambda t: t.id), left_out)


def _without_key(table: CatalogTable) -> LeftOut:
    """Why a table is left out of whose key a column is excluded."""
    field = f"tables.columns.{table.id}.exclude"
    return LeftOut(table.id, table.hindrance, f"Take {', '.join(table.lost_key)} out of `{field}`.", field)


def _unreadable(
    connection: Connection, options: SourceOptions, tables: Sequence[CatalogTable]
) -> dict[TableId, LeftOut]:
    """Those of the tables that the user may not read; the server shows them to whoever has any right on them."""
    if not tables:
        return {}
    grants = Grants.read(connection)
    if grants.on_database(READ, options.database):
        return {}
    reason, remedy = f"{grants.account} may not read it", grants.statement(READ, options.database)
    return {t.id: LeftOut(t.id, reason, remedy, name=RIGHT) for t in tables if not _may_read(connection, t)}


def partly_readable(
    connection: Connection, options: SourceOptions, tables: Iterable[CatalogTable], grants: Grants
) -> list[CatalogTable]:
    """Those of the tables that may have more columns than the user sees: the server hides what it may not read."""
    if grants.on_database(READ, options.database):
        return []
    return [t for t in tables if not _may_read(connection, t, "*")]


def _may_read(connection: Connection, table: CatalogTable, columns: str = "") -> bool:
    columns = columns or ", ".join(quoted(c.name) for c in table.schema.columns)
    try:
        connection.query(f"SELECT {columns} FROM {quoted(table.id.schema)}.{quoted(table.id.name)} LIMIT 0")
    except DRIVER_ERRORS as error:
        if number_of(error) is None:
            raise
        return False
    return True


def _clash(table: CatalogTable) -> LeftOut | None:
    """Columns whose names differ only in case: MySQL has none, a table of another server may."""
    seen: dict[str, str] = {}
    for name in table.schema.column_names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            return LeftOut(table.id, f"its columns {other!r} and {name!r} differ only in case", _RENAME, name=_NAMES)
    return None
