"""SQL Server as it is polled: with SELECT alone, change data capture or not.

A view is one session in one transaction under SNAPSHOT isolation: all tables as of one committed state, without locks. No
other session can join it, so tables are read one after another, while converting and applying go on beside. Where the
database does not allow SNAPSHOT isolation, every table is read by a statement of its own under READ COMMITTED: the tables
of a round may be of different moments, which `check` says.

There is no telling that a table has not changed: no counter that a user without rights can see is moved by every change.
Every round therefore reads all.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa

from connectors.kept import Kept
from connectors.leftout import by_table
from connectors.poll import Found, polled
from connectors.sqlserver.catalog import Catalog, CatalogTable
from connectors.sqlserver.connection import Connection, Connections
from connectors.sqlserver.database import Database
from connectors.sqlserver.layouts import Layout
from connectors.sqlserver.selection import no_table, select
from connectors.sqlserver.snapshot import SNAPSHOT_LEVEL, Range, name, read_range
from connectors.sqlserver.types import quoted
from engine.errors import ConfigError, EngineError, PreconditionError, TransientError
from engine.schema import TableId, TableSchema
from engine.source import Check, Part, SourceOptions

_TRIES = 3
_CLOCK = "SELECT DATEDIFF_BIG(millisecond, '1970-01-01', SYSUTCDATETIME())"


class SqlServerReader:
    """Fills `connectors.poll.Reader`."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._connections = Connections(options)
        self._kept = Kept(self._connections.open, Connection.close)

    def check(self) -> Sequence[Check]:
        checks: list[Check] = []
        try:
            with self._connections.session("connecting") as connection:
                checks.append(Check("connection", ok=True, detail=f"{connection.title}, as {connection.login}"))
                versioned = Database.read(connection).snapshot_isolation
                tables, left_out = self._tables(connection)
                database, user = connection.database, connection.user
        except (ConfigError, PreconditionError) as error:
            return [*checks, Check("configuration", ok=False, detail=str(error))]
        except EngineError as error:
            return [*checks, Check("connection", ok=False, detail=str(error))]
        if versioned:
            checks.append(Check("snapshot isolation", ok=True, detail="a round is one state of all tables"))
        else:
            detail = "snapshot isolation is off: the tables of a round may be of different moments"
            remedy = f"ALTER DATABASE {quoted(database)} SET ALLOW_SNAPSHOT_ISOLATION ON;"
            checks.append(Check("snapshot isolation", ok=False, detail=detail, remedy=remedy, warning=True))
        if tables:
            checks.append(Check("tables", ok=True, detail=f"{len(tables)} to replicate"))
        elif not left_out:
            checks.append(no_table(self._options, user))
        return [*checks, *left_out.values()]

    def discover(self) -> Found:
        with self._connections.session("discovering tables") as connection:
            tables, left_out = self._tables(connection)
        return Found([polled(t.layout(None).schema) for t in tables], left_out)

    def _tables(self, connection: Connection) -> tuple[list[CatalogTable], dict[TableId, Check]]:
        candidates = Catalog(connection, self._options).candidates(captured=False)
        selection = select(candidates, connection.user, captured=False)
        return selection.tables, by_table(selection.left_out)

    @contextmanager
    def view(self) -> Iterator[SqlServerView]:
        with self._connections.session("opening a view") as connection:
            clock = connection.query_one(_CLOCK)
            assert clock is not None
            tables, left_out = self._tables(connection)
            if Database.read(connection).snapshot_isolation:
                connection.statement(SNAPSHOT_LEVEL)
                tables, left_out = self._opened(connection, tables)
            yield SqlServerView(self._connections, connection, int(clock[0]) / 1000, tables, left_out)

    def _opened(
        self, connection: Connection, tables: list[CatalogTable]
    ) -> tuple[list[CatalogTable], dict[TableId, Check]]:
        """Begin the transaction that is the view, and give the tables as it holds them.

        The view is taken by the first read of data; what is altered later is refused when it is read, and what was altered
        between the look at the catalog and the view shows when that is looked at again.
        """
        for _ in range(_TRIES):
            connection.statement("BEGIN TRANSACTION")
            if tables:
                connection.query(f"SELECT TOP (1) 1 FROM {name(tables[0].id)}")
            now, left_out = self._tables(connection)
            if list(map(_shape, now)) == list(map(_shape, tables)):
                return now, left_out
            connection.statement("ROLLBACK TRANSACTION")
            tables = now
        raise TransientError("opening a view: tables keep being altered.")

    def ping(self) -> None:
        doing = "asking for a sign of life"
        self._connections.refuse_closed(doing)
        with self._kept.use(doing) as connection, self._connections.translated(doing):
            connection.query("SELECT 1")

    def identity(self) -> str:
        return json.dumps({"polled": "mssql", "database": self._options.database}, separators=(",", ":"))

    def close(self) -> None:
        self._connections.close()
        self._kept.close()


def _shape(table: CatalogTable) -> tuple[object, ...]:
    """What an alteration changes of it; not what only its rows do."""
    return table.id, table.object_id, table.definitions, table.computed, table.keys


class SqlServerView:
    """Fills `connectors.poll.View`."""

    def __init__(
        self,
        connections: Connections,
        connection: Connection,
        at: float,
        tables: Sequence[CatalogTable],
        left_out: Mapping[TableId, Check],
    ) -> None:
        self._connections = connections
        self._connection = connection
        self._at = at
        self._layouts: dict[TableId, Layout] = {t.id: t.layout(None) for t in tables}
        self._left_out = left_out
        self._turn = threading.Lock()
        self._usable = True

    @property
    def at(self) -> float:
        return self._at

    @property
    def tables(self) -> Sequence[TableSchema]:
        return [polled(layout.schema) for layout in self._layouts.values()]

    @property
    def left_out(self) -> Mapping[TableId, Check]:
        return self._left_out

    def split(self, table: TableSchema) -> Sequence[Part]:
        return [Part(table, Range(), table.estimated_rows)]

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        doing = f"reading {part.table.id}"
        with self._turn, self._connections.translated(doing):
            if not self._usable:
                raise TransientError(f"{doing}: the session with the view was lost")
            self._usable = False
            yield from read_range(self._connection, self._connections, self._layouts[part.table.id], Range())
            self._usable = True

    def mark(self, table: TableSchema) -> None:
        del table

    def unchanged(self, table: TableSchema, mark: object, rows: int) -> bool:
        del table, mark, rows
        return False
