"""MySQL's, MariaDB's and PyMySQL's errors as the engine's, by error number: the one place where they are translated.

A message keeps the server's text where that names objects, rights or settings only; texts that may quote a value of a
row are left out. Numbers: dev.mysql.com, "Server Error Message Reference" and "Client Error Message Reference";
mariadb.com/kb, "MariaDB Error Code Reference".
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pymysql

from connectors.mysql.types import database_pattern
from engine.errors import (
    DatabaseUnknown,
    EngineError,
    LoginRefused,
    PreconditionError,
    ResyncRequired,
    TlsFailed,
    TlsRefused,
    TransientError,
)
from engine.schema import TableId

ACCESS_DENIED = 1045
UNKNOWN_DATABASE = 1049
UNKNOWN_COLUMN = 1054
NO_SUCH_TABLE = 1146
TABLE_ACCESS_DENIED = 1142
COLUMN_ACCESS_DENIED = 1143
PRIVILEGE_NEEDED = 1227
DATABASE_ACCESS_DENIED = 1044
LOCK_WAIT_TIMEOUT = 1205
BINLOG_FATAL = 1236
DEFINITION_CHANGED = 1412
UNKNOWN_VARIABLE = 1193
NO_BINARY_LOG = 1381

_TRANSIENT = frozenset((
    *(1020, 1021, 1037, 1038, 1040, 1041, 1053, 1077, 1079, 1080, 1135, 1152, 1158, 1159, 1160, 1161, 1184, 1189, 1190),
    *(1203, LOCK_WAIT_TIMEOUT, 1213, 1226, 1317, 1430, 1613, 1836, 1927, 1969, 3024, 3168, 3572, 4031),
    *(2002, 2003, 2005, 2006, 2012, 2013, 2027, 2055),
))  # fmt: skip
"""Servers that start, stop, are full or busy; lock and time limits; killed sessions; the network."""
_TOLD = frozenset((
    *(1040, ACCESS_DENIED, DATABASE_ACCESS_DENIED, UNKNOWN_DATABASE, UNKNOWN_COLUMN, NO_SUCH_TABLE, 1129, 1130),
    *(TABLE_ACCESS_DENIED, COLUMN_ACCESS_DENIED, PRIVILEGE_NEEDED, UNKNOWN_VARIABLE, LOCK_WAIT_TIMEOUT, 1203, 1213),
    *(1226, BINLOG_FATAL, 1251, 1290, 1356, 1370, NO_BINARY_LOG, 1396, DEFINITION_CHANGED, 1449, 1524, 1698, 1820, 1862),
    *(1927, 1969, 3024, 3118, 3159, 3955, 4031, 4151),
))  # fmt: skip
"""Errors whose text names accounts, rights, objects, settings or limits, never a value."""

_REMEDIES = {
    ACCESS_DENIED: "Correct `connection.user` and the password, and let the user in from this host.",
    1698: "Correct `connection.user` and the password, and let the user in from this host.",
    1130: "Let the user in from this host: CREATE USER ...@'<host>'.",
    1129: "Run FLUSH HOSTS (or TRUNCATE performance_schema.host_cache) at the server.",
    UNKNOWN_DATABASE: "Correct the database named in `instance.schema`.",
    DATABASE_ACCESS_DENIED: "Grant the user SELECT on the database named in `instance.schema`.",
    3159: "The server accepts TLS only: set `connection.tls.mode` to require (or verify-full).",
    2026: "Correct `connection.tls`: the server and it do not agree.",
    1820: "Set the user's password anew: ALTER USER ... IDENTIFIED BY ...;",
    1862: "Set the user's password anew: ALTER USER ... IDENTIFIED BY ...;",
    3118: "Unlock the account: ALTER USER ... ACCOUNT UNLOCK;",
    4151: "Unlock the account: ALTER USER ... ACCOUNT UNLOCK;",
}


_NOT_INTO = re.compile(r"Access denied for user (?P<account>'[^']*'@'[^']*') to database '(?P<database>[^']+)'")
_KINDS: dict[int, type[PreconditionError]] = {
    **dict.fromkeys((ACCESS_DENIED, 1129, 1130, 1251, 1524, 1698, 1820, 1862, 3118, 3955, 4151), LoginRefused),
    **dict.fromkeys((2026, 3159), TlsRefused),
    UNKNOWN_DATABASE: DatabaseUnknown,
}


def server_error(number: int | None, text: str, doing: str, remedy: str = "") -> EngineError:
    """The engine's error for a server's (or the driver's) error number, which came while `doing` something."""
    if number is None:
        return TransientError(f"{doing}: connection lost")
    said = one_line(text) if number in _TOLD else "the server refused"
    message = f"{doing}: {said} (error {number})"
    if 2000 <= number < 3000:
        message = f"{doing}: the connection failed (error {number})"
    if number in _TRANSIENT:
        return TransientError(message)
    kind = _KINDS.get(number, PreconditionError)
    return kind(message, remedy or _grant_of_database(number, said) or _REMEDIES.get(number, ""))


def _grant_of_database(number: int, said: str) -> str:
    """The statement that lets the account into the database, both as the server names them; nothing if it does not."""
    found = _NOT_INTO.fullmatch(said) if number == DATABASE_ACCESS_DENIED else None
    return f"GRANT SELECT ON {database_pattern(found['database'])}.* TO {found['account']};" if found else ""


def number_of(error: BaseException) -> int | None:
    """The number of one of PyMySQL's errors; None when it has none (a lost or misunderstood connection)."""
    number = error.args[0] if isinstance(error, pymysql.MySQLError) and error.args else None
    return number if isinstance(number, int) and number > 0 else None


def translate(error: BaseException, doing: str, remedy: str = "") -> EngineError:
    """The engine's error for one of PyMySQL's, or of the socket beneath."""
    cause = getattr(error, "original_exception", error)
    if number_of(error) in {2006, 2013} and isinstance(error.__context__, OSError):
        cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TlsRefused(f"{doing}: the server's certificate was refused", _CERTIFICATE_REMEDY)
    if isinstance(cause, ssl.SSLError):
        return TlsFailed(f"{doing}: TLS failed ({cause.reason or 'the connection was closed'})")
    if isinstance(cause, TimeoutError):
        return TransientError(f"{doing}: the server did not answer in time")
    if isinstance(cause, OSError):
        return TransientError(f"{doing}: the connection failed ({cause.strerror or type(cause).__name__})")
    number = number_of(error)
    if number is None and isinstance(error, pymysql.OperationalError):
        return LoginRefused(f"{doing}: the server asks for a way to log in that is not known here")
    return server_error(number, str(error.args[1]) if len(error.args) > 1 else "", doing, remedy)


_CERTIFICATE_REMEDY = "Name its authority's file in `connection.tls.ca`, and the server as its certificate does."

DRIVER_ERRORS = (pymysql.MySQLError, OSError)
"""All that the driver raises."""


@contextmanager
def translated(doing: str, remedy: str = "") -> Iterator[None]:
    """Let the driver's errors leave the block as the engine's."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error, doing, remedy) from None


def altered(table: TableId, how: str) -> ResyncRequired:
    """The table cannot be read as of the snapshot any more."""
    return ResyncRequired(f"{table} {how} while its snapshot was being read", [table])


def one_line(text: str, limit: int = 300) -> str:
    """A server's message on one line."""
    return " ".join(text.split())[:limit]


def remedies(statements: Sequence[str]) -> str:
    """Statements as one remedy text."""
    return " ".join(s if s.endswith(";") else f"{s};" for s in statements)
