"""Connections to one PostgreSQL server: how they are opened, what their sessions are set to, how all end at once.

Every session prints values in the one form that the type decoders read, whatever the server, database or role are set
to: the settings go into the start-up packet, which also holds for replication connections (pgoutput calls the type
output functions in the walsender's session). `row_security` is off, so that a role under row-level security gets an
error and never a filtered table.
"""

from __future__ import annotations

import os
import re
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from connectors.postgres.failures import one_line, sqlstate_error, translate
from engine.errors import DatabaseUnknown, EngineError, LoginRefused, PreconditionError, TransientError
from engine.source import SourceOptions

Connection = psycopg.Connection[tuple[Any, ...]]

MINIMUM_VERSION = 120000

SETTINGS: dict[str, str] = {
    "timezone": "UTC",
    "datestyle": "ISO,YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "pg_catalog",
    "row_security": "off",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": r"read\ committed",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""Settings that every supported version knows. `search_path` decides how regclass and the like are printed."""

_LATER_SETTINGS = ((140000, "idle_session_timeout"), (170000, "transaction_timeout"))
_POLL = 0.1
_TRACED_STATE = re.compile(rb'ErrorResponse\t.* C "([0-9A-Z]{5})"')


class Connections:
    """Opens connections for one source, and ends them all from any thread.

    `close` shuts their sockets down rather than freeing them, since each belongs to the thread that uses it: that
    thread gets an error at once and closes its connection itself.
    """

    def __init__(self, options: SourceOptions, *, pooled: bool = False) -> None:
        """`pooled`: a pooler may be in between, which takes no settings at start: they are set by statements."""
        self._options = options
        self._pooled = pooled
        self._lock = threading.Lock()
        self._sockets: dict[int, tuple[Connection, socket.socket]] = {}
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    @property
    def application_name(self) -> str:
        """What the server's views show for every connection of this instance."""
        return f"reflex-engine/{self._options.instance}"[:63]

    def open(self, doing: str, *, replication: bool = False) -> Connection:
        """Open a connection in autocommit. Raises TransientError or PreconditionError, naming what it was for."""
        pgconn = self._connect(doing, replication=replication)
        connection = psycopg.Connection[tuple[Any, ...]](pgconn)
        try:
            pgconn.nonblocking = 1
            self._register(connection, doing)
            connection.prepare_threshold = None
            if replication:
                # A replication connection knows the simple query protocol only.
                connection.cursor_factory = psycopg.ClientCursor
            connection.autocommit = True
            if pgconn.server_version < MINIMUM_VERSION:
                raise PreconditionError(
                    f"{doing}: the server is PostgreSQL {connection.info.server_version // 10000}",
                    "PostgreSQL 12 or later is needed.",
                )
            settings = {name: "0" for since, name in _LATER_SETTINGS if pgconn.server_version >= since}
            if self._pooled:
                settings |= {name: value.replace("\\ ", " ") for name, value in SETTINGS.items()}
            if settings:
                connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in settings.items()).encode())
        except psycopg.Error as error:
            self.release(connection)
            raise translate(error, doing) from None
        except EngineError:
            self.release(connection)
            raise
        return connection

    @contextmanager
    def session(self, doing: str, *, replication: bool = False) -> Iterator[Connection]:
        """A connection for one block; psycopg's errors leave the block as the engine's."""
        connection = self.open(doing, replication=replication)
        try:
            yield connection
        except psycopg.Error as error:
            if self.closed:
                raise TransientError(f"{doing}: the source was closed") from None
            raise translate(error, doing) from None
        finally:
            self.release(connection)

    def release(self, connection: Connection) -> None:
        """Close one connection. Called by the thread that uses it."""
        with self._lock:
            entry = self._sockets.pop(id(connection), None)
        with suppress(psycopg.Error):
            connection.close()
        if entry is not None:
            entry[1].close()

    def close(self) -> None:
        """End every connection, and refuse new ones. Running statements are cancelled at the server first."""
        self._closed.set()
        with self._lock:
            entries = list(self._sockets.values())
        for connection, _ in entries:
            _cancel(connection)
        with self._lock:
            for _, sock in self._sockets.values():
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _register(self, connection: Connection, doing: str) -> None:
        duplicate = socket.socket(fileno=os.dup(connection.pgconn.socket))
        with self._lock:
            self._sockets[id(connection)] = (connection, duplicate)
        if self.closed:
            raise TransientError(f"{doing}: the source was closed")

    def _connect(self, doing: str, *, replication: bool) -> pq.abc.PGconn:
        """Connect without ever blocking for longer than `_POLL` (name resolution excepted)."""
        deadline = time.monotonic() + max(self._options.connect_timeout, 1.0)
        pgconn = pq.PGconn.connect_start(self._conninfo(replication=replication).encode())
        with _Trace(pgconn) as trace:
            while True:
                status = pgconn.connect_poll() if pgconn.status != pq.ConnStatus.BAD else pq.PollingStatus.FAILED
                if status == pq.PollingStatus.OK:
                    return pgconn
                if status == pq.PollingStatus.FAILED:
                    raise self._refused(pgconn, doing, trace.sqlstate())
                reading = status == pq.PollingStatus.READING
                fds = [pgconn.socket]
                while not any(select.select(fds if reading else [], [] if reading else fds, [], _POLL)):
                    if self.closed or time.monotonic() > deadline:
                        pgconn.finish()
                        why = "the source was closed" if self.closed else "the server did not answer in time"
                        raise TransientError(f"{doing}: {why} ({self._options.host}:{self._options.port})")

    def _refused(self, pgconn: pq.abc.PGconn, doing: str, state: str | None) -> EngineError:
        message = one_line(pgconn.get_error_message())
        pgconn.finish()
        if state is None:
            return TransientError(f"{doing}: {message}")
        if state.startswith("28") or state == "3D000":
            kind = DatabaseUnknown if state == "3D000" else LoginRefused
            return kind(f"{doing}: {message} (SQLSTATE {state})", _LOGIN_REMEDY.get(state, ""))
        return sqlstate_error(state, message, doing)

    def _conninfo(self, *, replication: bool) -> str:
        options, tls = self._options, self._options.tls
        parameters: dict[str, Any] = {
            "host": options.host,
            "port": options.port,
            "user": options.user,
            "password": options.password.reveal() or None,
            "dbname": options.database,
            "sslmode": tls.mode,
            "sslrootcert": tls.ca,
            "sslcert": tls.cert,
            "sslkey": tls.key,
            "gssencmode": "disable",
            "application_name": self.application_name,
            "client_encoding": "UTF8",
            "keepalives": 1,
            "keepalives_idle": 20,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 60_000,
        }
        if not self._pooled:
            parameters["options"] = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
        if replication:
            parameters["replication"] = "database"
        return make_conninfo(**{name: value for name, value in parameters.items() if value is not None})


_LOGIN_REMEDY = {
    "28P01": "Correct `connection.user` and the password.",
    "28000": "Let this user, host and database in by a line in pg_hba.conf, and give the role LOGIN and REPLICATION.",
    "3D000": "Correct the database named in `instance.schema`.",
}


class _Trace:
    """Finds the SQLSTATE of a refused connection, which libpq gives only as text: in its own protocol trace.

    The trace stays in memory and goes with the block. Where libpq cannot trace (not Linux), no SQLSTATE is known.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._fd = -1

    def __enter__(self) -> Self:
        if hasattr(os, "memfd_create") and self._pgconn.status != pq.ConnStatus.BAD:
            self._fd = os.memfd_create("libpq-trace")
            self._pgconn.trace(self._fd)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            with suppress(psycopg.Error):
                self._pgconn.untrace()
            os.close(self._fd)

    def sqlstate(self) -> str | None:
        if self._fd < 0:
            return None
        self._pgconn.untrace()
        found = _TRACED_STATE.findall(os.pread(self._fd, os.fstat(self._fd).st_size, 0))
        return found[-1].decode() if found else None


def _cancel(connection: Connection) -> None:
    """Ask the server to stop what the connection is running, briefly."""
    with suppress(psycopg.Error):
        if connection.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            connection.cancel_safe(timeout=0.5)


def fetch(connection: Connection, query: str, params: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
    """Run one query of the connector's own text and return its rows."""
    return connection.execute(query.encode(), params).fetchall()


def fetch_one(connection: Connection, query: str, params: Sequence[object] | None = None) -> tuple[Any, ...] | None:
    """Run one query of the connector's own text and return its first row."""
    return connection.execute(query.encode(), params).fetchone()
