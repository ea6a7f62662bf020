"""The rare events of a binary log, parsed one by one. Pure: an event's body in, a value out.

A body is what lies between the 19-byte event header and the checksum. Source of the formats: MySQL source
documentation, "Binlog Event" (`mysql::binlog::event`, dev.mysql.com), and MariaDB Knowledge Base, "Replication
Protocol" (mariadb.com/kb). GTIDs are in `connectors.mysql.transactions`, statements in `connectors.mysql.statements`,
table maps in `connectors.mysql.tablemap`, rows in `connectors.mysql.rows`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from connectors.mysql.wire import Cursor
from engine.errors import DecodeError

HEADER = 19
"""Bytes of the header of every event: timestamp, type, server id, length, position of the next event, flags."""
IGNORABLE = 0x80
"""LOG_EVENT_IGNORABLE_F: who does not know the event may pass over it."""
ARTIFICIAL = 0x20
"""LOG_EVENT_ARTIFICIAL_F: made for this dump, not in the file (its position counts for nothing)."""
SUPPRESS_USE = 0x08
"""LOG_EVENT_SUPPRESS_USE_F: the statement does not depend on the default database."""

QUERY, STOP, ROTATE, INTVAR, APPEND_BLOCK, DELETE_FILE, RAND, USER_VAR = 2, 3, 4, 5, 9, 11, 13, 14
FORMAT_DESCRIPTION, XID, BEGIN_LOAD_QUERY, EXECUTE_LOAD_QUERY, TABLE_MAP = 15, 16, 17, 18, 19
WRITE_ROWS_V1, UPDATE_ROWS_V1, DELETE_ROWS_V1, INCIDENT, HEARTBEAT, IGNORABLE_EVENT, ROWS_QUERY = (
    23,
    24,
    25,
    26,
    27,
    28,
    29,
)
WRITE_ROWS, UPDATE_ROWS, DELETE_ROWS, GTID, ANONYMOUS_GTID, PREVIOUS_GTIDS = 30, 31, 32, 33, 34, 35
TRANSACTION_CONTEXT, VIEW_CHANGE, XA_PREPARE, PARTIAL_UPDATE_ROWS = 36, 37, 38, 39
TRANSACTION_PAYLOAD, HEARTBEAT_V2, GTID_TAGGED = 40, 41, 42
ANNOTATE_ROWS, BINLOG_CHECKPOINT, MARIADB_GTID, MARIADB_GTID_LIST, START_ENCRYPTION = 160, 161, 162, 163, 164
QUERY_COMPRESSED, WRITE_ROWS_COMPRESSED_V1, UPDATE_ROWS_COMPRESSED_V1, DELETE_ROWS_COMPRESSED_V1 = 165, 166, 167, 168
WRITE_ROWS_COMPRESSED, UPDATE_ROWS_COMPRESSED, DELETE_ROWS_COMPRESSED = 169, 170, 171


class Role(enum.IntEnum):
    """What an event type is for whoever follows the log."""

    UNKNOWN = 0
    """Not known here: it may carry data. `check_known` raises unless the event says that it may be passed over."""
    NOTHING = 1
    """Carries no data: comments, contexts of statements, marks of the file, heartbeats."""
    BEGIN = 2
    """A GTID event of either server: a transaction (or a statement that is one by itself) begins."""
    TABLE_MAP = 3
    ROWS = 4
    COMMIT = 5
    """XID: the transaction is committed."""
    STATEMENT = 6
    """QUERY or LOAD DATA: begin, commit, DDL, or a change in statement format."""
    RARE = 7
    """ROTATE, FORMAT_DESCRIPTION, heartbeats, XA_PREPARE, INCIDENT."""


_ROLES = {
    Role.NOTHING: (
        *(STOP, INTVAR, APPEND_BLOCK, DELETE_FILE, RAND, USER_VAR, BEGIN_LOAD_QUERY, IGNORABLE_EVENT, ROWS_QUERY),
        *(PREVIOUS_GTIDS, TRANSACTION_CONTEXT, VIEW_CHANGE, ANNOTATE_ROWS, BINLOG_CHECKPOINT, MARIADB_GTID_LIST),
        START_ENCRYPTION,
    ),
    Role.BEGIN: (GTID, ANONYMOUS_GTID, GTID_TAGGED, MARIADB_GTID),
    Role.TABLE_MAP: (TABLE_MAP,),
    Role.ROWS: (
        *(WRITE_ROWS_V1, UPDATE_ROWS_V1, DELETE_ROWS_V1),
        *(WRITE_ROWS, UPDATE_ROWS, DELETE_ROWS, PARTIAL_UPDATE_ROWS),
    ),
    Role.COMMIT: (XID,),
    Role.STATEMENT: (QUERY, EXECUTE_LOAD_QUERY),
    Role.RARE: (ROTATE, FORMAT_DESCRIPTION, HEARTBEAT, HEARTBEAT_V2, XA_PREPARE, INCIDENT),
}
ROLES: npt.NDArray[np.uint8] = np.zeros(256, np.uint8)
"""The role of every event type, as a table to gather from. Compressed events are inflated before anyone asks."""
for _role, _types in _ROLES.items():
    ROLES[list(_types)] = _role


def check_known(types: npt.NDArray[np.uint8], flags: npt.NDArray[np.int64]) -> None:
    """Raise DecodeError for an event of unknown type, unless its writer says that it may be passed over."""
    unknown = (ROLES[types] == Role.UNKNOWN) & (flags & IGNORABLE == 0)
    if bool(unknown.any()):
        raise DecodeError(f"the binary log holds an event of unknown type {int(types[unknown][0])}")


class FormatDescription(NamedTuple):
    """FORMAT_DESCRIPTION: who wrote the file, and whether its events end with a CRC32."""

    server_version: str
    checksum: bool
    post_headers: bytes
    """Bytes of the fixed part of each event type's body, from type 1 on."""

    @property
    def mariadb(self) -> bool:
        """Whether a MariaDB server wrote the file."""
        return "mariadb" in self.server_version.lower()


class Rotate(NamedTuple):
    """ROTATE: the log goes on in `file` at `offset`."""

    offset: int
    file: str


class Heartbeat(NamedTuple):
    """A heartbeat: the server is there and has sent everything before `file`, `offset` (None: `Events.ends_at`)."""

    file: str
    offset: int | None


class Incident(NamedTuple):
    """INCIDENT: the server says that changes may be missing from the log (1: lost events). Needs a resync."""

    number: int


class Query(NamedTuple):
    """QUERY or EXECUTE_LOAD_QUERY: a statement and the session it ran in. `statement` is in the client's charset."""

    schema: str
    statement: bytes
    sql_mode: int
    client: int | None
    """Collation number of `character_set_client`, None when the event does not say (utf8 then)."""
    error: int
    load: bool = False
    """The statement is a LOAD DATA whose file came before it."""
    written: tuple[str, ...] | None = None
    """The schemas that it wrote to, through triggers and functions too; None when the event does not say."""


class Xid(NamedTuple):
    """The name of an XA transaction."""

    format: int
    gtrid: bytes
    bqual: bytes


class XaPrepare(NamedTuple):
    """XA_PREPARE: the transaction's rows end here; without `one_phase` its XA COMMIT or ROLLBACK comes later."""

    xid: Xid
    one_phase: bool


def parse_format_description(body: bytes) -> FormatDescription:
    """Parse FORMAT_DESCRIPTION (version 4).

    Servers since MySQL 5.6.1 and MariaDB 5.3 end it with the checksum algorithm, and always with a checksum.
    """
    cursor = Cursor(body, "a FORMAT_DESCRIPTION event")
    (version,) = cursor.take("<H")
    server = cursor.raw(50).split(b"\0", 1)[0].decode("ascii", "replace")
    cursor.take("<I")
    header = cursor.number(1)
    if version != 4 or header != HEADER:
        raise DecodeError(f"the binary log is of version {version} with headers of {header} bytes, not 4 with {HEADER}")
    if cursor.left < 1:
        raise cursor.short()
    post_headers = cursor.raw(cursor.left - 1)
    algorithm = cursor.number(1)
    if algorithm > 1:
        raise DecodeError(f"the binary log has checksums of an unknown algorithm {algorithm}")
    return FormatDescription(server, algorithm == 1, post_headers)


def parse_rotate(body: bytes) -> Rotate:
    """Parse ROTATE."""
    cursor = Cursor(body, "a ROTATE event")
    (offset,) = cursor.take("<Q")
    name = cursor.text(cursor.left)
    if not name or "\0" in name or "\n" in name:
        raise cursor.malformed()
    return Rotate(offset, name)


def parse_heartbeat(body: bytes, type: int) -> Heartbeat:
    """Parse HEARTBEAT or HEARTBEAT_V2 (fields with a type and a length each; sent to who asks by dump flag 2)."""
    cursor = Cursor(body, "a heartbeat event")
    if type == HEARTBEAT:
        # MariaDB puts an offset over 4 GiB before the name. It has a zero byte, which no name has.
        offset = cursor.number(8) if b"\0" in body[:8] else None
        return Heartbeat(cursor.text(cursor.left), offset)
    file, offset = "", None
    while cursor.left:
        field = cursor.lenenc()
        if field == 0:
            break
        value = Cursor(cursor.raw(cursor.lenenc()), cursor.what)
        if field == 1:
            file = value.text(value.left)
        elif field == 2:
            offset = value.lenenc()
    return Heartbeat(file, offset)


def parse_incident(body: bytes) -> Incident:
    """Parse INCIDENT; its message is free text and stays unread."""
    return Incident(Cursor(body, "an INCIDENT event").number(2))


def parse_xid(body: bytes) -> int:
    """The number of the transaction that a XID event commits."""
    (number,) = Cursor(body, "a XID event").take("<Q")
    return number


def parse_xa_prepare(body: bytes) -> XaPrepare:
    """Parse XA_PREPARE of either server."""
    cursor = Cursor(body, "an XA_PREPARE event")
    one_phase = cursor.number(1)
    kind, gtrid, bqual = cursor.take("<III")
    if one_phase > 1 or gtrid > 64 or bqual > 64:
        raise cursor.malformed()
    xid = Xid(kind, cursor.raw(gtrid), cursor.raw(bqual))
    return XaPrepare(xid, one_phase == 1)


_STATUS = {0: 4, 1: 8, 3: 4, 4: 6, 7: 2, 8: 2, 9: 8, 10: 4, 13: 3, 16: 1, 17: 8, 18: 2, 19: 1, 20: 1, 128: 3, 129: 8}
"""Bytes of the status variables of fixed length."""
_STATUS_TEXTS = {2: (1, 1), 5: (1, 0), 6: (1, 0), 11: (2, 0)}
"""Status variables of texts: how many, and bytes behind them."""


_TOO_MANY_SCHEMAS = 254


def _session(data: bytes) -> tuple[int, int | None, tuple[str, ...] | None]:
    """The SQL mode, client collation and written schemas among a QUERY event's status variables.

    They come in the order of their numbers, the two first of all; behind a variable that is not known nothing can be
    read, as for the server itself.
    """
    cursor = Cursor(data, "a QUERY event")
    sql_mode, client, written = 0, None, None
    while cursor.left:
        variable = cursor.number(1)
        if variable == 1:
            sql_mode = cursor.number(8)
        elif variable == 4:
            client = cursor.number(2)
            cursor.raw(4)
        elif variable == 12:
            count = cursor.number(1)
            if count != _TOO_MANY_SCHEMAS:
                written = tuple(cursor.until_zero().decode("utf-8", "surrogateescape") for _ in range(count))
        elif variable in _STATUS:
            cursor.raw(_STATUS[variable])
        elif variable in _STATUS_TEXTS:
            count, behind = _STATUS_TEXTS[variable]
            for _ in range(count):
                cursor.raw(cursor.number(1))
            cursor.raw(behind)
        else:
            break
    return sql_mode, client, written


def parse_query(body: bytes, type: int = QUERY) -> Query:
    """Parse QUERY or EXECUTE_LOAD_QUERY. A name that is not UTF-8 raises DecodeError."""
    cursor = Cursor(body, "a QUERY event")
    _thread, _seconds, schema_length, error, status_length = cursor.take("<IIBHH")
    if type == EXECUTE_LOAD_QUERY:
        cursor.take("<IIIB")
    status = cursor.raw(status_length)
    schema = cursor.text(schema_length)
    cursor.zero()
    sql_mode, client, written = _session(status)
    return Query(schema, cursor.rest(), sql_mode, client, error, type == EXECUTE_LOAD_QUERY, written)
