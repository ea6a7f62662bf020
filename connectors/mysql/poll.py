"""MySQL and MariaDB as they are polled: with SELECT alone.

A view is one session in one transaction WITH CONSISTENT SNAPSHOT. Neither server lets another session join it, and two
snapshots at one place of the binary log are not proven to be one state (sessions and databases may be left out of the
log), so tables are read one after another, while decoding and applying go on beside. Tables of engines without
transactions are read as they are when their turn comes.

There is no telling that a table has not changed: neither server keeps a counter that every change moves and nothing
sets back (UPDATE_TIME is forgotten at a restart and when the table leaves the cache). Every round therefore reads all.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa

from connectors.kept import Kept
from connectors.leftout import by_table
from connectors.mysql.connection import Connection, Connections
from connectors.mysql.pieces import Piece
from connectors.mysql.selection import Selection, select
from connectors.mysql.snapshot import read_piece
from connectors.poll import Found, polled
from engine.errors import ConfigError, EngineError, PreconditionError, TransientError
from engine.schema import TableId, TableSchema
from engine.source import Check, Part, SourceOptions

_BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
_SAVED, _BACK = "SAVEPOINT reflex_poll", "ROLLBACK TO SAVEPOINT reflex_poll"
"""Going back to it gives up the locks that keep a table that was read from being altered; the snapshot stays."""
_NAMED_AT_MOST = 10


class MysqlReader:
    """Fills `connectors.poll.Reader`."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._connections = Connections(options)
        self._kept = Kept(self._connections.open, self._connections.release)

    def check(self) -> Sequence[Check]:
        checks: list[Check] = []
        try:
            with self._connections.session("connecting") as connection:
                tls = "with TLS" if connection.encrypted else "without TLS"
                checks.append(Check("connection", ok=True, detail=f"{connection.server.name}, {tls}"))
                tables, left_out = self._select(connection)
        except (ConfigError, PreconditionError) as error:
            return [*checks, Check("configuration", ok=False, detail=str(error))]
        except EngineError as error:
            return [*checks, Check("connection", ok=False, detail=str(error))]
        checks += [each.check() for each in left_out]
        loose = [str(t.id) for t in tables if not t.transactional]
        if loose:
            named = ", ".join(loose[:_NAMED_AT_MOST]) + (" ..." if len(loose) > _NAMED_AT_MOST else "")
            detail = f"engines without transactions: {named} may be newer than the other tables of a round"
            checks.append(Check("transactions", ok=False, detail=detail, remedy="Make them InnoDB.", warning=True))
        remedy = "" if tables else "Correct `instance.schema` and `tables`, or grant the user SELECT."
        return [*checks, Check("tables", ok=bool(tables), detail=f"{len(tables)} to replicate", remedy=remedy)]

    def discover(self) -> Found:
        with self._connections.session("discovering tables") as connection:
            tables, left_out = self._select(connection)
        return Found([polled(t.schema) for t in tables], by_table(left_out))

    def _select(self, connection: Connection) -> Selection:
        return select(connection, self._options)

    @contextmanager
    def view(self) -> Iterator[MysqlView]:
        with self._connections.session("opening a view") as connection:
            row = connection.query_one("SELECT UNIX_TIMESTAMP(NOW(6))")
            assert row is not None
            connection.statement(_BEGIN)
            connection.statement(_SAVED)
            # The catalog is that of now: what was altered since the snapshot began is refused when it is read.
            selection = self._select(connection)
            connection.statement(_BACK)
            yield MysqlView(self._connections, connection, float(row[0]), selection)

    def ping(self) -> None:
        doing = "asking for a sign of life"
        with self._kept.use(doing) as connection, self._connections.translated(doing):
            connection.query("SELECT 1")

    def identity(self) -> str:
        return json.dumps({"polled": "mysql", "database": self._options.database}, separators=(",", ":"))

    def close(self) -> None:
        self._connections.close()
        self._kept.close()


class MysqlView:
    """Fills `connectors.poll.View`."""

    def __init__(self, connections: Connections, connection: Connection, at: float, selection: Selection) -> None:
        self._connections = connections
        self._connection = connection
        self._at = at
        self._catalog = {t.id: t for t in selection.tables}
        self._tables = [polled(t.schema) for t in selection.tables]
        self._left_out = by_table(selection.left_out)
        self._turn = threading.Lock()
        self._usable = True

    @property
    def at(self) -> float:
        return self._at

    @property
    def tables(self) -> Sequence[TableSchema]:
        return self._tables

    @property
    def left_out(self) -> Mapping[TableId, Check]:
        return self._left_out

    def split(self, table: TableSchema) -> Sequence[Part]:
        return [Part(table, Piece(), table.estimated_rows)]

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        doing = f"reading {part.table.id}"
        with self._turn, self._connections.translated(doing):
            if not self._usable:
                raise TransientError(f"{doing}: the session with the view was lost")
            self._usable = False
            yield from read_piece(self._connection, self._catalog[part.table.id], Piece(), keyed=False)
            self._connection.statement(_BACK)
            self._usable = True

    def mark(self, table: TableSchema) -> None:
        del table

    def unchanged(self, table: TableSchema, mark: object, rows: int) -> bool:
        del table, mark, rows
        return False
