"""What the stream does not say: one round of catalog queries, compared with what the replica knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from connectors.leftout import LeftOut
from connectors.postgres import publication
from connectors.postgres.catalog import Catalog, CatalogTable, touched, with_touched
from connectors.postgres.connection import Connection
from connectors.postgres.position import Lsn
from connectors.postgres.selection import select
from connectors.postgres.slot import wal_position
from connectors.postgres.stream import in_place, unseen_change
from engine.changes import SchemaChange
from engine.schema import TableSchema, evolve
from engine.source import SourceOptions


def inspect(
    connection: Connection, options: SourceOptions, base: str, known: Sequence[TableSchema]
) -> tuple[list[SchemaChange], list[LeftOut]]:
    """Compare the tables of now with `known`, after mending the publications; also which tables are left out.

    A table that was out of its publication for a time is put back, and shows by the traces that this leaves. The
    findings hold from the end of the log as it is after all has been read: whatever was found committed before it.
    """
    names = publication.publication_names(base)
    tables, left_out = select(connection, options, base, known)
    if publication.ensure(connection, base, tables, remove=True).changed:
        chosen = {t.oid for t in tables}
        tables = [t for t in Catalog(connection, options, names).tables() if t.oid in chosen]
    tables = with_touched(tables, touched(connection, tables))
    findings = compare(known, tables)
    position = wal_position(connection)
    return [replace(finding, position=position) for finding in findings], left_out


def compare(known: Sequence[TableSchema], tables: Sequence[CatalogTable]) -> list[SchemaChange]:
    """The findings, at a position to be filled in. Tables are told apart by oid, so a rename is one finding.

    Traces that differ harmlessly are a finding that evolves without steps, so that they are remembered; together with
    a change of the definition they wait for the next inspection.
    """
    nowhere = Lsn(0)
    now = {t.schema.source_id: t for t in tables}
    names = {t.id: t for t in tables}
    known_ids = {t.source_id for t in known}
    findings = []
    replaced = set()
    for old in known:
        table = now.get(old.source_id)
        if table is None:
            successor = names.get(old.id)
            if successor is not None and successor.schema.source_id not in known_ids:
                replaced.add(successor.id)
                reason = "the table was dropped and created again"
                findings.append(SchemaChange(nowhere, old, successor.schema, reload=True, reason=reason))
                continue
            findings.append(SchemaChange(nowhere, old, None, reason="the table is gone, or is replicated no more"))
            continue
        reason = unseen_change(old, table)
        if reason:
            findings.append(SchemaChange(nowhere, old, table.schema, reload=True, reason=reason))
            continue
        new = in_place(old, table.schema)
        if new == old:
            new = table.schema
        if new != old:
            reload = evolve(old, new) is None
            findings.append(SchemaChange(nowhere, old, new, reload, "the table's definition changed"))
    fresh = (t for t in tables if t.schema.source_id not in known_ids and t.id not in replaced)
    findings += [SchemaChange(nowhere, None, t.schema, reason="a new table") for t in fresh]
    return findings
