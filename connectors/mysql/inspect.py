"""What the stream does not say: the catalog of now, compared with what the replica knows."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.mysql.position import BinlogPosition
from engine.changes import SchemaChange
from engine.schema import TableSchema


def compare(
    known: Sequence[TableSchema], tables: Sequence[TableSchema], position: BinlogPosition
) -> list[SchemaChange]:
    """The differences, which hold from `position` on. Tables are told apart by name: a renamed one is gone, and new.

    A table that was dropped and created again alike is not seen here: that is in the stream.
    """
    now = {t.id: t for t in tables}
    known_ids = {t.id for t in known}
    findings = []
    for old in known:
        new = now.get(old.id)
        if new is None:
            reason = "the table is gone, or is replicated no more"
            findings.append(SchemaChange(position, old, None, reason=reason))
        elif new != old:
            reason = "the table's definition changed"
            findings.append(SchemaChange(position, old, new, reload=True, reason=reason))
    fresh = (t for t in tables if t.id not in known_ids)
    return [*findings, *(SchemaChange(position, None, t, reason="a new table") for t in fresh)]
