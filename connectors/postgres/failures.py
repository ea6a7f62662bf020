"""PostgreSQL's and libpq's errors as the engine's, by SQLSTATE: the one place where they are translated.

A message keeps the server's primary message where that cannot hold a value of a row, and never its DETAIL or CONTEXT,
which can. SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import pq

from engine.errors import EngineError, PreconditionError, ResyncRequired, TransientError
from engine.schema import TableId

UNDEFINED_TABLE = "42P01"
UNDEFINED_COLUMN = "42703"
UNDEFINED_OBJECT = "42704"
DUPLICATE_OBJECT = "42710"
INSUFFICIENT_PRIVILEGE = "42501"
OBJECT_IN_USE = "55006"
NOT_IN_PREREQUISITE_STATE = "55000"
LOCK_NOT_AVAILABLE = "55P03"
UNDEFINED_FILE = "58P01"
CONFIGURATION_LIMIT = "53400"

_AUTHENTICATION = {
    "28P01": "Correct `connection.user` and the password.",
    "28000": "Let this user and host in by pg_hba.conf (also for the pseudo-database `replication` is not needed).",
    "3D000": "Correct the database name in `instance.schema`.",
    "42501": "Grant the right that the message names.",
    "0LP01": "Grant the right that the message names.",
}
_WITHOUT_MESSAGE = ("22", "23", "P0")
"""Classes (data exceptions, constraint violations, raised by functions) whose primary message may quote a value."""


class SlotInUse(PreconditionError):
    """Another session streams from the slot (55006)."""


def sqlstate_error(state: str | None, primary: str, doing: str, remedy: str = "") -> EngineError:
    """The engine's error for a server error with this SQLSTATE, which came while `doing` something.

    Connection failures (08), resource limits (53), operator intervention (57), system errors (58), rollbacks (40) and
    lock timeouts pass by themselves; a missing right, object or setting does not.
    """
    if state is None:
        return TransientError(f"{doing}: the connection failed ({primary})" if primary else f"{doing}: connection lost")
    if state.startswith(_WITHOUT_MESSAGE):
        primary = "the server refused a value"
    text = f"{doing}: {primary} (SQLSTATE {state})"
    if state == OBJECT_IN_USE:
        return SlotInUse(text, remedy or "Another engine runs under this instance name: end it, or rename one.")
    if state == CONFIGURATION_LIMIT:
        return PreconditionError(text, remedy or "Raise max_replication_slots (ALTER SYSTEM SET ...) and restart.")
    if state[:2] in {"08", "53", "57", "58", "40", "XX"} or state in {LOCK_NOT_AVAILABLE, "25006", "25P03", "72000"}:
        return TransientError(text)
    if state.startswith("22"):
        return TransientError(text)
    return PreconditionError(text, remedy or _AUTHENTICATION.get(state, ""))


def translate(error: psycopg.Error, doing: str, remedy: str = "") -> EngineError:
    """The engine's error for one of psycopg's."""
    state = error.sqlstate
    if state is None:
        return TransientError(f"{doing}: {one_line(str(error)) or 'connection lost'}")
    return sqlstate_error(state, error.diag.message_primary or "", doing, remedy)


@contextmanager
def translated(doing: str, remedy: str = "") -> Iterator[None]:
    """Let psycopg's errors leave the block as the engine's."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, doing, remedy) from None


def result_error(result: pq.abc.PGresult, doing: str) -> EngineError:
    """The engine's error for a failed libpq result."""
    state, primary = result_fields(result)
    return sqlstate_error(state, primary, doing)


def result_fields(result: pq.abc.PGresult) -> tuple[str | None, str]:
    """SQLSTATE and primary message of a failed libpq result."""
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
    text = primary.decode("utf-8", "replace") if primary else one_line(result.get_error_message())
    return (state.decode("ascii") if state else None), text


def stream_error(state: str | None, primary: str, slot: str) -> EngineError:
    """The engine's error for a failure of START_REPLICATION or of the stream itself.

    A slot or publication that is not there (42704), a slot that was invalidated (55000) and WAL that was removed
    (58P01) mean that changes are lost to the stream: everything is loaded again. All but the last are also what an
    unsuitable set-up gives; `prepare` then says so before anything is loaded.
    """
    if state in {UNDEFINED_OBJECT, NOT_IN_PREREQUISITE_STATE, UNDEFINED_FILE}:
        return ResyncRequired(f"slot {slot} cannot be streamed from: {primary} (SQLSTATE {state})")
    return sqlstate_error(state, primary, f"streaming from slot {slot}")


def altered(table: TableId, how: str) -> ResyncRequired:
    """The table cannot be read as of the snapshot any more."""
    return ResyncRequired(f"{table} {how} while its snapshot was being read", [table])


def one_line(text: str, limit: int = 300) -> str:
    """The first part of a driver's message on one line, cut before any DETAIL or CONTEXT."""
    kept: list[str] = []
    for line in text.splitlines():
        if re.match(r"(DETAIL|CONTEXT|HINT|LINE|STATEMENT|QUERY)\b", line):
            break
        kept.append(line.strip())
    return " ".join(filter(None, kept))[:limit]


def remedies(statements: Sequence[str]) -> str:
    """Statements as one remedy text."""
    return " ".join(s if s.endswith(";") else f"{s};" for s in statements)
