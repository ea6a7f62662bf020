"""A source database that lives in memory, with a log, a history of every state it was in, and faults on demand.

`FakeSource` fills the Source protocol over a `FakeDatabase`. Since the database remembers its state at every
position, a test can compare what a reader sees, at the position that the reader sees, with the truth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pyarrow as pa

from engine.changes import ChangeBatch, Op, Position, SchemaChange, TableChanges
from engine.errors import ResyncRequired, TransientError
from engine.schema import Column, Fill, Identity, TableId, TableSchema
from engine.source import Check, Follow, Part, SourceStatus, StreamState

Row = tuple[object, ...]
Rows = dict[int, Row]
ARROW = {"BIGINT": pa.int64(), "VARCHAR": pa.string()}


@dataclass(frozen=True, slots=True, order=True)
class Tick:
    """The fake's position: a counter of commits."""

    n: int

    def __str__(self) -> str:
        return f"tick/{self.n}"

    def covers(self, other: Position) -> bool:
        assert isinstance(other, Tick)
        return self.n >= other.n


@dataclass(frozen=True, slots=True)
class Change:
    """One row change: `row` is the new image (None for a delete), addressed by its first column."""

    table: TableId
    op: Op
    key: int
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed thing in the log: row changes, or a change of a table's definition."""

    position: Tick
    changes: tuple[Change, ...] = ()
    truncated: TableId | None = None
    schemas: Mapping[TableId, TableSchema] = field(default_factory=dict)
    """Every table's definition as of this commit. Like PostgreSQL, the stream tells of a new definition only when a
    row of it comes by; otherwise inspection finds it."""


@dataclass(slots=True)
class FakeDatabase:
    """Tables keyed by their first column, a log, and the state after every commit."""

    schemas: dict[TableId, TableSchema] = field(default_factory=dict)
    rows: dict[TableId, Rows] = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    history: list[dict[TableId, tuple[tuple[str, ...], Rows]]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    retained_from: int = 0
    next_oid: int = 100

    def __post_init__(self) -> None:
        self.history.append({})

    @property
    def position(self) -> Tick:
        return Tick(len(self.log))

    def create(self, name: str, *, identity: Identity = Identity.KEY) -> TableId:
        table = TableId("shop", name)
        self.next_oid += 1
        columns = (Column("id", "BIGINT", "bigint", id=1), Column("v", "BIGINT", "bigint", id=2))
        schema = TableSchema(table, columns, ("id",), identity, source_id=str(self.next_oid), storage="1")
        with self.changed:
            self.schemas[table] = schema
            self.rows[table] = {}
            self._append()
        return table

    def drop(self, table: TableId) -> None:
        with self.changed:
            del self.schemas[table]
            del self.rows[table]
            self._append()

    def add_column(self, table: TableId, name: str, *, default: object = None) -> None:
        with self.changed:
            old = self.schemas[table]
            fill = Fill.NULL if default is None else Fill.UNKNOWN
            self.next_oid += 1
            column = Column(name, "BIGINT", "bigint", id=self.next_oid, fill=fill)
            self.schemas[table] = replace(old, columns=(*old.columns, column))
            self.rows[table] = {k: (*row, default) for k, row in self.rows[table].items()}
            self._append()

    def drop_column(self, table: TableId) -> None:
        """Drop the last column (never the first two)."""
        with self.changed:
            old = self.schemas[table]
            if len(old.columns) <= 2:
                return
            self.schemas[table] = replace(old, columns=old.columns[:-1])
            self.rows[table] = {k: row[:-1] for k, row in self.rows[table].items()}
            self._append()

    def rename(self, table: TableId, name: str) -> TableId:
        with self.changed:
            old = self.schemas.pop(table)
            new = TableId(table.schema, name)
            self.schemas[new] = replace(old, id=new)
            self.rows[new] = self.rows.pop(table)
            self._append()
        return new

    def truncate(self, table: TableId) -> None:
        with self.changed:
            self.rows[table] = {}
            self._append(truncated=table)

    def commit(self, *wanted: tuple[TableId, int, int | None]) -> None:
        """One transaction: per (table, key, v) an upsert, or a delete when v is None."""
        with self.changed:
            changes = []
            for table, key, value in wanted:
                rows, width = self.rows[table], len(self.schemas[table].columns)
                if value is None:
                    if rows.pop(key, None) is not None:
                        changes.append(Change(table, Op.DELETE, key))
                    continue
                row = (key, value, *([value] * (width - 2)))
                changes.append(Change(table, Op.UPDATE if key in rows else Op.INSERT, key, row))
                rows[key] = row
            if changes:
                self._append(changes=tuple(changes))

    def _append(
        self,
        changes: tuple[Change, ...] = (),
        truncated: TableId | None = None,
    ) -> None:
        self.log.append(Entry(Tick(len(self.log) + 1), changes, truncated, dict(self.schemas)))
        self.history.append({t: (s.column_names, dict(self.rows[t])) for t, s in self.schemas.items()})
        self.changed.notify_all()


@dataclass(slots=True)
class Faults:
    """Errors to raise: each call of a faulty method takes one from its list."""

    stream: list[Exception] = field(default_factory=list)
    snapshot: list[Exception] = field(default_factory=list)
    read: list[Exception] = field(default_factory=list)
    apart: float = 0.0
    """Seconds that each part takes to read."""
    old_names: bool = False
    """The stream calls a renamed table by its old name: it has looked the table up before the rename was visible."""
    inexact: bool = False
    """Rows of keyed tables are read as they are then, not as they were when the snapshot was opened."""

    @staticmethod
    def strike(errors: list[Exception]) -> None:
        if errors:
            raise errors.pop(0)


class FakeSnapshot:
    """The database as it was when the snapshot was opened."""

    def __init__(self, database: FakeDatabase, wanted: Sequence[TableSchema], faults: Faults) -> None:
        with database.changed:
            self.position = database.position
            self.tables = [database.schemas[t.id] for t in wanted if t.id in database.schemas]
            self._rows = {t.id: dict(database.rows[t.id]) for t in self.tables}
        self._database = database
        self._faults = faults

    def settled(self) -> Tick:
        return self._database.position if self._faults.inexact else self.position

    def split(self, table: TableSchema) -> Sequence[Part]:
        return [Part(table, 0), Part(table, 1)]

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        Faults.strike(self._faults.read)
        if self._faults.apart:
            time.sleep(self._faults.apart)
        now = self._database.schemas.get(part.table.id)
        if now is None or now.columns != part.table.columns:
            raise ResyncRequired("altered under the snapshot", [part.table.id])
        view = self._rows[part.table.id]
        if self._faults.inexact and now.identity is Identity.KEY:
            with self._database.changed:
                view = dict(self._database.rows[part.table.id])
        rows = [r for k, r in sorted(view.items()) if k % 2 == part.token]
        if any(len(r) != len(part.table.columns) for r in rows):
            raise ResyncRequired("altered under the snapshot", [part.table.id])
        if rows:
            yield to_arrow(part.table, rows)


def to_arrow(table: TableSchema, rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows as a record batch of the table's columns."""
    columns = list(zip(*rows, strict=True))
    arrays = [pa.array(values, ARROW[c.type]) for c, values in zip(table.columns, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(table.column_names))


class FakeSource:
    """The Source protocol over a FakeDatabase."""

    def __init__(self, database: FakeDatabase, faults: Faults | None = None, *, fragment_rows: int = 4) -> None:
        self.database = database
        self.faults = faults or Faults()
        self.confirmed: Tick | None = None
        self.open_snapshots = 0
        """Views that are held at the source now: its log, or its old row versions, cannot be cleaned up meanwhile."""
        self._fragment_rows = fragment_rows
        self._closing = threading.Event()

    def check(self) -> Sequence[Check]:
        return [Check("fake", ok=True, detail="always there")]

    def discover(self, known: Sequence[TableSchema] = ()) -> Sequence[TableSchema]:
        del known
        return list(self.database.schemas.values())

    def prepare(self, tables: Sequence[TableSchema], after: Position | None, identity: str | None) -> StreamState:
        if after is None:
            return StreamState(None, "first start")
        assert isinstance(after, Tick)
        if identity != self.identity() or after.n < self.database.retained_from:
            return StreamState(None, "log gone")
        return StreamState(after)

    def identity(self) -> str:
        return "fake"

    @contextmanager
    def snapshot(self, tables: Sequence[TableSchema], *, start: bool) -> Iterator[FakeSnapshot]:
        Faults.strike(self.faults.snapshot)
        self.open_snapshots += 1
        try:
            yield FakeSnapshot(self.database, tables, self.faults)
        finally:
            self.open_snapshots -= 1

    def stream(
        self, after: Position, follow: Sequence[Follow], cuts: Sequence[Position] = ()
    ) -> Iterator[ChangeBatch | SchemaChange]:
        assert isinstance(after, Tick)
        followed = {f.table.source_id: f for f in follow}
        stops = {p.n for p in [*cuts, *(f.since for f in follow)] if isinstance(p, Tick)}
        at = after.n
        while not self._closing.is_set():
            with self.database.changed:
                if len(self.database.log) <= at:
                    self.database.changed.wait(0.02)
                entries = self.database.log[at : at + 3]
            for entry in entries:
                Faults.strike(self.faults.stream)
                at = entry.position.n
                yield from self._emit(entry, followed)
                if at in stops:
                    yield ChangeBatch(Tick(at))

    def _emit(self, entry: Entry, followed: dict[str | None, Follow]) -> Iterator[ChangeBatch | SchemaChange]:
        touched = {c.table for c in entry.changes} | ({entry.truncated} if entry.truncated is not None else set())
        for table in sorted(touched):
            then = entry.schemas[table]
            known = followed.get(then.source_id)
            if known is not None and (known.table == then or self._passed(entry, known)):
                continue
            if known is not None and self.faults.old_names and known.table.columns == then.columns:
                continue
            with self.database.changed:
                now = next((t for t in self.database.schemas.values() if t.source_id == then.source_id), None)
            if known is not None and known.table == now and now.columns == then.columns:
                continue  # the row comes from before a rename that is known already
            if known is not None:
                reload = now is not None and now.columns != then.columns
                yield SchemaChange(Tick(entry.position.n - 1), known.table, now, reload=reload)
                followed[then.source_id] = Follow(then if now is None or reload else now)
            elif now is not None:
                yield SchemaChange(Tick(entry.position.n - 1), None, now)
        pieces = list(self._pieces(entry, followed))
        for piece in pieces[:-1]:
            yield ChangeBatch(Tick(entry.position.n - 1), (piece,), complete=False)
        last = tuple(pieces[-1:])
        yield ChangeBatch(entry.position, last, commit_time=time.time(), transactions=1)

    def _pieces(self, entry: Entry, followed: dict[str | None, Follow]) -> Iterator[TableChanges]:
        # Tables are told apart by what a rename keeps, as PostgreSQL does by oid.
        ids = {t: followed[s.source_id] for t, s in entry.schemas.items() if s.source_id in followed}
        if entry.truncated is not None:
            known = ids.get(entry.truncated)
            if known is not None and not self._passed(entry, known):
                empty = pa.array([], pa.int8())
                yield TableChanges(known.table, empty, _empty(known.table), truncate=True)
        mine = [c for c in entry.changes if c.table in ids and not self._passed(entry, ids[c.table])]
        for start in range(0, len(mine), self._fragment_rows):
            by_table: dict[TableId, list[Change]] = {}
            for change in mine[start : start + self._fragment_rows]:
                by_table.setdefault(change.table, []).append(change)
            for table, changes in by_table.items():
                schema = ids[table].table
                width = len(schema.columns)
                rows = [c.row if c.row is not None else (c.key, *([None] * (width - 1))) for c in changes]
                assert all(len(r) == width for r in rows), "row of another layout: the schema change was passed over"
                ops = pa.array([int(c.op) for c in changes], pa.int8())
                yield TableChanges(schema, ops, to_arrow(schema, rows))

    @staticmethod
    def _passed(entry: Entry, known: Follow) -> bool:
        return known.since is not None and known.since.covers(entry.position)

    def confirm(self, position: Position) -> None:
        assert isinstance(position, Tick)
        self.confirmed = position

    def inspect(self, known: Sequence[TableSchema]) -> Sequence[SchemaChange]:
        with self.database.changed:
            now, position = dict(self.database.schemas), self.database.position
        by_source = {t.source_id: t for t in now.values()}
        found: list[SchemaChange] = []
        for table in known:
            current = by_source.pop(table.source_id, None)
            if current != table:
                found.append(SchemaChange(position, table, current))
        known_ids = {t.source_id for t in known}
        found += [SchemaChange(position, None, t) for s, t in by_source.items() if s not in known_ids]
        return found

    def status(self) -> SourceStatus:
        if self._closing.is_set():
            raise TransientError("closed")
        return SourceStatus(self.database.position, 0)

    def parse_position(self, text: str) -> Tick:
        kind, _, number = text.partition("/")
        if kind != "tick" or not number.isdigit():
            raise ValueError("not a position of the fake source")
        return Tick(int(number))

    def teardown(self) -> Sequence[str]:
        return []

    def close(self) -> None:
        self._closing.set()


def _empty(table: TableSchema) -> pa.RecordBatch:
    arrays = [pa.array([], ARROW[c.type]) for c in table.columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(table.column_names))


Seen = Mapping[TableId, tuple[tuple[str, ...], Rows]]
