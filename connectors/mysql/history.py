"""Which server this is, where its binary log ends, and whether a stream can continue at a position exactly.

A position by GTID holds on every server of one replication topology; one by file and offset only on its own server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from connectors.mysql.connection import Connection
from connectors.mysql.gtids import GtidSet, MariadbGtids
from connectors.mysql.landmark import Landmark
from connectors.mysql.position import BinlogPosition
from engine.errors import PreconditionError
from engine.source import StreamState


@dataclass(frozen=True, slots=True)
class Node:
    """A server as it says of itself. `name`: its UUID (MySQL), or server id (MariaDB)."""

    mariadb: bool
    name: str
    server_id: int
    by_gtid: bool
    """Whether every transaction has a GTID (always so on MariaDB)."""


@dataclass(frozen=True, slots=True)
class History:
    """What tells one history of a server's log from another's. `landmark` is None until one is known."""

    mariadb: bool
    name: str
    landmark: Landmark | None = None

    @classmethod
    def of(cls, node: Node, landmark: Landmark | None = None) -> Self:
        """The history that a server writes now."""
        return cls(node.mariadb, node.name, landmark)

    def to_text(self) -> str:
        """The text that the replica stores."""
        raw: dict[str, object] = {"mariadb": self.mariadb, "server": self.name}
        if self.landmark is not None:
            raw["landmark"] = self.landmark.to_json()
        return json.dumps(raw, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Read `to_text` back; None for anything else."""
        try:
            raw = json.loads(text or "")
            mariadb, name, landmark = raw["mariadb"], raw["server"], raw.get("landmark")
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        if not (isinstance(mariadb, bool) and isinstance(name, str)):
            return None
        return cls(mariadb, name, Landmark.from_json(landmark))


def look(connection: Connection) -> Node:
    """Ask a server who it is."""
    if connection.server.mariadb:
        (server_id,) = _row(connection, "SELECT @@GLOBAL.server_id")
        return Node(True, str(server_id), int(server_id), by_gtid=True)
    name, server_id, mode = _row(connection, "SELECT @@GLOBAL.server_uuid, @@GLOBAL.server_id, @@GLOBAL.gtid_mode")
    return Node(False, str(name).lower(), int(server_id), by_gtid=mode == "ON")


def log_position(connection: Connection, node: Node) -> BinlogPosition:
    """Where the server's binary log ends now. Raises PreconditionError when it writes none.

    The GTIDs are those of committed transactions; file and offset may be a little ahead of them.
    """
    gtids: GtidSet | MariadbGtids | None = None
    if node.mariadb:
        gtids = MariadbGtids.parse(_row(connection, "SELECT @@GLOBAL.gtid_binlog_pos")[0])
    rows = connection.rows(connection.server.log_status)
    if not rows:
        raise PreconditionError("the server writes no binary log.", "Set log_bin and restart it.")
    if node.by_gtid and not node.mariadb:
        gtids = GtidSet.parse(rows[0]["Executed_Gtid_Set"])
    return BinlogPosition(rows[0]["File"], int(rows[0]["Position"]), gtids)


def _row(connection: Connection, statement: str, params: Sequence[object] | None = None) -> tuple[Any, ...]:
    row = connection.query_one(statement, params)
    assert row is not None
    return row


def resume_state(connection: Connection, node: Node, after: BinlogPosition, stored: History | None) -> StreamState:
    """Whether streaming can continue exactly at `after`, which was reached when the server was `stored`."""
    reason = _broken_history(connection, node, after, stored)
    return StreamState(None, reason) if reason else StreamState(after)


def _broken_history(connection: Connection, node: Node, after: BinlogPosition, stored: History | None) -> str:
    if stored is None:
        return "it is not known which server the stored position belongs to"
    if stored.mariadb != node.mariadb:
        return "this is another kind of server"
    if after.gtids is not None:
        if not node.by_gtid:
            return "the server goes by GTIDs no more (gtid_mode)"
        return _missing_gtids(connection, node, after)
    if stored.name != node.name:
        return "this is another server, and the stored position has no GTIDs that would hold there"
    return _missing_file(connection, after)


def _missing_gtids(connection: Connection, node: Node, after: BinlogPosition) -> str:
    now = log_position(connection, node)
    if not now.covers(after):
        return (
            "the server's log does not hold all that the replica has: it is another server, or was restored to an "
            "earlier time"
        )
    if not after.covers(BinlogPosition(gtids=_purged(connection, node))):
        return "the server has purged binary logs that were not read yet"
    return ""


def _purged(connection: Connection, node: Node) -> GtidSet | MariadbGtids:
    """The transactions that the server's binary logs do not hold any more."""
    if not node.mariadb:
        return GtidSet.parse(_row(connection, "SELECT @@GLOBAL.gtid_purged")[0])
    files = connection.query("SHOW BINARY LOGS")
    (gtids,) = _row(connection, "SELECT BINLOG_GTID_POS(%s, 4)", [files[0][0]])
    return MariadbGtids.parse(gtids or "")


def _missing_file(connection: Connection, after: BinlogPosition) -> str:
    files = {str(row[0]): int(row[1]) for row in connection.query("SHOW BINARY LOGS")}
    if after.file not in files:
        return f"the server has no binary log {after.file} (any more)"
    if files[after.file] < after.offset:
        return f"binary log {after.file} ends before the stored position: it was restored, or reset"
    return ""


def lag_bytes(connection: Connection, end: BinlogPosition, reached: BinlogPosition | None) -> int | None:
    """How many bytes of the binary log lie between two positions, if the files tell."""
    if reached is None or not reached.file:
        return None
    if reached.covers(end):
        return 0
    if reached.file == end.file:
        return max(0, end.offset - reached.offset)
    sizes = {str(row[0]): int(row[1]) for row in connection.query("SHOW BINARY LOGS")}
    names = list(sizes)
    if reached.file not in sizes or end.file not in sizes:
        return None
    between = names[names.index(reached.file) : names.index(end.file)]
    return max(0, sum(sizes[name] for name in between) - reached.offset + end.offset)


def has_file(connection: Connection, file: str) -> bool:
    """Whether the server still has this binary log."""
    return any(str(row[0]) == file for row in connection.query("SHOW BINARY LOGS"))
