"""Which of the chosen tables can be replicated beside each other, and which are left out, why, and how that is mended.

A table that cannot be is left out by itself: the others go on. What is left out is not in the replica, and is shown
as a failing check until someone mends it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from connectors.leftout import LeftOut
from connectors.postgres import publication
from connectors.postgres.catalog import Catalog, CatalogTable
from connectors.postgres.connection import Connection, fetch
from connectors.postgres.failures import remedies
from connectors.postgres.publication import Publication
from connectors.postgres.types import quoted
from engine.schema import TableId, TableSchema
from engine.source import SourceOptions

_MAY_READ = """
SELECT pg_catalog.has_schema_privilege(%s::text, 'USAGE')
       AND (pg_catalog.has_table_privilege(%s::int8::oid, 'SELECT') OR NOT EXISTS (
            SELECT FROM pg_catalog.unnest(%s::text[]) AS c
            WHERE NOT pg_catalog.has_column_privilege(%s::int8::oid, c, 'SELECT')))
"""
_READABLE_WHOLE = """
SELECT c.oid::int8 FROM pg_catalog.pg_class c WHERE c.oid::int8 = ANY(%s::int8[])
       AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
"""
_RENAME = "Rename one of them, or leave one out (`tables.exclude`, `tables.columns`)."


class Selection(NamedTuple):
    """The tables to replicate, and those that are left out."""

    tables: list[CatalogTable]
    left_out: list[LeftOut]


def select(connection: Connection, options: SourceOptions, base: str, known: Iterable[TableSchema] = ()) -> Selection:
    """Look at the catalog of now. `known`: what is replicated already, which keeps its place against newcomers."""
    names = publication.publication_names(base)
    candidates = Catalog(connection, options, names).candidates()
    chosen = [t for t in candidates if not t.hindrance]
    found = [publication.read_publication(connection, name) for name in names]
    in_place = {(t.source_id, t.id) for t in known}
    held = {t.oid for t in chosen if any(p is not None and p.holds(t) for p in found)}
    distinct = _told_apart(chosen, {t.oid for t in chosen if (t.schema.source_id, t.id) in in_place}, held)
    left_out = [*map(_without_key, (t for t in candidates if t.lost_key)), *distinct.left_out]
    tables = []
    for table in distinct.tables:
        # Where nothing is published yet, or not any more, it is the publications that are wrong: `ensure` says how. A
        # table that is published already is followed without being read.
        why = None
        if held and table.oid not in held and not may_read(connection, table):
            why = _unreadable(connection, table)
        elif held:
            why = _unpublishable(connection, base, table, found)
        if why is None:
            tables.append(table)
        else:
            left_out.append(why)
    return Selection(tables, left_out)


def readable(connection: Connection, options: SourceOptions) -> Selection:
    """The chosen tables that this role can read, for a source that is polled: nothing is published for it."""
    candidates = Catalog(connection, options).candidates()
    distinct = _told_apart([t for t in candidates if not t.hindrance], set(), set())
    left_out = [*map(_without_key, (t for t in candidates if t.lost_key)), *distinct.left_out]
    tables = []
    whole = readable_whole(connection, [t.oid for t in distinct.tables])
    for table in distinct.tables:
        if table.oid in whole or may_read(connection, table):
            tables.append(table)
        else:
            left_out.append(_unreadable(connection, table))
    return Selection(tables, left_out)


def readable_whole(connection: Connection, relations: Sequence[int]) -> set[int]:
    """Those of the relations (oids) that this role may SELECT from as a whole, and not only some columns of."""
    return {oid for (oid,) in fetch(connection, _READABLE_WHOLE, [list(relations)])}


def clashes(tables: Collection[TableId]) -> list[tuple[str, str]]:
    """Pairs of schemas, or of tables, whose names differ only in case: the replica is case-insensitive."""
    return _pairs(sorted({t.schema for t in tables}) + [str(t) for t in sorted(tables)])


def column_clashes(table: TableSchema) -> list[tuple[str, str]]:
    """Pairs of columns whose names differ only in case."""
    return _pairs(c.name for c in table.columns)


def _pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    seen: dict[str, str] = {}
    pairs = [(seen.setdefault(name.casefold(), name), name) for name in names]
    return [(a, b) for a, b in pairs if a != b]


def _without_key(table: CatalogTable) -> LeftOut:
    field = f"tables.columns.{table.id}.exclude"
    return LeftOut(table.id, table.hindrance, f"Take {', '.join(table.lost_key)} out of `{field}`.", field)


def _told_apart(tables: Sequence[CatalogTable], known: set[int], held: set[int]) -> Selection:
    """One table for each name that the replica can tell from the others: what is known, then what is published, then
    what is oldest stays. Of schemas that differ only in case, one stays with its tables."""
    left_out = []
    plain = []
    for table in tables:
        pairs = column_clashes(table.schema)
        if pairs:
            named = ", ".join(f"{a!r} and {b!r}" for a, b in pairs)
            left_out.append(LeftOut(table.id, f"its columns {named} differ only in case", _RENAME))
        else:
            plain.append(table)
    ranked = sorted(plain, key=lambda t: (t.oid not in known, t.oid not in held, t.oid))
    schemas: dict[str, str] = {}
    taken: dict[str, TableId] = {}
    kept: set[int] = set()
    for table in ranked:
        schema = schemas.setdefault(table.id.schema.casefold(), table.id.schema)
        if schema != table.id.schema:
            reason = f"its schema's name differs from {schema!r} only in case"
            left_out.append(LeftOut(table.id, reason, _RENAME))
            continue
        other = taken.setdefault(str(table.id).casefold(), table.id)
        if other != table.id:
            left_out.append(LeftOut(table.id, f"its name differs from {str(other)!r} only in case", _RENAME))
            continue
        kept.add(table.oid)
    return Selection([t for t in plain if t.oid in kept], left_out)


def _unpublishable(
    connection: Connection, base: str, table: CatalogTable, found: Sequence[Publication | None]
) -> LeftOut | None:
    """Why this role cannot have the table published, or None."""
    for wanted, existing in zip(publication.wanted_publications(base, [table]), found, strict=True):
        if not wanted.tables or (existing is not None and existing.holds(table)):
            continue
        ours = existing is None or existing.ours
        if existing is None and any(p is not None and not p.ours and p.holds(table) for p in found):
            continue
        if ours and owned(connection, table):
            continue
        statements = publication.mending(connection, wanted, existing, remove=False)
        run = f"{remedies(statements)} -- as a superuser"
        if ours:
            grant = f"GRANT {quoted(table.owner)} TO {_role(connection)};"
            return LeftOut(table.id, "this role does not own it, and so may not publish it", f"{run}; or: {grant}")
        return LeftOut(table.id, f"publication {wanted.name} belongs to another role and does not hold it", run)
    return None


def may_read(connection: Connection, table: CatalogTable) -> bool:
    """Whether this role may SELECT every replicated column."""
    columns = [c.name for c in table.schema.columns]
    return fetch(connection, _MAY_READ, [table.id.schema, table.oid, columns, table.oid]) == [(True,)]


def _unreadable(connection: Connection, table: CatalogTable) -> LeftOut:
    role = _role(connection)
    name = f"{quoted(table.id.schema)}.{quoted(table.id.name)}"
    remedy = f"GRANT USAGE ON SCHEMA {quoted(table.id.schema)} TO {role}; GRANT SELECT ON {name} TO {role};"
    return LeftOut(table.id, "this role may not read it", remedy)


def _role(connection: Connection) -> str:
    return quoted(str(fetch(connection, "SELECT current_user")[0][0]))


def owned(connection: Connection, table: CatalogTable) -> bool:
    """Whether this role may do what the table's owner may."""
    query = "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid::int8 = %s"
    return fetch(connection, query, [table.oid]) == [(True,)]
