"""The thread that owns the dump connection: the server's packets in, in large reads, whatever the consumer is doing.

The bytes go to a bounded inbox as they come from the socket (from TLS: decrypted); what they mean is for
`connectors.mysql.binlog` to say. A full inbox stops the reading, and TCP holds the server back; the session's
`net_write_timeout` is raised so that the server waits. Nothing is ever sent after the dump has begun: the binary log
is kept by the server's own rules, not for us.

Source of the commands: dev.mysql.com, "MySQL Internals: Replication Protocol" (COM_REGISTER_SLAVE, COM_BINLOG_DUMP,
COM_BINLOG_DUMP_GTID), and mariadb.com/kb, "Replication Protocol: 3-Binlog Network Stream".
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from connectors.inbox import Inbox
from engine.errors import EngineError, TransientError

READ_BYTES = 256 << 10
"""Bytes asked for at a time."""
GATHER_BELOW, GATHER_PAUSE = 16 << 10, 0.008
"""When no more than so many bytes came before nothing is left to read, a pause in seconds lets more gather: each run of events has a
cost of its own, from the wake-up to the decoder's."""
HEARTBEAT = 1.0
"""Seconds of idleness after which the server says that it is there."""
SILENCE = 30.0
"""Seconds without a byte (not even a heartbeat) after which the connection is held to be lost."""
WRITE_TIMEOUT = 3600
"""Seconds that the server waits for us to read on (`net_write_timeout`)."""
CHUNK_OVERHEAD = 100

_COM_REGISTER_SLAVE, _COM_BINLOG_DUMP, _COM_BINLOG_DUMP_GTID = 0x15, 0x12, 0x1E
_BINLOG_THROUGH_GTID = 0x04
_FIRST_EVENT = 4
_NAMESPACE = uuid.UUID("6f0c2a0e-7b9d-5d59-8a34-1b7e3a0c7f11")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes from the socket, and when they arrived (monotonic clock)."""

    data: bytes
    arrived: float


class Wire(Protocol):
    """What the receiver needs of a driver's connection: commands out, their answers, and the bare socket."""

    def statement(self, sql: str) -> None: ...

    def command(self, payload: bytes, *, answered: bool) -> None:
        """Send one command packet and, if it is `answered`, read the OK. Raises the engine's errors."""
        ...

    @property
    def socket(self) -> socket.socket: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Dump:
    """Where a dump begins. MySQL: `gtids` is the encoded set to pass over, or None to begin at `file` and `offset`.
    MariaDB: `connect_state` is the GTID position to begin behind, or None to begin at `file` and `offset`.
    """

    mariadb: bool
    file: str = ""
    offset: int = _FIRST_EVENT
    gtids: bytes | None = None
    connect_state: str | None = None

    def settings(self, server_id: int) -> list[str]:
        """The statements that prepare the session."""
        period = int(HEARTBEAT * 1_000_000_000)
        settings = [
            f"SET SESSION net_write_timeout = {WRITE_TIMEOUT}",
            f"SET @master_heartbeat_period = {period}",
            "SET @master_binlog_checksum = 'CRC32'",
        ]
        if not self.mariadb:
            name = replica_uuid(server_id)
            return [
                *settings,
                f"SET @source_heartbeat_period = {period}",
                "SET @source_binlog_checksum = 'CRC32'",
                f"SET @slave_uuid = '{name}', @replica_uuid = '{name}'",
            ]
        settings.append("SET @mariadb_slave_capability = 4")
        if self.connect_state is not None:
            if set(self.connect_state) - set("0123456789-,"):
                raise ValueError("not a GTID position of MariaDB")
            settings.append(f"SET @slave_connect_state = '{self.connect_state}'")
            settings.append("SET @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0")
        return settings

    def command(self, server_id: int) -> bytes:
        """The packet that begins the dump."""
        name = self.file.encode()
        if self.gtids is not None:
            head = struct.pack("<BHII", _COM_BINLOG_DUMP_GTID, _BINLOG_THROUGH_GTID, server_id, len(name))
            return head + name + struct.pack("<QI", self.offset, len(self.gtids)) + self.gtids
        offset = self.offset if self.connect_state is None else _FIRST_EVENT
        # The command has 32 bits. Behind 4 GiB the file is read from its beginning, and passed over up to the place.
        if offset >> 32:
            offset = _FIRST_EVENT
        return struct.pack("<BIHI", _COM_BINLOG_DUMP, offset, 0, server_id) + name


def replica_uuid(server_id: int) -> str:
    """The UUID under which we register: of two that stream with one server id, MySQL ends the older, by its UUID."""
    return str(uuid.uuid5(_NAMESPACE, str(server_id)))


def register_command(server_id: int, name: str) -> bytes:
    """COM_REGISTER_SLAVE: `name` is what SHOW REPLICAS shows as the host."""
    host = name.encode()[:60]
    return struct.pack("<BIB", _COM_REGISTER_SLAVE, server_id, len(host)) + host + struct.pack("<BBHII", 0, 0, 0, 0, 0)


class Receiver:
    """Streams one binary log. `inbox` is for the one consumer; `close` may be called from any thread."""

    def __init__(self, wire: Wire, dump: Dump, server_id: int, name: str, capacity: int) -> None:
        self.inbox: Inbox[Chunk] = Inbox(capacity)
        self._wire = wire
        self._stopping = False
        try:
            for statement in dump.settings(server_id):
                wire.statement(statement)
            wire.command(register_command(server_id, name), answered=True)
            wire.command(dump.command(server_id), answered=False)
            self._socket = wire.socket
            self._socket.settimeout(SILENCE)
        except BaseException:
            wire.close()
            raise
        self._thread = threading.Thread(target=self._main, name=f"receiver {server_id}", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        """End the stream and wait for the thread. The server notices at its next write, and takes us off its list."""
        self._stopping = True
        self.inbox.end(None)
        try:
            # Not SSLSocket's own, which would take the TLS state from under the reader.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            pass
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _main(self) -> None:
        error: EngineError | None = None
        try:
            self._receive()
            error = TransientError("streaming the binary log: the server closed the connection")
        except TimeoutError:
            error = TransientError(f"streaming the binary log: not a sign of the server for {SILENCE:.0f} s")
        except (OSError, ValueError) as failure:
            error = TransientError(f"streaming the binary log: the connection was lost ({type(failure).__name__})")
        finally:
            self.inbox.end(None if self._stopping else error)
            self._wire.close()

    def _receive(self) -> None:
        """Until the server or `close` ends the stream."""
        receive: Any = self._socket.recv
        inbox = self.inbox
        more = select.poll()
        more.register(self._socket, select.POLLIN)
        decrypted: Callable[[], int] = getattr(self._socket, "pending", lambda: 0)
        read = 0
        while not self._stopping:
            data = receive(READ_BYTES)
            if not data:
                return
            now = time.monotonic()
            inbox.wait_for_room()
            inbox.put(Chunk(data, now), len(data) + CHUNK_OVERHEAD)
            read += len(data)
            if not decrypted() and not more.poll(0):
                if read <= GATHER_BELOW:
                    time.sleep(GATHER_PAUSE)
                read = 0
