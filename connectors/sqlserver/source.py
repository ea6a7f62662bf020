"""The Source protocol over SQL Server: who calls what, on which connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from connectors.kept import Kept
from connectors.leftout import LeftOut, refuse
from connectors.sqlserver import capture, check, database
from connectors.sqlserver.catalog import Catalog, CatalogTable, schemas
from connectors.sqlserver.connection import Connection, Connections
from connectors.sqlserver.followed import Followed
from connectors.sqlserver.inspect import compare
from connectors.sqlserver.jobs import JobWatch
from connectors.sqlserver.position import CdcPosition
from connectors.sqlserver.selection import hindrances, select
from connectors.sqlserver.snapshot import SqlServerSnapshot
from connectors.sqlserver.stream import Stream
from engine.changes import ChangeBatch, Position, SchemaChange
from engine.errors import EngineError
from engine.schema import TableSchema
from engine.source import Check, Follow, SourceOptions, SourceStatus, StreamState


class SqlServerSource:
    """A SQL Server (2016 SP2 and later) followed by change data capture. See `engine.source.Source` for the contract.

    Nothing is made at the server. It keeps changes by its own rules (the clean-up job): `confirm` has nothing to tell it.
    """

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._connections = Connections(options)
        self._lock = threading.Lock()
        self._reached = 0
        """The furthest position that the stream has had."""
        self._awaited = 0
        """The furthest position that was handed out, and that the stream has to reach even if nothing happens."""
        self._left_out: list[LeftOut] = []
        self._hindrances: tuple[Check, ...] = ()
        self._jobs = JobWatch()
        self._kept = Kept(self._open_suitable, Connection.close)

    def check(self) -> Sequence[Check]:
        return check.check(self._connections, self._options)

    def discover(self, known: Sequence[TableSchema] = ()) -> Sequence[TableSchema]:
        del known
        with self._connections.session("discovering tables") as connection:
            database.refuse_unsuitable(connection)
            return schemas(self._tables(connection))

    def prepare(self, tables: Sequence[TableSchema], after: Position | None, identity: str | None) -> StreamState:
        del tables
        with self._connections.session("preparing the source") as connection:
            database.refuse_unsuitable(connection)
            if identity is None:
                refuse(self._left_out)
            if after is None:
                return StreamState(None, "nothing is loaded yet")
            position = _position(after)
            if identity != database.identity(connection):
                return StreamState(None, "the database is another one than before, or was restored from a backup")
            if position.lsn > capture.log_end(connection):
                return StreamState(None, "the database's log does not reach to where it was read: it was replaced")
        return StreamState(position)

    def identity(self) -> str:
        with self._connections.session("asking the database which one it is") as connection:
            return database.identity(connection)

    @contextmanager
    def snapshot(self, tables: Sequence[TableSchema], *, start: bool) -> Iterator[SqlServerSnapshot]:
        if start:
            with self._lock:
                self._reached = self._awaited = 0
        snapshot = SqlServerSnapshot(self._connections, self._options, tables, self._reached, self._await)
        try:
            yield snapshot
        finally:
            snapshot.close()

    def stream(
        self, after: Position, follow: Sequence[Follow], cuts: Sequence[Position] = ()
    ) -> Iterator[ChangeBatch | SchemaChange]:
        start = _position(after).lsn
        tables = [Followed(f.table, 0 if f.since is None else _position(f.since).lsn) for f in follow]
        boundaries = [_position(c).lsn for c in cuts]
        self._reach(start)
        stream = Stream(
            *(self._connections, self._options, start, tables, boundaries),
            *(lambda: self._awaited, self._reach),
        )
        try:
            yield from stream.run()
        except EngineError:
            if not self._connections.closed:
                raise

    def _reach(self, lsn: int) -> None:
        with self._lock:
            self._reached = max(self._reached, lsn)

    def _await(self, lsn: int) -> None:
        with self._lock:
            self._awaited = max(self._awaited, lsn)

    def confirm(self, position: Position) -> None:
        _position(position)

    def inspect(self, known: Sequence[TableSchema]) -> Sequence[SchemaChange]:
        with self._connections.session("inspecting the source") as connection:
            tables = self._tables(connection, known)
            position = self._end(connection)
        return compare(known, schemas(tables), position)

    def status(self) -> SourceStatus:
        doing = "asking for the end of the log"
        self._connections.refuse_closed(doing)
        with self._kept.use(doing) as connection, self._connections.translated(doing):
            position = self._end(connection)
            problems = [*self._jobs.problems(connection), *(each.check() for each in self._left_out), *self._hindrances]
        return SourceStatus(position, None, tuple(problems))

    def _open_suitable(self, doing: str) -> Connection:
        connection = self._connections.open(doing)
        try:
            with self._connections.translated(doing):
                database.refuse_unsuitable(connection)
        except EngineError:
            connection.close()
            raise
        return connection

    def _tables(self, connection: Connection, known: Sequence[TableSchema] = ()) -> list[CatalogTable]:
        """The tables to follow; what keeps others from it is remembered for `status`."""
        selection = select(Catalog(connection, self._options).candidates(), connection.user, known)
        self._left_out = selection.left_out
        self._hindrances = tuple(c for c in hindrances(selection) if not c.warning)
        return selection.tables

    def _end(self, connection: Connection) -> CdcPosition:
        return CdcPosition(max(capture.max_lsn(connection), self._reached))

    def parse_position(self, text: str) -> CdcPosition:
        return CdcPosition.parse(text)

    def teardown(self) -> Sequence[str]:
        return []

    def close(self) -> None:
        self._connections.close()
        self._kept.close()


def _position(position: Position) -> CdcPosition:
    if not isinstance(position, CdcPosition):
        raise TypeError("a position of SQL Server is a place in its log")
    return position
