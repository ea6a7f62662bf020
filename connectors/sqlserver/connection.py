"""Connections to the source: how they are opened, what each session is set to, and how all of them are ended.

pymssql (FreeTDS) speaks the protocol. It has no way to break a call off from another thread; but before it reads the first
of an answer it calls back, where we wait for the server ourselves: until the source is closed, or for as long as the
session may take. Later bytes of an answer are bounded by the driver's own timeout.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import pymssql

from connectors.sqlserver.failures import DATABASE_REMEDY, DRIVER_ERRORS, LOGIN_FAILED, number_of, translate
from engine.errors import DatabaseUnknown, EngineError, PreconditionError, TlsRefused, TransientError
from engine.source import SourceOptions, Tls

MINIMUM_VERSION = 13
"""SQL Server 2016: DATEDIFF_BIG, and change tables with ``__$command_id``."""
AZURE_DATABASE = 5
AZURE_EDITIONS = frozenset({AZURE_DATABASE, 8})
"""SERVERPROPERTY('EngineEdition') of Azure SQL Database and Managed Instance, whose version numbers say nothing."""
SILENCE: Final = 300
"""Seconds that the server may take to send the next bytes."""
_LOOK: Final = 100
"""Milliseconds between looks at whether the source was closed."""
FETCH_ROWS: Final = 4096
"""Rows that are taken from the driver at a time."""
_SETTINGS = "SET NOCOUNT ON; SET LOCK_TIMEOUT 60000; SET DEADLOCK_PRIORITY LOW"
"""Of two sessions that block each other, ours is the one to give way."""
_FACTS = (
    "SELECT CONVERT(nvarchar(128), SERVERPROPERTY('ProductVersion')), CONVERT(int, SERVERPROPERTY('EngineEdition')), "
    "DB_NAME(), SUSER_SNAME(), USER_NAME()"
)
_ENCRYPTION = {"disable": "off", "prefer": "request", "require": "require"}

Row = tuple[Any, ...]


class _Waiting(threading.local):
    """The source whose session this thread waits for, if it is one of ours."""

    closing: threading.Event | None = None


_waiting = _Waiting()


class _Silence(OSError):
    """The server does not answer, or need not any more."""


def _wait(descriptor: int) -> None:
    """Called by the driver when it has sent a statement, in any thread of the process, whoever's the session is."""
    closing = _waiting.closing
    if closing is None:
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + SILENCE
    while not poll.poll(_LOOK):
        if closing.is_set() or time.monotonic() > deadline:
            raise _Silence(errno.ETIMEDOUT, "no answer")


pymssql.set_wait_callback(_wait)


class Connection:
    """One session in autocommit. Used by one thread at a time."""

    def __init__(self, driver: Any, closing: threading.Event) -> None:
        self._driver = driver
        self._closing = closing
        self.version = ""
        self.edition = 0
        self.database = ""
        self.login = ""
        self.user = ""

    def query(self, statement: str) -> list[Row]:
        """Run one statement and return its rows. Raises the driver's errors: see `Connections.session`."""
        with self._executed(statement) as cursor:
            return list(cursor.fetchall()) if cursor.description else []

    def query_one(self, statement: str) -> Row | None:
        """Run one statement and return its first row."""
        rows = self.query(statement)
        return rows[0] if rows else None

    def results(self, statements: Sequence[str]) -> Iterator[list[Row]]:
        """Run several SELECTs in one batch; yields the rows of each."""
        with self._executed(";\n".join(statements)) as cursor:
            for number in range(len(statements)):
                if number and not cursor.nextset():
                    raise TransientError("the server sent fewer results than it was asked for")
                yield list(cursor.fetchall())

    def fetch(self, statement: str) -> Iterator[list[Row]]:
        """Run a SELECT and yield its rows as they arrive, some at a time."""
        with self._executed(statement) as cursor:
            while rows := cursor.fetchmany(FETCH_ROWS):
                yield rows

    def statement(self, sql: str) -> None:
        """Run statements without a result."""
        with self._executed(sql):
            pass

    @contextmanager
    def _executed(self, sql: str) -> Iterator[Any]:
        """A cursor with the answer to these statements."""
        cursor = self._driver.cursor()
        try:
            _waiting.closing = self._closing
            try:
                cursor.execute(sql)
            finally:
                _waiting.closing = None
            yield cursor
        finally:
            cursor.close()

    def close(self) -> None:
        with suppress(Exception):
            self._driver.close()

    @property
    def title(self) -> str:
        """``SQL Server 16.0.4105.2``."""
        return f"SQL Server {self.version}" if self.edition not in AZURE_EDITIONS else f"Azure SQL ({self.version})"


class Connections:
    """Opens connections for one source, and tells all who use them when it is closed."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self.closing = threading.Event()

    @property
    def closed(self) -> bool:
        return self.closing.is_set()

    def open(self, doing: str) -> Connection:
        """Open a connection. Raises TransientError or PreconditionError, naming what it was for."""
        options = self._options
        self.refuse_closed(doing)
        try:
            connection = Connection(self._log_in(options.database), self.closing)
        except DRIVER_ERRORS as error:
            self.refuse_closed(doing)
            self._refuse_unreachable(doing)
            if number_of(error) == LOGIN_FAILED and options.database and self._lets_in():
                raise DatabaseUnknown(
                    f"{doing}: there is no database {options.database} that the user may enter", DATABASE_REMEDY
                ) from None
            raise translate(error, f"{doing} ({options.host}:{options.port})") from None
        try:
            _prepare(connection)
        except DRIVER_ERRORS as error:
            connection.close()
            raise translate(error, doing) from None
        except EngineError:
            connection.close()
            raise
        return connection

    def _log_in(self, database: str) -> Any:
        """The driver's connection. Raises its errors."""
        options = self._options
        return pymssql.connect(
            server=options.host,
            port=str(options.port),
            user=options.user,
            password=options.password.reveal(),
            database=database,
            appname=f"reflex-engine/{options.instance}"[:30],
            charset="UTF-8",
            tds_version="7.4",
            autocommit=True,
            timeout=SILENCE,
            login_timeout=max(1, round(options.connect_timeout)),
            encryption=_encryption(options.tls),
        )

    def _refuse_unreachable(self, doing: str) -> None:
        """Raise TransientError when nobody listens at the server's address.

        Before a login, the driver (2.4) keeps the number of the worst error that the process has had, for ever: of a
        server that is down it would say that the password was wrong, if another one's ever was.
        """
        address = (self._options.host, self._options.port)
        try:
            socket.create_connection(address, max(self._options.connect_timeout, 1.0)).close()
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise TransientError(f"{doing}: the connection to {address[0]}:{address[1]} failed ({why})") from None

    def _lets_in(self) -> bool:
        """Whether the login is good without a database: a database that is not there ends as a failed login, too."""
        try:
            Connection(self._log_in(""), self.closing).close()
        except DRIVER_ERRORS:
            return False
        return True

    @contextmanager
    def session(self, doing: str) -> Iterator[Connection]:
        """A connection for one block; the driver's errors leave the block as the engine's."""
        connection = self.open(doing)
        try:
            with self.translated(doing):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Let the driver's errors leave the block as the engine's; those of a closed source say that it is closed."""
        try:
            yield
        except DRIVER_ERRORS as error:
            self.refuse_closed(doing)
            raise translate(error, doing) from None

    def refuse_closed(self, doing: str) -> None:
        """Raise TransientError when the source was closed."""
        if self.closed:
            raise TransientError(f"{doing}: the source was closed")

    def close(self) -> None:
        """Refuse new connections; whoever uses one ends at the next row or statement."""
        self.closing.set()


def _encryption(tls: Tls) -> str:
    """The driver's parameter for TLS. Raises TlsRefused for what the driver cannot do."""
    if tls.mode not in _ENCRYPTION or tls.ca is not None or tls.cert is not None:
        raise TlsRefused(
            "the driver for SQL Server (FreeTDS by pymssql) encrypts, but cannot verify the server's certificate",
            "Set `connection.tls.mode` to require without `ca` and `cert`, over a network that is trusted.",
        )
    return _ENCRYPTION[tls.mode]


def _prepare(connection: Connection) -> None:
    """Set the session, and refuse servers that are too old."""
    connection.statement(_SETTINGS)
    facts = connection.query_one(_FACTS)
    assert facts is not None
    connection.version, connection.edition = str(facts[0]), int(facts[1] or 0)
    connection.database, connection.login, connection.user = str(facts[2]), str(facts[3]), str(facts[4])
    major = int(connection.version.partition(".")[0] or 0)
    if connection.edition not in AZURE_EDITIONS and major < MINIMUM_VERSION:
        raise PreconditionError(f"the server is {connection.title}", "SQL Server 2016 (13.0) or later is needed.")
