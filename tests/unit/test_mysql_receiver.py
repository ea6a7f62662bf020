"""The thread that reads the binary log: what it asks for, what it hands over, and how it ends."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from connectors.inbox import Inbox
from connectors.mysql.gtids import GtidSet
from connectors.mysql.receiver import Chunk, Dump, Receiver, register_command, replica_uuid
from engine.errors import TransientError
from tests.fixtures.mysql.log import SERVER
from tests.support.waiting import wait_until


class FakeWire:
    """Records what is asked for; the test writes into the other end of the socket."""

    def __init__(self) -> None:
        self.socket, self.server = socket.socketpair()
        self.statements: list[str] = []
        self.commands: list[tuple[bytes, bool]] = []
        self.closed = threading.Event()

    def statement(self, sql: str) -> None:
        self.statements.append(sql)

    def command(self, payload: bytes, *, answered: bool) -> None:
        self.commands.append((payload, answered))

    def close(self) -> None:
        self.socket.close()
        self.closed.set()


@pytest.fixture
def wire() -> Iterator[FakeWire]:
    made = FakeWire()
    yield made
    made.server.close()
    made.socket.close()


def taken(inbox: Inbox[Chunk], size: int) -> bytes:
    """The next `size` bytes from the inbox."""
    found = b""
    while len(found) < size:
        chunks = inbox.take(5)
        assert chunks
        found += b"".join(c.data for c in chunks)
    return found


def test_bytes_come_in_order_as_they_are(wire: FakeWire) -> None:
    receiver = Receiver(wire, Dump(False, "bin.000001", 4), 77, "me", 1 << 20)
    data = bytes(range(256)) * 4000
    sender = threading.Thread(target=wire.server.sendall, args=(data,))
    sender.start()
    assert taken(receiver.inbox, len(data)) == data
    sender.join()
    receiver.close()
    assert receiver.inbox.take(1) is None
    assert wire.closed.wait(5)


def test_a_full_inbox_stops_the_reading(wire: FakeWire) -> None:
    receiver = Receiver(wire, Dump(False, "bin.000001", 4), 77, "me", 10_000)
    data = b"x" * (8 << 20)
    sender = threading.Thread(target=wire.server.sendall, args=(data,), daemon=True)
    sender.start()
    wait_until(lambda: receiver.inbox.size >= 10_000, 5, message="the inbox is full")
    assert sender.is_alive()
    assert taken(receiver.inbox, len(data)) == data
    sender.join(5)
    receiver.close()


def test_close_does_not_wait_for_a_consumer(wire: FakeWire) -> None:
    receiver = Receiver(wire, Dump(False, "bin.000001", 4), 77, "me", 10)
    wire.server.sendall(b"y" * 100_000)
    wait_until(lambda: receiver.inbox.size >= 10, 5, message="the inbox is full")
    began = time.monotonic()
    receiver.close()
    assert time.monotonic() - began < 1
    assert wire.closed.wait(5)


def test_a_server_that_closes_is_an_error_after_what_it_sent(wire: FakeWire) -> None:
    receiver = Receiver(wire, Dump(False, "bin.000001", 4), 77, "me", 1000)
    wire.server.sendall(b"last")
    wire.server.close()
    assert taken(receiver.inbox, 4) == b"last"
    with pytest.raises(TransientError, match="closed the connection"):
        while receiver.inbox.take(5) is not None:
            pass


def test_what_is_asked_of_mysql(wire: FakeWire) -> None:
    encoded = GtidSet.parse(f"{SERVER}:1-5").encode()
    receiver = Receiver(wire, Dump(False, gtids=encoded), 77, "me", 1000)
    receiver.close()
    settings = " ".join(wire.statements)
    assert "@source_heartbeat_period = 1000000000" in settings
    assert "@master_binlog_checksum = 'CRC32'" in settings
    assert f"@replica_uuid = '{replica_uuid(77)}'" in settings
    (register, answered), (dump, unanswered) = wire.commands
    assert (register, answered, unanswered) == (register_command(77, "me"), True, False)
    assert dump == struct.pack("<BHII", 0x1E, 4, 77, 0) + struct.pack("<QI", 4, len(encoded)) + encoded


def test_what_is_asked_of_mariadb(wire: FakeWire) -> None:
    Receiver(wire, Dump(True, connect_state="0-1-5,3-2-9"), 77, "me", 1000).close()
    assert "SET @slave_connect_state = '0-1-5,3-2-9'" in wire.statements
    assert "SET @mariadb_slave_capability = 4" in wire.statements
    assert wire.commands[-1][0] == struct.pack("<BIHI", 0x12, 4, 0, 77)


def test_an_offset_of_more_than_32_bits_begins_at_the_files_beginning() -> None:
    def offset(at: int) -> int:
        command = Dump(False, "bin.000001", at).command(1)
        found: int = struct.unpack_from("<I", command, 1)[0]
        return found

    assert offset(1234) == 1234
    assert offset((1 << 32) - 1) == (1 << 32) - 1
    assert offset(1 << 32) == 4
    assert offset(5 << 32) == 4


def test_a_connect_state_is_never_sql() -> None:
    with pytest.raises(ValueError, match="GTID"):
        Dump(True, connect_state="0-1-5'; DROP TABLE x; --").settings(1)
