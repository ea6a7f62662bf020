"""The replication slot: its name, its making, and whether a stream can continue from it exactly."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from typing import Self

from psycopg import pq

from connectors.postgres.connection import Connection, fetch_one
from connectors.postgres.failures import SlotInUse, result_error
from connectors.postgres.landmark import Landmark
from connectors.postgres.position import Lsn
from engine.errors import PreconditionError
from engine.source import StreamState

PLUGIN = "pgoutput"
_BASE_LENGTH = 55
"""Longest name: 63 bytes, less the suffix of the second publication."""
IN_USE_PATIENCE = 5.0
"""Seconds for which a slot may still be held by a connection that has just died."""

_CURRENT_WAL = """
SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
             ELSE pg_catalog.pg_current_wal_insert_lsn() END)::text,
       pg_catalog.current_setting('wal_block_size')::int8,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))
"""
_PAGE_HEADER, _SEGMENT_HEADER = 24, 40
"""Bytes at the beginning of each page of the log, and of the first page of each file (access/xlog_internal.h)."""


def object_name(instance: str) -> str:
    """What slot and publication of an instance are called: lower case letters, digits and underscores only.

    A name that does not survive that (or is too long) gets a short digest, so that two instances never share one.
    """
    plain = "reflex_" + re.sub(r"[^a-z0-9_]", "_", instance)
    if plain == f"reflex_{instance}" and len(plain) <= _BASE_LENGTH:
        return plain
    digest = hashlib.sha256(instance.encode()).hexdigest()[:8]
    return f"{plain[: _BASE_LENGTH - 9].rstrip('_')}_{digest}"


@dataclass(frozen=True, slots=True)
class History:
    """What tells one history of a server's log from another's. `landmark` is None until one is known."""

    system: str
    timeline: int
    database: int
    slot: str
    landmark: Landmark | None = None

    def to_text(self) -> str:
        """The text that the replica stores."""
        raw: dict[str, object] = {name: getattr(self, name) for name in ("system", "timeline", "database", "slot")}
        if self.landmark is not None:
            raw["landmark"] = self.landmark.to_json()
        return json.dumps(raw, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Read `to_text` back; None for anything else."""
        try:
            raw = json.loads(text or "")
            landmark = Landmark.from_json(raw.get("landmark"))
            return cls(str(raw["system"]), int(raw["timeline"]), int(raw["database"]), str(raw["slot"]), landmark)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Slot:
    """A row of pg_replication_slots. `lost` says why the server cannot stream from it any more."""

    kind: str
    plugin: str | None
    database: str | None
    temporary: bool
    active_pid: int | None
    confirmed: Lsn | None
    lost: str


def read_slot(connection: Connection, name: str) -> Slot | None:
    """Look the slot up; None if there is none."""
    version = connection.info.server_version
    wal_status = "wal_status" if version >= 130000 else "NULL"
    conflicting = "conflicting" if version >= 160000 else "NULL::bool"
    reason = "invalidation_reason" if version >= 170000 else "NULL"
    row = fetch_one(
        connection,
        f"""SELECT slot_type, plugin, database, temporary, active_pid, confirmed_flush_lsn::text, restart_lsn::text,
                   {wal_status}, {conflicting}, {reason}
            FROM pg_catalog.pg_replication_slots WHERE slot_name = %s""",
        [name],
    )
    if row is None:
        return None
    kind, plugin, database, temporary, pid, confirmed, restart, status, conflict, invalidated = row
    lost = ""
    if status == "lost" or invalidated is not None:
        lost = f"the server invalidated it ({invalidated or 'its WAL was removed'})"
    elif conflict:
        lost = "it conflicted with recovery"
    elif restart is None:
        lost = "the server keeps no WAL for it"
    position = None if confirmed is None else Lsn.parse(confirmed)
    return Slot(kind, plugin, database, temporary, pid, position, lost)


def wal_position(connection: Connection) -> Lsn:
    """Where the server's log ends now (on a standby: what it has replayed)."""
    row = fetch_one(connection, _CURRENT_WAL)
    return log_end(Lsn.parse(row[0]), row[1], row[2]) if row is not None and row[0] is not None else Lsn(0)


def log_end(insert: Lsn, page: int, segment: int) -> Lsn:
    """Where the last record ends, given where the next one will begin.

    When the last one ends with its page, the next one begins behind the header of a page that is not there yet: nothing
    that the server sends gets to that place before there is a next record.
    """
    if insert.value % segment == _SEGMENT_HEADER:
        return Lsn(insert.value - _SEGMENT_HEADER)
    if insert.value % page == _PAGE_HEADER:
        return Lsn(insert.value - _PAGE_HEADER)
    return insert


def read_history(connection: Connection, slot: str) -> History:
    """Ask the server who it is. `connection` is a replication connection."""
    result = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise result_error(result, "asking the server for its identity")
    system, timeline = (result.get_value(0, i) or b"" for i in (0, 1))
    row = fetch_one(
        connection, "SELECT oid::int8 FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
    )
    assert row is not None
    return History(system.decode(), int(timeline), row[0], slot)


def switch_point(connection: Connection, now: int, then: int) -> Lsn | None:
    """Where timeline `then` was left on the way to timeline `now`; None when it is no ancestor of it."""
    result = connection.pgconn.exec_(f"TIMELINE_HISTORY {now}".encode())
    if result.status != pq.ExecStatus.TUPLES_OK:
        return None
    content = (result.get_value(0, 1) or b"").decode("utf-8", "replace")
    for line in content.splitlines():
        fields = line.split("\t")
        if len(fields) >= 2 and fields[0].strip() == str(then):
            return Lsn.parse(fields[1].strip())
    return None


def resume_state(
    connection: Connection, now: History, after: Lsn, stored: History | None, own_pid: int | None
) -> StreamState:
    """Whether streaming from the slot of `now` can continue exactly at `after`, when the server was `stored`.

    `connection` is a replication connection. Raises SlotInUse when another session streams from the slot (one that has
    just died is given a little time).
    """
    name = now.slot
    broken = _broken_history(connection, now, after, stored)
    if broken:
        return StreamState(None, broken)
    slot = _wait_until_free(connection, name, own_pid)
    if slot is None:
        return StreamState(None, f"replication slot {name} does not exist")
    database = connection.info.dbname
    if slot.kind != "logical" or slot.plugin != PLUGIN or slot.database != database or slot.temporary:
        return StreamState(None, f"replication slot {name} is not one that this instance made")
    if slot.lost:
        return StreamState(None, f"replication slot {name} is lost: {slot.lost}")
    if slot.confirmed is None or slot.confirmed > after:
        where = f"stands at {slot.confirmed}, behind which the replica's {after} lies"
        return StreamState(None, f"replication slot {name} was advanced or created again: it {where}")
    return StreamState(after)


def _broken_history(connection: Connection, now: History, after: Lsn, stored: History | None) -> str:
    if stored is None:
        return "it is not known which server the stored position belongs to"
    if stored.system != now.system:
        return "this is another server (its system identifier differs)"
    if stored.database != now.database:
        return "the database was dropped and created again"
    if stored.slot != now.slot:
        return "the stored position belongs to another replication slot"
    if stored.timeline != now.timeline:
        left = switch_point(connection, now.timeline, stored.timeline)
        if left is None or after > left:
            return f"the server went from timeline {stored.timeline} to {now.timeline} before the stored position"
    current = wal_position(connection)
    if after > current:
        return f"the server's log ends at {current}, before the stored {after}: it was restored to an earlier time"
    return ""


def _wait_until_free(connection: Connection, name: str, own_pid: int | None) -> Slot | None:
    deadline = time.monotonic() + IN_USE_PATIENCE
    while True:
        slot = read_slot(connection, name)
        if slot is None or slot.active_pid is None or slot.active_pid == own_pid:
            return slot
        if time.monotonic() > deadline:
            raise SlotInUse(
                f"replication slot {name} is in use by the server process {slot.active_pid}.",
                "Another engine runs under this instance name: end it, or rename one.",
            )
        time.sleep(0.1)


def create_slot(connection: Connection, name: str, *, temporary: bool) -> tuple[Lsn, str]:
    """Make a slot; returns its consistent point and the name of the snapshot exported there.

    `connection` is a replication connection; the snapshot can be imported while it stays open and idle. Waits for the
    transactions that are running now.
    """
    version = connection.info.server_version
    kind = "TEMPORARY LOGICAL" if temporary else "LOGICAL"
    options = "EXPORT_SNAPSHOT"
    if version >= 170000 and not temporary and not _in_recovery(connection):
        options = "(SNAPSHOT 'export', FAILOVER true)"
    result = connection.pgconn.exec_(f'CREATE_REPLICATION_SLOT "{name}" {kind} {PLUGIN} {options}'.encode())
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise result_error(result, f"creating replication slot {name}")
    point, snapshot = (result.get_value(0, i) for i in (1, 2))
    if point is None or snapshot is None:
        raise PreconditionError(f"the server exported no snapshot with replication slot {name}.")
    return Lsn.parse(point.decode()), snapshot.decode()


def drop_slot(connection: Connection, name: str) -> bool:
    """Drop the slot if it is there; whether it was. Raises SlotInUse when it is being streamed from."""
    slot = _wait_until_free(connection, name, None)
    if slot is None:
        return False
    connection.execute(b"SELECT pg_catalog.pg_drop_replication_slot(%s)", [name])
    return True


def _in_recovery(connection: Connection) -> bool:
    row = fetch_one(connection, "SELECT pg_catalog.pg_is_in_recovery()")
    return row is not None and bool(row[0])
