"""Tables read for loading, without a global lock, and the positions between which the stream makes them one state.

Streaming continues at P, which is noted first. Tables with a key are read by statements of their own, each a view of
its own somewhat later than P: the stream from P on brings what they saw up to date, and once it covers `settled`, which
is asked when the reading is done, they are a committed state. No view is held longer than one part is read.

Tables without a key must be read as of exactly P, all of them in one transaction. MariaDB says the position of a view.
MySQL does not: there these tables alone are locked for reading, for the moment in which the view is opened.
"""

from __future__ import annotations

import itertools
import re
import select
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from connectors.mysql import history
from connectors.mysql.catalog import Catalog, CatalogTable
from connectors.mysql.connection import Connection, Connections
from connectors.mysql.failures import (
    DATABASE_ACCESS_DENIED,
    DEFINITION_CHANGED,
    DRIVER_ERRORS,
    LOCK_WAIT_TIMEOUT,
    NO_SUCH_TABLE,
    TABLE_ACCESS_DENIED,
    UNKNOWN_COLUMN,
    altered,
    number_of,
    server_error,
)
from connectors.mysql.gtids import GtidSet, MariadbGtids
from connectors.mysql.pieces import Piece, cut
from connectors.mysql.position import BinlogPosition
from connectors.mysql.resultset import Mismatch, ResultReader
from connectors.mysql.types import NO_SUCH_DAY, quoted
from engine.errors import EngineError, PreconditionError, TransientError, UnsupportedValue
from engine.schema import Identity, TableId, TableSchema
from engine.source import Part, SourceOptions

PART_BYTES = 16 << 20
"""Size of the parts that a big table is cut into, by ranges of its key."""
BATCH_BYTES = 4 << 20
"""Bytes of rows after which a record batch is made."""
SILENCE = 600.0
"""Seconds for which the server may send nothing while a part is read (it looks for the first row)."""
LOCK_WAIT, LOCK_TRIES = 2, 5
"""Seconds for which a lock is waited for (and others wait behind it), and how often."""
_COMMITTING = 10.0
"""Seconds for which transactions that are being committed are waited for."""
_RECEIVE = 1 << 20
_PAUSE = 50
"""Milliseconds without a byte after which the rows that are there are made a batch."""
_INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
_GONE = frozenset({NO_SUCH_TABLE, UNKNOWN_COLUMN, DEFINITION_CHANGED, 1932, 1051, 1707})
_CONSISTENT = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"


class MysqlSnapshot:
    """The tables at or after `position`. Connections are kept from part to part; several threads may read at once."""

    def __init__(self, connections: Connections, options: SourceOptions, tables: Sequence[TableSchema]) -> None:
        self._connections = connections
        self._options = options
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._exact: Connection | None = None
        self._exact_lock = threading.Lock()
        self._catalog: dict[TableId, CatalogTable] = {}
        try:
            with connections.session("opening a snapshot") as connection:
                self._node = history.look(connection)
                self._position = self._open(connection, {t.id for t in tables})
        except BaseException:
            self.close()
            raise

    @property
    def position(self) -> BinlogPosition:
        return self._position

    @property
    def tables(self) -> Sequence[TableSchema]:
        return [t.schema for t in self._catalog.values()]

    def settled(self) -> BinlogPosition:
        with self._session("asking for the end of the log") as connection:
            return self._end(connection)

    def split(self, table: TableSchema) -> Sequence[Part]:
        """Cut a big table into ranges of its key's first column, if that is a whole number."""
        pieces = self._pieces(self._catalog[table.id])
        return [Part(table, piece, table.estimated_rows // len(pieces)) for piece in pieces]

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        """Read one part. Raises ResyncRequired when the table is no longer the one that was looked up."""
        if not isinstance(part.token, Piece):
            raise TypeError("not a part of this snapshot")
        entry = self._catalog[part.table.id]
        doing = f"reading {entry.id}"
        if not _needs_exact(entry):
            with self._session(doing) as connection:
                yield from read_piece(connection, entry, part.token)
            return
        with self._exact_lock, self._connections.translated(doing):
            if self._exact is None:
                raise TransientError(f"{doing}: the snapshot was closed")
            try:
                yield from read_piece(self._exact, entry, part.token)
            finally:
                if self._exact is not None and self._exact.busy:
                    self._connections.release(self._exact)
                    self._exact = None

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            self._connections.release(connection)
        if self._exact is not None:
            self._connections.release(self._exact)
            self._exact = None

    def _open(self, connection: Connection, wanted: set[TableId]) -> BinlogPosition:
        """Note P and look the tables up; open the view of those that need one at exactly P."""
        if self._node.mariadb:
            position = self._view_of_mariadb()
            self._look_up(connection, wanted)
            return position
        self._look_up(connection, wanted)
        # Without GTIDs, the log's end may lie behind transactions that no view shows yet; a lock waits for them.
        tables = [t for t in self._catalog.values() if _needs_exact(t) or not self._node.by_gtid]
        if not tables:
            return history.log_position(connection, self._node)
        return self._view_under_lock(tables)

    def _look_up(self, connection: Connection, wanted: set[TableId]) -> None:
        self._catalog = {t.id: t for t in Catalog(connection, self._options).tables() if t.id in wanted}

    def _view_of_mariadb(self) -> BinlogPosition:
        self._exact = exact = self._connections.open("opening a snapshot")
        with self._connections.translated("opening a snapshot"):
            exact.statement(_CONSISTENT)
            found = {
                str(name).lower(): str(value) for name, value in exact.query("SHOW STATUS LIKE 'binlog_snapshot%'")
            }
            file, offset = found.get("binlog_snapshot_file", ""), int(found.get("binlog_snapshot_position") or 0)
            if not file:
                raise PreconditionError("the server writes no binary log", "Start it with log_bin.")
            row = exact.query_one("SELECT BINLOG_GTID_POS(%s, %s)", [file, offset])
        return BinlogPosition(file, offset, MariadbGtids.parse(str(row[0] or "")) if row else None)

    def _view_under_lock(self, tables: Sequence[CatalogTable]) -> BinlogPosition:
        """Open the view while these tables are locked for reading: whatever changed them is committed, and visible."""
        self._exact = exact = self._connections.open("opening a snapshot")
        names = ", ".join(f"{_name(t.id)} READ" for t in tables)
        for attempt in itertools.count(1):
            # A session of its own: whatever happens, its end ends the lock.
            with self._connections.session("locking tables for a moment") as locking:
                locking.statement(f"SET SESSION lock_wait_timeout = {LOCK_WAIT}")
                if not self._locked(locking, names, tables, last=attempt == LOCK_TRIES):
                    continue
                with self._connections.translated("opening a snapshot"):
                    if {t.id: t for t in tables} != {t.id: self._now(exact, t.id) for t in tables}:
                        raise TransientError("opening a snapshot: a table was altered meanwhile")
                    position = history.log_position(exact, self._node)
                    exact.statement(_CONSISTENT)
                locking.statement("UNLOCK TABLES")
                return position
        raise AssertionError

    def _now(self, connection: Connection, table: TableId) -> CatalogTable | None:
        return Catalog(connection, self._options).table(table)

    @staticmethod
    def _locked(connection: Connection, names: str, tables: Sequence[CatalogTable], *, last: bool) -> bool:
        try:
            connection.statement(f"LOCK TABLES {names}")
        except DRIVER_ERRORS as error:
            number = number_of(error)
            if number in {DATABASE_ACCESS_DENIED, TABLE_ACCESS_DENIED}:
                raise PreconditionError(
                    f"{tables[0].id} can only be loaded under a short lock, which the user may not take",
                    f"Give it a primary key, or: GRANT LOCK TABLES ON {quoted(tables[0].id.schema)}.* TO ...;",
                ) from None
            if number == LOCK_WAIT_TIMEOUT and not last:
                return False
            raise
        return True

    def _end(self, connection: Connection) -> BinlogPosition:
        """A position that holds every transaction which a view so far can have shown."""
        if self._node.mariadb or not self._node.by_gtid:
            return history.log_position(connection, self._node)
        # MySQL shows a transaction a moment before it counts as executed. Until then its GTID is owned.
        owned = _owned(connection)
        deadline = time.monotonic() + _COMMITTING
        while True:
            position = history.log_position(connection, self._node)
            gtids = position.gtids
            if not isinstance(gtids, GtidSet):
                return position
            # What is not owned any more was committed, or rolled back.
            left = owned.minus(owned.minus(_owned(connection))).minus(gtids)
            if not left:
                return position
            if time.monotonic() > deadline:
                return BinlogPosition(position.file, position.offset, gtids.union(left))
            time.sleep(0.01)

    def _pieces(self, entry: CatalogTable) -> list[Piece]:
        table = entry.schema
        count = table.estimated_bytes // PART_BYTES
        if count < 2 or not table.key or _needs_exact(entry):
            return [Piece()]
        column = entry.definition(table.key[0])
        if column.data_type not in _INTEGERS:
            return [Piece()]
        with self._session("measuring a table") as connection:
            return cut(connection, _name(table.id), quoted(column.name), table.estimated_rows, count)

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
                yield connection
            done = True
        finally:
            if done:
                with self._lock:
                    self._idle.append(connection)
            else:
                self._connections.release(connection)


def _needs_exact(entry: CatalogTable) -> bool:
    """Whether the table must be read as of exactly the snapshot's position."""
    return entry.schema.identity is Identity.ROW


def _owned(connection: Connection) -> GtidSet:
    """The GTIDs of transactions that are under way or being committed (``uuid:number#thread``)."""
    row = connection.query_one("SELECT @@GLOBAL.gtid_owned")
    return GtidSet.parse(re.sub(r"#\d+", "", str(row[0]))) if row and row[0] else GtidSet()


def read_piece(
    connection: Connection, entry: CatalogTable, piece: Piece, *, keyed: bool = True
) -> Iterator[pa.RecordBatch]:
    """Run one SELECT and decode its rows as they arrive. Leaves the connection fit for use only when it ends.

    `keyed`: rows are told apart by the table's key, so that no value of it may become NULL.
    """
    columns = ", ".join(quoted(c.name) for c in entry.schema.columns)
    where = piece.condition(quoted(entry.schema.key[0])) if entry.schema.key else ""
    select = f"SELECT {columns} FROM {_name(entry.id)}{where}"
    reader = ResultReader(entry.schema, entry.replicated)
    connection.timeout(SILENCE)
    try:
        number = connection.begin_result(select)
        for batch in _batches(connection, reader):
            if keyed:
                _refuse_lost_keys(entry, batch)
            yield batch
    except Mismatch:
        raise altered(entry.id, "was altered") from None
    except DRIVER_ERRORS as error:
        if number_of(error) in _GONE:
            raise altered(entry.id, "was altered or dropped") from None
        raise
    connection.end_result(number)
    if reader.failure is not None:
        raise _read_error(reader.failure.number, reader.failure.message, entry.id)


def _batches(connection: Connection, reader: ResultReader) -> Iterator[pa.RecordBatch]:
    link = connection.socket
    receive = link.recv_into
    decrypted = link.pending if isinstance(link, ssl.SSLSocket) else lambda: 0
    poll = select.poll()
    poll.register(link, select.POLLIN)
    buffer = memoryview(bytearray(_RECEIVE))
    wanted = BATCH_BYTES
    while not reader.ended:
        while True:
            count = receive(buffer)
            if not count:
                raise ConnectionResetError("the server closed the connection")
            reader.feed(buffer[:count])
            if reader.pending >= wanted or reader.may_be_complete:
                break
            if not decrypted() and not poll.poll(_PAUSE):
                # A slow server, or one that has ended the result with an error.
                break
        batch = reader.take()
        # Nothing: the row that has begun is longer than that.
        if batch is not None:
            wanted = BATCH_BYTES
        elif reader.pending >= wanted:
            wanted *= 2
        while batch is not None:
            yield batch
            batch = reader.take()


def _refuse_lost_keys(entry: CatalogTable, batch: pa.RecordBatch) -> None:
    """A key column is never NULL at the source; a zero date in one is in the replica, where it would name other rows."""
    lost = [name for name in entry.schema.key if batch.column(name).null_count]
    if lost:
        raise UnsupportedValue(entry.id, lost, NO_SUCH_DAY)


def _read_error(number: int, message: str, table: TableId) -> EngineError:
    if number in _GONE:
        return altered(table, "was altered or dropped")
    return server_error(number, message, f"reading {table}")


def _name(table: TableId) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"
