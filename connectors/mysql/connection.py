"""Connections to the source: how they are opened, what each session is set to, and how all of them are ended.

PyMySQL does the handshake, TLS and the logins (caching_sha2_password too: over TLS, or with the server's RSA key).
Everything else speaks through `Connection`, which also lends out the bare socket to who reads results by the megabyte.

Every session is in UTC, in utf8mb4, without an sql_mode, and has no limit on how long a statement may run: what the
server's defaults say must not change a value or a spelling.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import pymysql
import pymysql.cursors
from pymysql.constants import CLIENT, COMMAND

from connectors.mysql.failures import DRIVER_ERRORS, translate
from engine.errors import EngineError, PreconditionError, TransientError
from engine.source import SourceOptions, Tls

MINIMUM_MYSQL, MINIMUM_MARIADB = (8, 0), (10, 5)
ANSWER_TIMEOUT: Final = 120.0
"""Seconds that the server may take over one of our own short statements."""
WRITE_TIMEOUT: Final = 3600
"""Seconds that the server waits for us to read on."""
_SETTINGS = (
    "time_zone = '+00:00'",
    "sql_mode = ''",
    f"net_write_timeout = {WRITE_TIMEOUT}",
    "wait_timeout = 86400",
    "sql_big_selects = 1",
    "sql_select_limit = 18446744073709551615",
    "group_concat_max_len = 1048576",
    "lc_messages = 'en_US'",
)
Parameters = Sequence[object] | Mapping[str, object] | None
_PREPARED, _EXECUTE = struct.Struct("<BIHH"), struct.Struct("<IBI")
_VERSION = re.compile(r"(?:5\.5\.5-)?(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Server:
    """Which server answers: its flavour, version as numbers, and version as it says it."""

    mariadb: bool
    version: tuple[int, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read ``@@version``. Raises PreconditionError for what is no version."""
        found = _VERSION.match(text)
        if found is None:
            raise PreconditionError("the server does not say a version that is known", "MySQL or MariaDB is needed.")
        return cls("mariadb" in text.lower(), tuple(int(part or 0) for part in found.groups()), text)

    @property
    def name(self) -> str:
        """``MySQL 9.7`` or ``MariaDB 10.11``."""
        return f"{'MariaDB' if self.mariadb else 'MySQL'} {'.'.join(map(str, self.version[:2]))}"

    @property
    def log_status(self) -> str:
        """The statement that says where the binary log ends."""
        if self.mariadb:
            return "SHOW MASTER STATUS"
        return "SHOW BINARY LOG STATUS" if self.version >= (8, 4) else "SHOW MASTER STATUS"


class Connection:
    """One session. Used by one thread at a time, except `abort`."""

    def __init__(self, driver: pymysql.Connection[Any], tcp: socket.socket) -> None:
        self._driver = driver
        self._tcp = tcp
        self.busy = False
        """Whether a result was begun and not ended: the session is good for nothing else."""
        self.server = Server.parse(str(driver.server_version))

    @property
    def socket(self) -> socket.socket:
        """The socket, or the TLS around it. Only while no answer is outstanding may others read from it."""
        return self._driver._sock  # type: ignore[no-any-return] # noqa: SLF001 - the driver offers no other way

    @property
    def encrypted(self) -> bool:
        return isinstance(self.socket, ssl.SSLSocket)

    @property
    def thread_id(self) -> int:
        """The server's number of this session."""
        return int(self._driver.thread_id())

    def query(self, statement: str, params: Parameters = None) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. Raises the driver's errors: see `Connections.session`."""
        with self._driver.cursor(pymysql.cursors.Cursor) as cursor:
            cursor.execute(statement, params)
            return list(cursor.fetchall()) if cursor.description else []

    def query_one(self, statement: str, params: Parameters = None) -> tuple[Any, ...] | None:
        """Run one statement and return its first row."""
        rows = self.query(statement, params)
        return rows[0] if rows else None

    def rows(self, statement: str, params: Parameters = None) -> list[dict[str, Any]]:
        """Run one statement and return its rows by column name."""
        with self._driver.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(statement, params)
            return list(cursor.fetchall())

    def statement(self, sql: str) -> None:
        """Run one statement without a result."""
        self.query(sql)

    def begin_result(self, select: str) -> int:
        """Run a SELECT as a prepared statement and leave its result, all of it, to who reads `socket`.

        Returns the statement's number, for `end_result`. Raises the driver's errors.
        """
        driver: Any = self._driver
        driver._execute_command(COMMAND.COM_STMT_PREPARE, select)  # noqa: SLF001
        _, number, columns, parameters = _PREPARED.unpack_from(driver._read_packet().get_all_data())  # noqa: SLF001
        # What describes them comes again with the result.
        for count in (parameters, columns):
            for _ in range(count + 1 if count else 0):
                driver._read_packet()  # noqa: SLF001
        self.busy = True
        driver._execute_command(COMMAND.COM_STMT_EXECUTE, _EXECUTE.pack(number, 0, 1))  # noqa: SLF001
        return int(number)

    def end_result(self, number: int) -> None:
        """Forget a prepared statement whose result was read to its end."""
        self._driver._execute_command(COMMAND.COM_STMT_CLOSE, struct.pack("<I", number))  # noqa: SLF001
        self.busy = False

    def command(self, payload: bytes, *, answered: bool) -> None:
        """Send one command packet (its first byte is the command) and, if it is `answered`, read the OK."""
        try:
            self._driver._execute_command(payload[0], payload[1:])  # noqa: SLF001
            if answered:
                self._driver._read_ok_packet()  # noqa: SLF001
        except DRIVER_ERRORS as error:
            raise translate(error, "talking to the server") from None

    def timeout(self, seconds: float | None) -> None:
        """The longest silence of the server that `query` and readers of `socket` bear."""
        driver: Any = self._driver
        driver._read_timeout = driver._write_timeout = driver._current_timeout = seconds  # noqa: SLF001
        self.socket.settimeout(seconds)

    def close(self) -> None:
        """End the session, also one that is in the middle of an answer."""
        if self.busy:
            self.abort()
        with suppress(*DRIVER_ERRORS):
            self._driver.close()
        self._tcp.close()

    def abort(self) -> None:
        """Make whatever the session's thread does fail at once. May be called from any thread."""
        with suppress(OSError):
            # A server that is sending must be told by a reset, or it goes on waiting for us to read.
            self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._tcp.shutdown(socket.SHUT_RDWR)


class Connections:
    """Opens connections for one source, and ends them all from any thread."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._open: dict[int, Connection] = {}
        self._connecting: set[socket.socket] = set()
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    @property
    def program_name(self) -> str:
        """What the server's views of connection attributes show for every connection of this instance."""
        return f"reflex-engine/{self._options.instance}"[:63]

    def open(self, doing: str) -> Connection:
        """Open a connection in autocommit. Raises TransientError or PreconditionError, naming what it was for."""
        try:
            connection = self._connect(doing)
        except EngineError:
            raise
        except DRIVER_ERRORS as error:
            if self.closed:
                raise TransientError(f"{doing}: the source was closed") from None
            raise translate(error, f"{doing} ({self._options.host}:{self._options.port})") from None
        with self._lock:
            self._open[id(connection)] = connection
        try:
            if self.closed:
                raise TransientError(f"{doing}: the source was closed")
            _prepare(connection)
        except DRIVER_ERRORS as error:
            self.release(connection)
            raise translate(error, doing) from None
        except EngineError:
            self.release(connection)
            raise
        return connection

    @contextmanager
    def session(self, doing: str) -> Iterator[Connection]:
        """A connection for one block; the driver's errors leave the block as the engine's."""
        connection = self.open(doing)
        try:
            with self.translated(doing):
                yield connection
        finally:
            self.release(connection)

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Let the driver's errors leave the block as the engine's; those of a closed source say that it is closed."""
        try:
            yield
        except DRIVER_ERRORS as error:
            if self.closed:
                raise TransientError(f"{doing}: the source was closed") from None
            raise translate(error, doing) from None

    def release(self, connection: Connection) -> None:
        """Close one connection. Called by the thread that uses it."""
        with self._lock:
            self._open.pop(id(connection), None)
        connection.close()

    def close(self) -> None:
        """End every connection, and refuse new ones."""
        self._closed.set()
        with self._lock:
            for connection in self._open.values():
                connection.abort()
            for tcp in self._connecting:
                with suppress(OSError):
                    tcp.shutdown(socket.SHUT_RDWR)

    def _connect(self, doing: str) -> Connection:
        options = self._options
        timeout = max(options.connect_timeout, 1.0)
        if self.closed:
            raise TransientError(f"{doing}: the source was closed")
        driver: Any = pymysql.Connection(
            user=options.user,
            # As bytes: the driver would write text as latin1.
            password=options.password.reveal().encode(),
            host=options.host,
            port=options.port,
            database=options.database,
            charset="utf8mb4",
            autocommit=True,
            program_name=self.program_name,
            read_timeout=timeout,
            write_timeout=timeout,
            auth_plugin_map={b"mysql_clear_password": _ClearPassword, b"dialog": _Refused},
            defer_connect=True,
            **_encryption(options.tls),
        )
        if options.tls.mode == "prefer":
            driver._ssl_required = False  # noqa: SLF001 - it has no parameter together with a context
            driver.client_flag &= ~CLIENT.SSL
        tcp = socket.create_connection((options.host, options.port), timeout)
        # Wrapping into TLS detaches the socket's descriptor; this one is for `abort`.
        held = tcp.dup()
        with self._lock:
            self._connecting.add(held)
        try:
            for level, name, value in _SOCKET_OPTIONS:
                tcp.setsockopt(level, name, value)
            driver.connect(tcp)
            connection = Connection(driver, held)
        except RuntimeError:
            held.close()
            remedy = "Install the package `cryptography`, or set `connection.tls.mode` to require."
            raise PreconditionError(f"{doing}: a login without TLS needs RSA", remedy) from None
        except BaseException:
            held.close()
            raise
        finally:
            with self._lock:
                self._connecting.discard(held)
        connection.timeout(ANSWER_TIMEOUT)
        return connection


_SOCKET_OPTIONS = tuple(
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 20),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 60_000),
    )
    if hasattr(socket, name)
)


class _ClearPassword:
    """mysql_clear_password: the password as it is. Over TLS only, whoever asks for it."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def authenticate(self, _: Any) -> Any:
        if not isinstance(self._driver._sock, ssl.SSLSocket):  # noqa: SLF001
            raise PreconditionError(
                "the server asks for the password in clear text, on a connection without TLS",
                "Set `connection.tls.mode` to verify-full (or require).",
            )
        self._driver.write_packet(self._driver.password + b"\0")
        return self._driver._read_packet()  # noqa: SLF001


class _Refused:
    """A way to log in that would send the password in clear text after a prompt (PAM's dialog)."""

    def __init__(self, driver: Any) -> None:
        del driver

    def authenticate(self, _: Any) -> Any:
        raise PreconditionError(
            "the server asks for a login by dialog", "Give the engine a user with a password of the server's own."
        )


def _encryption(tls: Tls) -> dict[str, Any]:
    """The driver's parameters for TLS. Raises PreconditionError for files that cannot be used."""
    if tls.mode == "disable":
        return {"ssl_disabled": True}
    verified = tls.mode in {"verify-ca", "verify-full"} or (tls.mode == "require" and tls.ca is not None)
    try:
        # The system's authorities take longer to load than a connection to be made, and are rarely asked for.
        trusting = ssl.create_default_context(cafile=tls.ca) if verified else None
        context = trusting or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The certificates that the servers make for themselves lack what the strict check wants.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = tls.mode == "verify-full"
        context.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ValueError) as error:
        raise PreconditionError(
            f"a file of `connection.tls` cannot be used ({type(error).__name__})",
            "Correct `connection.tls.ca`, `cert` and `key`.",
        ) from None
    return {"ssl": context}


def _prepare(connection: Connection) -> None:
    """Refuse servers that are too old, and set the session."""
    server = connection.server = Server.parse(str(connection.query("SELECT @@version")[0][0]))
    if server.version[:2] < (MINIMUM_MARIADB if server.mariadb else MINIMUM_MYSQL):
        raise PreconditionError(f"the server is {server.name}", "MySQL 8.0 or MariaDB 10.5, or later, is needed.")
    settings = list(_SETTINGS)
    settings += ["max_statement_time = 0"] if server.mariadb else ["max_execution_time = 0"]
    if not server.mariadb:
        # Estimates of now, and none written down for others.
        settings.append("information_schema_stats_expiry = 0")
    connection.query("SET SESSION " + ", ".join(settings))
    connection.query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
