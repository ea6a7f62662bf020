"""Tables read for loading, without long locks, and the positions between which the stream makes them one state.

Streaming continues at P, which is noted first: everything up to there is in the tables. Tables with a key are read by
statements of their own, each a view of its own somewhat later than P: the stream from P on brings what they saw up to date,
and once it covers `settled`, where the log ended when the reading was done, they are a committed state. With
ALLOW_SNAPSHOT_ISOLATION such a statement neither waits nor makes others wait; without it, it reads as READ COMMITTED does,
under short row locks: a row that it sees twice or not at all was moved, and so is in the stream.

Tables without a key must be read as of exactly P, all of them in one SNAPSHOT transaction. They are locked for reading for
the moment in which that is opened and P is noted: whatever changed them had ended by then, or begins afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa

from connectors.sqlserver import capture
from connectors.sqlserver.catalog import Catalog, CatalogTable
from connectors.sqlserver.connection import Connection, Connections
from connectors.sqlserver.database import Database
from connectors.sqlserver.failures import DRIVER_ERRORS, GONE, LOCK_TIMEOUT, altered, number_of
from connectors.sqlserver.layouts import Layout
from connectors.sqlserver.position import CdcPosition
from connectors.sqlserver.selection import select
from connectors.sqlserver.types import quoted
from connectors.sqlserver.values import RowReader
from engine.errors import PreconditionError, TransientError
from engine.schema import Identity, TableId, TableSchema
from engine.source import Part, SourceOptions

PART_BYTES = 64 << 20
"""Size of the parts that a big table is cut into, by ranges of its key."""
MOST_PARTS = 256
SNAPSHOT_LEVEL = "SET TRANSACTION ISOLATION LEVEL SNAPSHOT"
_LOCK_MILLISECONDS, _LOCK_TRIES = 2000, 5
"""For how long a lock is waited for (and others wait behind it), and how often."""
_INTEGERS = frozenset({"tinyint", "smallint", "int", "bigint"})


@dataclass(frozen=True, slots=True)
class Range:
    """A range of the first key column: from `low` up to (exclusive) `high`; None: open."""

    low: int | None = None
    high: int | None = None

    def condition(self, column: str) -> str:
        """The WHERE clause, with its leading space; empty for everything."""
        parts = [f"{column} >= {self.low}"] if self.low is not None else []
        parts += [f"{column} < {self.high}"] if self.high is not None else []
        return f" WHERE {' AND '.join(parts)}" if parts else ""


class SqlServerSnapshot:
    """The tables at or after `position`. Connections are kept from part to part; several threads may read at once.

    `least`: a position that the stream has reached already. `settle` is told every position that is handed out.
    """

    def __init__(
        self,
        connections: Connections,
        options: SourceOptions,
        tables: Sequence[TableSchema],
        least: int,
        settle: Callable[[int], None],
    ) -> None:
        self._connections = connections
        self._options = options
        self._settle = settle
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._exact: Connection | None = None
        self._exact_lock = threading.Lock()
        self._catalog: dict[TableId, CatalogTable] = {}
        self._layouts: dict[TableId, Layout] = {}
        self._versioned = False
        try:
            with connections.session("opening a snapshot") as connection:
                self._position = CdcPosition(self._open(connection, {t.id for t in tables}, least))
        except BaseException:
            self.close()
            raise
        settle(self._position.lsn)

    @property
    def position(self) -> CdcPosition:
        return self._position

    @property
    def tables(self) -> Sequence[TableSchema]:
        return [layout.schema for layout in self._layouts.values()]

    def settled(self) -> CdcPosition:
        with self._session("asking for the end of the log") as connection:
            end = max(capture.log_end(connection), self._position.lsn)
        self._settle(end)
        return CdcPosition(end)

    def split(self, table: TableSchema) -> Sequence[Part]:
        """Cut a big table into ranges of its key's first column, if that is a whole number."""
        ranges = self._ranges(self._layouts[table.id])
        return [Part(table, each, table.estimated_rows // len(ranges)) for each in ranges]

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        """Read one part. Raises ResyncRequired when the table is no longer the one that was looked up."""
        if not isinstance(part.token, Range):
            raise TypeError("not a part of this snapshot")
        layout = self._layouts[part.table.id]
        doing = f"reading {part.table.id}"
        if not _needs_exact(layout):
            with self._session(doing) as connection:
                yield from read_range(connection, self._connections, layout, part.token)
            return
        with self._exact_lock, self._connections.translated(doing):
            if self._exact is None:
                raise TransientError(f"{doing}: the session with the view was lost")
            done = False
            try:
                yield from read_range(self._exact, self._connections, layout, part.token)
                done = True
            finally:
                if not done:
                    self._exact.close()
                    self._exact = None

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        if self._exact is not None:
            self._exact.close()
            self._exact = None

    def _open(self, connection: Connection, wanted: set[TableId], least: int) -> int:
        """Note P and look the tables up; open the view of those that need one at exactly P."""
        self._versioned = Database.read(connection).snapshot_isolation
        end = capture.max_lsn(connection)
        candidates = [t for t in Catalog(connection, self._options).candidates() if t.id in wanted]
        self._catalog = {t.id: t for t in select(candidates, connection.user).tables}
        self._layouts = {i: t.newest for i, t in self._catalog.items()}
        # Whatever a capture instance has not captured had committed when it was made, and can be read.
        starts = [t.instances[0].start for t in self._catalog.values()]
        exact = [layout for layout in self._layouts.values() if _needs_exact(layout)]
        if not exact:
            return max([end, least, *starts])
        if not self._versioned:
            raise PreconditionError(
                f"{exact[0].schema.id} has no key: it can only be loaded under SNAPSHOT isolation",
                f"Give it a primary key, or: ALTER DATABASE {quoted(connection.database)} "
                "SET ALLOW_SNAPSHOT_ISOLATION ON;",
            )
        return max([self._open_exact(connection, exact), least, *starts])

    def _open_exact(self, connection: Connection, layouts: Sequence[Layout]) -> int:
        """Open the view of tables without a key; returns where in the log it is."""
        doing = "opening a view of tables without a key"
        exact = self._exact = self._connections.open(doing)
        with self._connections.translated(doing):
            exact.statement(SNAPSHOT_LEVEL)
            for attempt in range(_LOCK_TRIES):
                if self._lock_tables(connection, layouts, last=attempt == _LOCK_TRIES - 1):
                    break
            try:
                exact.statement("BEGIN TRANSACTION")
                # The view is taken by the first read of data.
                exact.query(f"SELECT TOP (1) 1 FROM {name(layouts[0].schema.id)}")
                return capture.log_end(connection)
            finally:
                connection.statement("COMMIT TRANSACTION; SET LOCK_TIMEOUT 60000")

    def _lock_tables(self, connection: Connection, layouts: Sequence[Layout], *, last: bool) -> bool:
        """Lock the tables for reading, in an order that is always the same; whether it was done."""
        connection.statement(f"SET LOCK_TIMEOUT {_LOCK_MILLISECONDS}; BEGIN TRANSACTION")
        try:
            for table in sorted(layout.schema.id for layout in layouts):
                # Not TOP (0): the server answers that without looking at the table, and locks nothing.
                connection.query(f"SELECT TOP (1) 1 FROM {name(table)} WITH (TABLOCK, HOLDLOCK)")
        except DRIVER_ERRORS as error:
            with suppress(*DRIVER_ERRORS):
                # A deadlock has rolled it back already.
                connection.statement("ROLLBACK TRANSACTION")
            if number_of(error) != LOCK_TIMEOUT or last:
                raise
            return False
        return True

    def _ranges(self, layout: Layout) -> list[Range]:
        schema = layout.schema
        count = min(schema.estimated_bytes // PART_BYTES, MOST_PARTS)
        if count < 2 or not schema.key or _needs_exact(layout):
            return [Range()]
        first = next(f for f in layout.fields if f.definition.name == schema.key[0])
        if first.definition.base not in _INTEGERS:
            return [Range()]
        column = quoted(schema.key[0])
        with self._session("measuring a table") as connection:
            ends = connection.query_one(f"SELECT MIN({column}), MAX({column}) FROM {name(schema.id)}")
        if ends is None or ends[0] is None or ends[1] - ends[0] < count:
            return [Range()]
        low, high = int(ends[0]), int(ends[1])
        edges = [low + (high - low) * i // count for i in range(1, count)]
        return [Range(a, b) for a, b in zip([None, *edges], [*edges, None], strict=True)]

    @contextmanager
    def _session(self, doing: str) -> Iterator[Connection]:
        """An idle connection, or a new one. After an error, or in the middle of a result, it is not used again."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connections.open(doing)
        done = False
        try:
            with self._connections.translated(doing):
                if self._versioned:
                    connection.statement(SNAPSHOT_LEVEL)
                yield connection
            done = True
        finally:
            if done:
                with self._lock:
                    self._idle.append(connection)
            else:
                connection.close()


def _needs_exact(layout: Layout) -> bool:
    """Whether the table must be read as of exactly the snapshot's position."""
    return layout.schema.identity is Identity.ROW


def read_range(
    connection: Connection, connections: Connections, layout: Layout, rows: Range
) -> Iterator[pa.RecordBatch]:
    """Run one SELECT and convert its rows as they arrive. Leaves the connection fit for use only when it ends."""
    schema = layout.schema
    where = rows.condition(quoted(schema.key[0])) if schema.key else ""
    columns = ", ".join(f.table_sql for f in layout.fields)
    reader = RowReader(schema.id, [(f.definition, f.as_text) for f in layout.fields])
    try:
        for some in connection.fetch(f"SELECT {columns} FROM {name(schema.id)}{where}"):
            connections.refuse_closed(f"reading {schema.id}")
            yield reader.rows(some)
    except DRIVER_ERRORS as error:
        if number_of(error) in GONE:
            raise altered(schema.id, "was altered or dropped") from None
        raise


def name(table: TableId) -> str:
    """The table's name in T-SQL."""
    return f"{quoted(table.schema)}.{quoted(table.name)}"
