"""SQL Server's and FreeTDS's errors as the engine's, by error number: the one place where they are translated.

A message keeps the server's text where that names objects, rights or settings only; texts that may quote a value of a
row are left out. Numbers: learn.microsoft.com, "Database engine events and errors" (the server's, sys.messages); the
FreeTDS project's sybdb.h (20000 to 20999, the driver's own).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pymssql

from engine.errors import (
    DatabaseUnknown,
    EngineError,
    LoginRefused,
    PreconditionError,
    ResyncRequired,
    TlsFailed,
    TransientError,
)
from engine.schema import TableId

INVALID_COLUMN = 207
INVALID_OBJECT = 208
OBJECT_DENIED = 229
COLUMN_DENIED = 230
STATE_DENIED = 300
VIEW_DENIED = 297
LOCK_TIMEOUT = 1222
DEADLOCK = 1205
SNAPSHOT_NOT_ALLOWED = 3952
SNAPSHOT_DDL = 3961
INSUFFICIENT_ARGUMENTS = 313
LOGIN_FAILED = 18456

GONE = frozenset({INVALID_COLUMN, INVALID_OBJECT, SNAPSHOT_DDL, 3701, 4502, 4413, 16924, 2801})
"""A table, or its definition, is not what it was when the statement was made."""
DENIED = frozenset({OBJECT_DENIED, COLUMN_DENIED, STATE_DENIED, VIEW_DENIED, 262, 916, 22981})
"""A right is missing."""
_TRANSIENT = frozenset((
    *(DEADLOCK, LOCK_TIMEOUT, 596, 601, 617, 669, 701, 708, 802, 845, 921, 922, 923, 924, 926, 952, 976, 983, 988, 1204),
    *(3935, 3957, 3958, 3960, 3966, 3967, 3989, 4064, 6002, 6005, 8645, 8651, 8657, 9001, 9002, 10928, 10929, 10936),
    *(17142, 17143, 17188, 17197, 17830, 18401, 18451, 18461, 19406, 21670, 35201, 35206, 35250),
    *(40143, 40197, 40501, 40540, 40549, 40613, 41301, 41302, 41305, 41325, 41839, 42108, 49918, 49919, 49920),
    *(20002, 20003, 20004, 20006, 20009, 20017, 20019, 20047),
))  # fmt: skip
"""Servers and databases that start, stop, recover, move or are busy; deadlocks and time limits; the network."""
_TOLD = frozenset((
    *(INVALID_COLUMN, INVALID_OBJECT, OBJECT_DENIED, COLUMN_DENIED, STATE_DENIED, VIEW_DENIED, 262, 911, 916, 927, 942),
    *(LOCK_TIMEOUT, DEADLOCK, SNAPSHOT_NOT_ALLOWED, 3701, 4060, 2812, 15404, 22901, 22981, LOGIN_FAILED),
))  # fmt: skip
"""Errors whose text names accounts, rights, objects, settings or limits, never a value."""

_USER = "Correct `connection.user` and the password."
DATABASE_REMEDY = "Correct the database named in `instance.schema`, and let the user in: CREATE USER ... FOR LOGIN ...;"
_REMEDIES = {
    LOGIN_FAILED: _USER,
    18452: "Give the engine a login of SQL Server's own (not of Windows).",
    18470: "ALTER LOGIN ... ENABLE;",
    18486: "ALTER LOGIN ... WITH PASSWORD = '...' UNLOCK;",
    18487: "ALTER LOGIN ... WITH PASSWORD = '...';",
    18488: "ALTER LOGIN ... WITH PASSWORD = '...';",
    **dict.fromkeys((911, 916, 4060), DATABASE_REMEDY),
    SNAPSHOT_NOT_ALLOWED: "ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON;",
    22901: "EXEC sys.sp_cdc_enable_db;",
}
_KINDS: dict[int, type[EngineError]] = {
    **dict.fromkeys((LOGIN_FAILED, 18452, 18470, 18486, 18487, 18488, 20014), LoginRefused),
    **dict.fromkeys((911, 916, 4060), DatabaseUnknown),
    **dict.fromkeys((20002, 20017), TransientError),
}
_TLS = frozenset({20179, 20180, 20181})
_DRIVER_TEXT = re.compile(r"DB-Lib error message \d+.*", re.DOTALL)


def number_of(error: BaseException) -> int | None:
    """The number of one of the driver's errors; None when it has none (a lost connection)."""
    first = error.args[0] if error.args else None
    number = first[0] if isinstance(first, tuple) and first else first
    return number if isinstance(number, int) and number > 0 else None


def _text_of(error: BaseException) -> str:
    """The server's message, without what the driver says about it."""
    first = error.args[0] if error.args else None
    text = first[1] if isinstance(first, tuple) and len(first) > 1 else (error.args[1] if len(error.args) > 1 else "")
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return " ".join(_DRIVER_TEXT.sub("", str(text)).split())[:300]


def translate(error: BaseException, doing: str, remedy: str = "") -> EngineError:
    """The engine's error for one of the driver's, which came while `doing` something."""
    number = number_of(error)
    if number is None:
        return TransientError(f"{doing}: the connection was lost")
    if number in _TLS:
        return TlsFailed(f"{doing}: TLS failed (error {number})")
    said = _text_of(error) if number in _TOLD else ""
    if 20000 <= number < 21000:
        said = "the connection failed"
    message = f"{doing}: {said or 'the server refused'} (error {number})"
    if number in _TRANSIENT:
        return TransientError(message)
    kind = _KINDS.get(number, PreconditionError)
    if issubclass(kind, PreconditionError):
        return kind(message, remedy or _REMEDIES.get(number, ""))
    return kind(message)


DRIVER_ERRORS = (pymssql.Error, OSError)
"""All that the driver raises."""


@contextmanager
def translated(doing: str, remedy: str = "") -> Iterator[None]:
    """Let the driver's errors leave the block as the engine's."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error, doing, remedy) from None


def altered(table: TableId, how: str) -> ResyncRequired:
    """The table cannot be read as it was looked up."""
    return ResyncRequired(f"{table} {how} while it was being read", [table])
