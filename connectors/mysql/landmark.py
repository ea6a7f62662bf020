"""The last transaction of a position, by which a server's log is known again.

A server that was restored from a backup writes other transactions under the same GTIDs, or at the same offsets. What
tells is the event with which the position's last transaction began: where it is in the log, and its bytes, which hold
when it was written.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from connectors.mysql import events as kinds
from connectors.mysql.binlog import Ended, Framer, Refused
from connectors.mysql.connection import Connection
from connectors.mysql.eventruns import Events
from connectors.mysql.events import HEADER
from connectors.mysql.receiver import READ_BYTES, Dump
from engine.errors import DecodeError, TransientError

_MARKS = (kinds.ROTATE, kinds.FORMAT_DESCRIPTION, kinds.HEARTBEAT, kinds.HEARTBEAT_V2)
"""What a dump begins with before the event at the place that was asked for."""


@dataclass(frozen=True, slots=True)
class Landmark:
    """Where a transaction begins in the log, and the CRC32 of its first event."""

    file: str
    offset: int
    crc: int

    def to_json(self) -> list[object]:
        """As a value for JSON."""
        return [self.file, self.offset, self.crc]

    @classmethod
    def from_json(cls, value: object) -> Self | None:
        """Read `to_json`'s value back; None for anything else."""
        match value:
            case [str(file), int(offset), int(crc)]:
                return cls(file, offset, crc)
        return None

    @classmethod
    def of(cls, run: Events, index: int) -> Self | None:
        """The transaction that begins at this event; None when the log does not say where that is."""
        begin = int(run.body[index]) - HEADER
        length = int.from_bytes(run.data[begin + 9 : begin + 13], "little")
        offset = int(run.ends_at[index]) - length
        if not run.file or offset < 0:
            return None
        return cls(run.file, offset, zlib.crc32(run.data[begin : int(run.end[index])]))

    def dump(self, *, mariadb: bool) -> Dump:
        """How to ask for the log from this transaction on."""
        return Dump(mariadb, self.file, self.offset)

    @property
    def reachable(self) -> bool:
        """Whether the dump command can name the place; what is in a larger file is not read again for this."""
        return not self.offset >> 32

    def is_at(self, connection: Connection, server_id: int) -> bool:
        """Whether the server's log has this very transaction at this place, which must be `reachable`. The connection is
        of no use afterwards.

        Where the log has no such place (any more), the server says so by an error: False. Driver's errors pass.
        """
        dump = self.dump(mariadb=connection.server.mariadb)
        for statement in dump.settings(server_id):
            connection.statement(statement)
        connection.command(dump.command(server_id), answered=False)
        try:
            for run in _runs(connection, Framer(file=self.file, offset=self.offset)):
                if isinstance(run, (Refused, Ended)):
                    return False
                for index, kind in enumerate(run.types.tolist()):
                    if kind not in _MARKS:
                        return Landmark.of(run, index) == self
        except DecodeError:
            # An offset in the middle of something.
            return False
        raise TransientError("looking for a transaction in the binary log: the server ended the connection")


def _runs(connection: Connection, framer: Framer) -> Iterator[Events | Refused | Ended]:
    while True:
        data = connection.socket.recv(READ_BYTES)
        if not data:
            return
        yield from framer.feed(data)
