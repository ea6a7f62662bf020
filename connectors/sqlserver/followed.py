"""The tables that a stream follows: by which capture instance each is read, and what has become of it.

A change table holds every change behind its low end, so a table may be read by any instance whose low end is not
ahead of the stream's position: by the newest of these. When the position reaches the low end of a newer one, the stream
goes over to that: up to there from the old one, from there on from the new one, no change twice and none left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from connectors.sqlserver.catalog import CatalogTable
from connectors.sqlserver.changetables import ChangeTable
from connectors.sqlserver.instances import Instance
from connectors.sqlserver.position import CdcPosition
from engine.changes import SchemaChange
from engine.schema import Identity, TableId, TableSchema, evolve

FIRST_ROWS = 2000
LEAST_ROWS = 2
MOST_ROWS = 20_000
"""Rows of one change table that are read at a time."""

GONE = "the table is gone, or is replicated no more"
GAP = "the change table was cleaned up, or made anew, before it was read"
CHANGED = "the table's definition changed"
RECREATED = "the table was dropped and created again"


@dataclass(slots=True)
class Followed:
    """One table that is followed. Changes up to `since` are in its data already. `reader` None: not looked up yet."""

    table: TableSchema
    since: int = 0
    reader: ChangeTable | None = None
    rows: int = field(default=FIRST_ROWS)
    """How many rows to read at a time, by what rows have measured so far."""

    def measured(self, rows: int, size: int, wanted: int) -> None:
        """Learn from `rows` rows of `size` bytes how many make about `wanted` bytes."""
        if rows:
            fitting = wanted * rows // max(size, 1)
            self.rows = max(LEAST_ROWS, min(MOST_ROWS, 2 * self.rows, fitting))


def usable(table: CatalogTable, at: int) -> Instance | None:
    """The newest capture instance that holds every change behind `at`."""
    return next((i for i in table.instances if i.start <= at), None)


class Following:
    """The followed tables against the catalog. A table that has to be loaded again is followed no more."""

    def __init__(self, tables: Iterable[Followed]) -> None:
        self._tables = list(tables)
        self._catalog: Mapping[int, CatalogTable] = {}

    @property
    def tables(self) -> Sequence[Followed]:
        return self._tables

    @property
    def object_ids(self) -> list[int]:
        return [int(f.table.source_id or 0) for f in self._tables]

    def learn(self, catalog: Iterable[CatalogTable]) -> None:
        """Take the catalog as it is now; `select` makes use of it."""
        self._catalog = {t.object_id: t for t in catalog}

    def turns(self, after: int) -> list[int]:
        """Low ends of capture instances behind `after`: places to go over to them."""
        starts = {i.start for o in self.object_ids if (t := self._catalog.get(o)) is not None for i in t.instances}
        return sorted(s for s in starts if s > after)

    def select(self, at: int) -> list[SchemaChange]:
        """Choose the instances for what lies behind `at`; says what has changed with that."""
        position = CdcPosition(at)
        out: list[SchemaChange] = []
        kept: list[Followed] = []
        for followed in self._tables:
            change = self._choose(followed, at)
            if change is not None:
                out.append(change)
            if change is None or (change.new is not None and not change.reload):
                kept.append(followed)
        self._tables = kept
        return [SchemaChange(position, c.old, c.new, c.reload, c.reason) for c in out]

    def _choose(self, followed: Followed, at: int) -> SchemaChange | None:
        old = followed.table
        nowhere = CdcPosition()
        table = self._catalog.get(int(old.source_id or 0))
        if table is None or not table.instances:
            successor = self._successor(old.id)
            if table is None and successor is not None:
                return SchemaChange(nowhere, old, successor.newest.schema, reload=True, reason=RECREATED)
            return SchemaChange(nowhere, old, None, reason=GONE)
        instance = usable(table, max(at, followed.since))
        if instance is None:
            return SchemaChange(nowhere, old, table.newest.schema, reload=True, reason=GAP)
        layout = table.layout(instance)
        if followed.reader is None or followed.reader.layout != layout:
            followed.reader = ChangeTable(layout)
        if layout.schema == old:
            return None
        reload = evolve(old, layout.schema) is None
        followed.table = layout.schema
        return SchemaChange(nowhere, old, layout.schema, reload=reload, reason=CHANGED)

    def _successor(self, name: TableId) -> CatalogTable | None:
        """A table of this name that is not followed by its own right."""
        ids = set(self.object_ids)
        found = (t for t in self._catalog.values() if t.id == name and t.object_id not in ids and t.instances)
        return next(found, None)

    def lost(self, starts: Mapping[int, int], after: int) -> list[Followed]:
        """Tables whose change table has, by now, lost changes behind `after`: its low end has passed it."""
        return [
            f
            for f in self._tables
            if f.reader is not None and starts.get(f.reader.instance.id, 1 << 80) > max(after, f.since)
        ]

    def reload(self, followed: Followed, at: int, reason: str) -> SchemaChange:
        """Follow the table no more: it has to be loaded again."""
        self._tables = [f for f in self._tables if f is not followed]
        return SchemaChange(CdcPosition(at), followed.table, followed.table, reload=True, reason=reason)

    def by_id(self, tables: Iterable[TableId]) -> list[Followed]:
        """The followed ones of these tables."""
        wanted = set(tables)
        return [f for f in self._tables if f.table.id in wanted]


def unfollowable(followed: Followed) -> bool:
    """Whether any change to the table asks for a reload."""
    return followed.table.identity is Identity.RELOAD
