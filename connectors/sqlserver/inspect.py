"""What the stream does not say: the catalog of now, compared with what the replica knows."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.sqlserver.followed import CHANGED, GONE, RECREATED
from connectors.sqlserver.position import CdcPosition
from engine.changes import SchemaChange
from engine.schema import TableSchema, evolve


def compare(known: Sequence[TableSchema], tables: Sequence[TableSchema], position: CdcPosition) -> list[SchemaChange]:
    """The differences, which hold from `position` on. Tables are told apart by object id: a rename is one finding."""
    now = {t.source_id: t for t in tables}
    names = {t.id: t for t in tables}
    known_ids = {t.source_id for t in known}
    replaced = set()
    findings = []
    for old in known:
        new = now.get(old.source_id)
        if new is None:
            successor = names.get(old.id)
            if successor is not None and successor.source_id not in known_ids:
                replaced.add(successor.id)
                findings.append(SchemaChange(position, old, successor, reload=True, reason=RECREATED))
            else:
                findings.append(SchemaChange(position, old, None, reason=GONE))
        elif new != old:
            findings.append(SchemaChange(position, old, new, reload=evolve(old, new) is None, reason=CHANGED))
    fresh = (t for t in tables if t.source_id not in known_ids and t.id not in replaced)
    return [*findings, *(SchemaChange(position, None, t, reason="a new table") for t in fresh)]
