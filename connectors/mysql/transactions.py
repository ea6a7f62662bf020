"""GTID events of either server: where a transaction begins, and what it is called. One by one and in vectors.

Source of the formats: MySQL source documentation, "Gtid_event" and "MySQL Serialization Library" (GTID_TAGGED, event
42, since 8.3), dev.mysql.com; MariaDB Knowledge Base, "GTID_EVENT" and "GTID_LIST_EVENT" (mariadb.com/kb).
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from connectors.columnar import Offsets
from connectors.mysql.events import ANONYMOUS_GTID, GTID_TAGGED, Xid
from connectors.mysql.wire import Cursor
from engine.errors import DecodeError


class Gtid(NamedTuple):
    """A MySQL GTID event. `server` is a UUID; an anonymous transaction has number 0. Times in µs since 1970."""

    server: str
    tag: str
    number: int
    committed: int
    """When this server committed it; 0 when the event does not say (MySQL 5.7)."""
    originally: int
    """When the first server committed it."""
    length: int
    """Bytes of the whole transaction in the log, this event included; 0 when the event does not say."""


class MariadbGtid(NamedTuple):
    """A MariaDB GTID event (the server id is in the event header)."""

    domain: int
    number: int
    flags: int
    xid: Xid | None

    @property
    def standalone(self) -> bool:
        """Whether one statement follows without BEGIN and COMMIT (DDL)."""
        return bool(self.flags & 1)

    @property
    def ddl(self) -> bool:
        """Whether the statement that follows is DDL."""
        return bool(self.flags & 32)

    @property
    def prepared(self) -> bool:
        """Whether rows of an XA transaction follow, up to its XA_PREPARE."""
        return bool(self.flags & 64)

    @property
    def completed(self) -> bool:
        """Whether the XA COMMIT or ROLLBACK of `xid`, prepared before, follows."""
        return bool(self.flags & 128)


def parse_gtid(body: bytes, type: int) -> Gtid:
    """Parse GTID, ANONYMOUS_GTID or GTID_TAGGED."""
    if type == GTID_TAGGED:
        return _parse_tagged(body)
    cursor = Cursor(body, "a GTID event")
    cursor.raw(1)
    server = str(uuid.UUID(bytes=cursor.raw(16)))
    (number,) = cursor.take("<q")
    committed = originally = length = 0
    if cursor.left and cursor.number(1) == 2:
        cursor.take("<qq")
        if cursor.left >= 7:
            committed = originally = cursor.number(7)
            if committed >> 55:
                committed &= (1 << 55) - 1
                originally = cursor.number(7)
            if cursor.left:
                length = cursor.lenenc()
    if type == ANONYMOUS_GTID:
        number = 0
    elif number < 1:
        raise cursor.malformed()
    return Gtid(server, "", number, committed, originally, length)


def _unsigned(cursor: Cursor) -> int:
    """A number of 1 to 9 bytes: the first one's trailing ones say how many follow, the value is in the bits left."""
    first = cursor.number(1)
    more = (~first & (first + 1)).bit_length() - 1
    if more == 8:
        return cursor.number(8)
    return first >> (more + 1) | cursor.number(more) << (7 - more)


def _signed(cursor: Cursor) -> int:
    """As `_unsigned`, with the sign in the lowest bit (negative numbers complemented)."""
    value = _unsigned(cursor)
    return ~(value >> 1) if value & 1 else value >> 1


def _parse_tagged(body: bytes) -> Gtid:
    """GTID_TAGGED: numbered fields, each encoded by its own rule; fields may be missing, and new ones are at the end.

    Fields: 0 flags, 1 UUID, 2 number, 3 tag, 4 last committed, 5 sequence number, 6 commit time, 7 original commit
    time, 8 length, 9 server version, 10 original server version, 11 commit group ticket.
    """
    cursor = Cursor(body, "a GTID_TAGGED event")
    if _unsigned(cursor) != 1:
        raise DecodeError("a GTID_TAGGED event is of an unknown format")
    size = _unsigned(cursor)
    needed = _unsigned(cursor)
    if size != len(body):
        raise cursor.malformed()
    if needed > 12:
        raise DecodeError("a GTID_TAGGED event needs a field that is not known")
    server, tag, number, values = "", "", 0, {}
    before = -1
    while cursor.left:
        field = _unsigned(cursor)
        if field <= before:
            raise cursor.malformed()
        before = field
        if field == 1:
            octets = [_unsigned(cursor) for _ in range(16)]
            if max(octets) > 255:
                raise cursor.malformed()
            server = str(uuid.UUID(bytes=bytes(octets)))
        elif field == 3:
            tag = cursor.text(_unsigned(cursor))
        elif field in {2, 4, 5}:
            value = _signed(cursor)
            number = value if field == 2 else number
        elif field <= 11:
            values[field] = _unsigned(cursor)
        else:
            break
    if not server or number < 1:
        raise cursor.malformed()
    committed = values.get(6, 0)
    return Gtid(server, tag, number, committed, values.get(7, committed), values.get(8, 0))


def parse_mariadb_gtid(body: bytes) -> MariadbGtid:
    """Parse MariaDB's GTID event."""
    cursor = Cursor(body, "a GTID event")
    number, domain, flags = cursor.take("<QIB")
    if flags & 2:
        cursor.take("<Q")
    xid = None
    if flags & 0xC0:
        kind, gtrid, bqual = cursor.take("<IBB")
        if gtrid > 64 or bqual > 64:
            raise cursor.malformed()
        xid = Xid(kind, cursor.raw(gtrid), cursor.raw(bqual))
    return MariadbGtid(domain, number, flags, xid)


def parse_gtid_list(body: bytes) -> list[tuple[int, int, int]]:
    """Parse GTID_LIST: (domain, server id, number) of the last transactions before this file.

    A domain appears once per server that wrote to it; the last entry of a domain is its current position.
    """
    cursor = Cursor(body, "a GTID_LIST event")
    (count,) = cursor.take("<I")
    count &= (1 << 28) - 1  # flags above
    if count * 16 > cursor.left:
        raise cursor.short()
    entries = [cursor.take("<IIQ") for _ in range(count)]
    return [(domain, server, number) for domain, server, number in entries]


class GtidRun(NamedTuple):
    """Many plain MySQL GTID events in vectors."""

    servers: list[str]
    """The distinct UUIDs."""
    which: Offsets
    """Per event an index into `servers`."""
    numbers: Offsets
    committed: Offsets
    """µs since 1970; 0 when not said."""


def gtid_run(u8: npt.NDArray[np.uint8], body: Offsets, end: Offsets) -> GtidRun:
    """Decode GTID events (type 33) that lie at `body` to `end` in one buffer."""
    if len(body) == 0:
        return GtidRun([], body, body, body)
    if bool((end - body < 25).any()) or int(end.max()) > len(u8):
        raise DecodeError("a GTID event ends too early")
    octets = u8[body[:, None] + np.arange(1, 25)]
    names = np.ascontiguousarray(octets[:, :16]).view("V16").reshape(-1)
    if bool((names == names[0]).all()):
        distinct, which = names[:1], np.zeros(len(body), np.int64)
    else:
        distinct, which = np.unique(names, return_inverse=True)
    numbers = np.ascontiguousarray(octets[:, 16:]).view("<i8").reshape(-1).astype(np.int64)
    if int(numbers.min()) < 1:
        raise DecodeError("a GTID event is malformed")
    committed = np.zeros(len(body), np.int64)
    told = np.flatnonzero(end - body >= 49)
    told = told[u8[body[told] + 25] == 2]
    if len(told):
        times = np.zeros((len(told), 8), np.uint8)
        times[:, :7] = u8[body[told][:, None] + np.arange(42, 49)]
        committed[told] = times.view("<i8").reshape(-1) & ((1 << 55) - 1)
    servers = [str(uuid.UUID(bytes=name.tobytes())) for name in distinct]
    return GtidRun(servers, which.reshape(-1).astype(np.int64), numbers, committed)


class MariadbGtidRun(NamedTuple):
    """Many MariaDB GTID events in vectors."""

    domains: Offsets
    numbers: npt.NDArray[np.uint64]
    flags: npt.NDArray[np.uint8]


def mariadb_gtid_run(u8: npt.NDArray[np.uint8], body: Offsets, end: Offsets) -> MariadbGtidRun:
    """Decode the fixed part of MariaDB GTID events that lie at `body` to `end` in one buffer."""
    if len(body) and (bool((end - body < 13).any()) or int(end.max()) > len(u8)):
        raise DecodeError("a GTID event ends too early")
    octets = u8[body[:, None] + np.arange(13)]
    numbers = np.ascontiguousarray(octets[:, :8]).view("<u8").reshape(-1).astype(np.uint64)
    domains = np.ascontiguousarray(octets[:, 8:12]).view("<u4").reshape(-1).astype(np.int64)
    return MariadbGtidRun(domains, numbers, octets[:, 12])
