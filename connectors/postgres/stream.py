"""From the receiver's inbox to change batches, and what the catalog says in between.

A batch is closed when it is full, or when `connectors.pace` says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from connectors.pace import Pace
from connectors.postgres.assembler import Assembler
from connectors.postgres.catalog import Catalog, CatalogTable
from connectors.postgres.connection import Connection, Connections, fetch
from connectors.postgres.failures import translated
from connectors.postgres.landmark import Landmark, Trail
from connectors.postgres.layouts import Described
from connectors.postgres.pgoutput import RelationInfo
from connectors.postgres.position import Lsn
from connectors.postgres.published import Published
from connectors.postgres.receiver import Frames, Keepalive, Receiver, joined
from connectors.postgres.selection import clashes, column_clashes
from connectors.postgres.storage import Storage, difference
from engine.changes import ChangeBatch, SchemaChange
from engine.schema import Identity, TableId, TableSchema
from engine.source import Follow, SourceOptions


def unseen_change(old: TableSchema, new: CatalogTable) -> str:
    """Why rows may have changed since `old` was looked at without the stream saying so, or nothing."""
    was = Storage.parse(old.storage)
    if was is None:
        return "" if old.storage == new.schema.storage else "it is not known what was done to it"
    before, after = ({c.id for c in t.columns if c.id is not None} for t in (old, new.schema))
    return difference(was, new.storage, before & after, new.labels, added=bool(after - before))


def in_place(old: TableSchema, new: TableSchema) -> TableSchema:
    """`new` with the traces of `old`: what `difference` finds harmless must not look like a rewrite."""
    return replace(new, storage=old.storage)


Accepted = dict[str | None, str | None]
"""Per table (`source_id`): the newest traces that inspection found harmless in this session. A partition that was seen
empty may have rows now, which were streamed. Inspection adds to it while the stream reads it."""


_VISIBLE_WITHIN = 1.0
"""Seconds for which a rename that the stream tells of may be invisible: a commit is in the log a moment earlier."""


def _not_visible_yet(relation: RelationInfo, old: TableSchema | None, now: TableId) -> bool:
    """Whether the catalog still has the followed name, while the stream has another one already."""
    return old is not None and now == old.id and now != TableId(relation.schema, relation.name)


class Descriptions:
    """Looks relations up in the catalog of now, over a connection of its own that is opened when first needed."""

    def __init__(
        self,
        connections: Connections,
        options: SourceOptions,
        publications: Sequence[str],
        followed: Sequence[TableSchema],
        accepted: Accepted,
    ) -> None:
        self._connections = connections
        self._options = options
        self._publications = publications
        self._followed = {t.source_id: t for t in followed}
        self._accepted = accepted
        self._last: dict[int, tuple[RelationInfo, Described]] = {}
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """The connection to ask over."""
        if self._connection is None:
            self._connection = self._connections.open("looking up a table's definition")
        return self._connection

    def describe(self, relation: RelationInfo) -> Described | None:
        """The relation as it is now, None when it is gone or not to be replicated."""
        last = self._last.pop(relation.oid, None)
        if last is not None and last[0] == relation and self._has_columns(relation.oid, last[1].table):
            described: Described | None = last[1]
        else:
            described = self._look_up(relation)
        if described is not None:
            self._last[relation.oid] = (relation, described)
        return described

    def _has_columns(self, oid: int, table: TableSchema) -> bool:
        """Whether the table's columns are still the same ones: every TRUNCATE has its relation described again."""
        query = (
            "SELECT attname, attnum::int4 FROM pg_catalog.pg_attribute WHERE attrelid = %s::int8::oid AND attnum > 0"
        )
        with translated("looking up a table's definition"):
            numbers = dict(fetch(self.connection(), query, [oid]))
        return all(numbers.get(c.name) == c.id for c in table.columns)

    def _look_up(self, relation: RelationInfo) -> Described | None:
        old = self._followed.get(str(relation.oid))
        deadline = time.monotonic() + _VISIBLE_WITHIN
        while True:
            with translated("looking up a table's definition"):
                found = Catalog(self.connection(), self._options, self._publications).candidates(relation.oid)
            if not found or not _not_visible_yet(relation, old, found[0].id) or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        if old is not None and self._comes_before_a_change(relation, old, found[0] if found else None):
            return Described(old, relation.layout)
        if not found or found[0].hindrance:
            return None
        table = found[0]
        schema = table.schema
        if self._cannot_be_told(schema):
            return None
        if old is not None and not unseen_change(self._with_accepted(old), table):
            schema = in_place(old, schema)
        if schema.identity is not Identity.RELOAD:
            self._followed[schema.source_id] = schema
        return Described(schema, table.layout, table.dropped)

    def _cannot_be_told(self, table: TableSchema) -> bool:
        """Whether names in it differ from each other, or from those of another followed table, only in case."""
        others = [t.id for t in self._followed.values() if t.source_id != table.source_id]
        return bool(column_clashes(table) or clashes([table.id, *others]))

    def _comes_before_a_change(self, relation: RelationInfo, old: TableSchema, now: CatalogTable | None) -> bool:
        """Whether these rows are still in the layout that is followed, while the catalog is already ahead of them.

        Then they are taken as they are, and the change is told when its own Relation message comes. Columns are
        matched in order, by name and type; what could hide a column that was dropped and added again is left to a
        reload.
        """
        if now is not None and now.id == old.id and now.layout == relation.layout:
            return False
        names = tuple(c.name for c in relation.columns if c.name in old.column_names)
        if (relation.schema, relation.name) != (old.id.schema, old.id.name) or names != old.column_names:
            return False
        connection = self.connection()
        with translated("looking up a table's definition"):
            types = fetch(
                connection,
                """SELECT pg_catalog.format_type(t.type, t.modifier)
                   FROM unnest(%s::int8[]::oid[], %s::int4[]) WITH ORDINALITY AS t (type, modifier, place)
                   ORDER BY t.place""",
                [[c.type_oid for c in relation.columns], [c.typmod for c in relation.columns]],
            )
            numbers = dict(
                fetch(
                    connection,
                    "SELECT attnum::int4, attisdropped FROM pg_catalog.pg_attribute "
                    "WHERE attrelid::int8 = %s AND attnum > 0",
                    [relation.oid],
                )
            )
        sent = {c.name: kind for c, (kind,) in zip(relation.columns, types, strict=True)}
        if any(sent[c.name] != c.source_type for c in old.columns):
            return False
        known = {c.id for c in old.columns}
        excluded = {c.name for c in relation.columns} - set(old.column_names)
        if now is None:
            return True
        added = {n for n in numbers if n not in known} - {now.numbers.get(name) for name in excluded}
        dropped = any(numbers[n] for n in added) or any(numbers.get(n, True) for n in known if n is not None)
        reused = any(name in sent for name, number in now.numbers.items() if number in added)
        return not (added and (dropped or reused))

    def told(self, change: SchemaChange) -> SchemaChange:
        """A schema change as the rest of the engine knows the table, which may have newer traces than the assembler."""
        if change.reload or change.old is None or change.new is None or change.old.storage != change.new.storage:
            return change
        return replace(change, old=self._with_accepted(change.old), new=self._with_accepted(change.new))

    def _with_accepted(self, table: TableSchema) -> TableSchema:
        return replace(table, storage=self._accepted.get(table.source_id, table.storage))

    def close(self) -> None:
        if self._connection is not None:
            self._connections.release(self._connection)
            self._connection = None


def batches(
    receiver: Receiver,
    after: Lsn,
    follow: Sequence[Follow],
    cuts: Sequence[Lsn],
    options: SourceOptions,
    descriptions: Descriptions,
    published: Published,
    trail: Trail,
    identify: Callable[[Landmark], str],
) -> Iterator[ChangeBatch | SchemaChange]:
    """Assemble what the receiver gets until it is closed. Raises what ended it.

    Nothing is given out that may lack something because the publications were altered.
    """
    assembler = Assembler(after, follow, cuts, options.batch_bytes, descriptions.describe, trail, identify)
    pace = Pace(options.batch_window, options.batch_bytes)
    inbox = receiver.inbox
    while True:
        items = inbox.take(pace.timeout(assembler), gather=pace.gather())
        if items is None:
            return
        if items:
            receiver.resume()
        for item in joined(items, options.batch_bytes // 4):
            match item:
                case Frames(frames, _, arrived):
                    pace.data(arrived)
                    for out in assembler.feed(frames):
                        pace.sent(assembler)
                        if isinstance(out, ChangeBatch):
                            published.verify()
                        yield descriptions.told(out) if isinstance(out, SchemaChange) else out
                case Keepalive(wal_end):
                    assembler.keepalive(wal_end)
        if pace.due(assembler, inbox.size):
            batch = assembler.flush()
            pace.sent(assembler)
            if batch is not None:
                published.verify()
                yield batch
