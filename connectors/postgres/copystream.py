"""CopyData in and out of one connection: what COPY TO STDOUT and START_REPLICATION speak.

libpq hands every CopyData message over by itself, in an allocation of its own, out of a buffer of 16 KiB; for rows of
about 100 bytes that costs several times what the decoding does. Where the connection is not encrypted, the messages
are therefore read from the socket itself, many at a time, while libpq has nothing under way. Over TLS libpq does it.

Source of the formats: PostgreSQL documentation, "Frontend/Backend Protocol", "Message Formats".
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from psycopg import pq

from connectors.columnar import Offsets
from connectors.postgres.connection import Connection
from connectors.postgres.failures import one_line, result_fields
from connectors.postgres.framing import message_starts
from engine.errors import DecodeError

Payload = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Payloads:
    """The contents of many CopyData messages in one buffer: message i is ``data[starts[i]:ends[i]]``. In order."""

    data: bytes
    starts: Offsets
    ends: Offsets

    @classmethod
    def of(cls, messages: Sequence[Payload]) -> Self:
        """Join messages that are objects of their own."""
        ends = np.cumsum(np.fromiter(map(len, messages), np.int64, len(messages)))
        return cls(b"".join(messages), ends - np.fromiter(map(len, messages), np.int64, len(messages)), ends)

    def __len__(self) -> int:
        return len(self.starts)


_RECEIVE = 1 << 20
_LENGTH = struct.Struct(">I")
_HEADER = 5
_DATA, _ERROR, _READY = ord("d"), ord("E"), ord("Z")
_READY_FOR_QUERY = b"Z\0\0\0\5"
_COPY_OUT, _COPY_BOTH = ord("H"), ord("W")
_COPY_DONE, _COMPLETE = ord("c"), ord("C")
_PASSED_OVER = frozenset(b"NSA")


class CopyStream(Protocol):
    """One COPY under way. Nothing here waits, apart from beginning it.

    `pending` is how many bytes have arrived and were not taken; `ended` that nothing more comes, because of `failure`
    (SQLSTATE if the server sent one, and its primary message) or because the server ended it in the ordinary way.
    """

    pending: int
    ended: bool
    failure: tuple[str | None, str] | None

    def fileno(self) -> int:
        """The socket to wait on for more."""
        ...

    def fill(self) -> int:
        """Read what has arrived, up to a limit; returns how many bytes (0: wait first)."""
        ...

    @property
    def may_be_complete(self) -> bool:
        """Whether what was read seems to end with the COPY: then there is no use in waiting for more."""
        ...

    def take(self) -> list[Payload]:
        """The content of each whole CopyData message that has been read."""
        ...

    def take_together(self) -> Payloads:
        """The same without an object for each message."""
        ...

    def send(self, payload: bytes) -> None:
        """Send one CopyData message, as far as the socket takes it; the rest goes with `flush`."""
        ...

    def flush(self) -> None: ...

    def close(self) -> None:
        """Free what belongs to the stream, not the connection."""
        ...


def begin_copy(connection: Connection, command: str) -> CopyStream:
    """Send a command that answers with a COPY. A refusal shows as `failure` of the stream."""
    if connection.pgconn.ssl_in_use:
        return LibpqCopy(connection, command)
    return SocketCopy(connection, command)


class SocketCopy:
    """Reads and writes the socket of an idle, unencrypted libpq connection; libpq must be left alone meanwhile."""

    def __init__(self, connection: Connection, command: str) -> None:
        self.pending = 0
        self.ended = False
        self.failure: tuple[str | None, str] | None = None
        self._begun = False
        self._buffer = bytearray(_RECEIVE)
        self._unsent = b""
        self._socket = socket.socket(fileno=os.dup(connection.pgconn.socket))
        self._socket.setblocking(False)
        query = command.encode() + b"\0"
        self._write(b"Q" + _LENGTH.pack(len(query) + 4) + query)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self._begun and not self.ended:
            self.flush()
            poll.poll(200)
            self.fill()
            self._parse()

    def fileno(self) -> int:
        return self._socket.fileno()

    def fill(self) -> int:
        if self.ended:
            return 0
        if self.pending == len(self._buffer):
            self._grow()
        try:
            count = self._socket.recv_into(memoryview(self._buffer)[self.pending :])
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lost(str(error))
            return 0
        if count == 0:
            self._lost("the server closed the connection")
        self.pending += count
        return count

    @property
    def may_be_complete(self) -> bool:
        return self._buffer[max(0, self.pending - 6) : self.pending - 1] == _READY_FOR_QUERY

    def take(self) -> list[Payload]:
        taken = self.take_together()
        data = taken.data
        # Slices of bytes are copies, yet cheaper than views: a view is larger, and the garbage collector follows it.
        return [data[a:b] for a, b in zip(taken.starts.tolist(), taken.ends.tolist(), strict=True)]

    def take_together(self) -> Payloads:
        starts, end = self._parse()
        data = bytes(memoryview(self._buffer)[:end]) if len(starts) else b""
        if len(starts):
            self._consume(end)
        ends = np.empty_like(starts)
        ends[:-1] = starts[1:]
        ends[-1:] = end
        kinds = np.frombuffer(data, np.uint8)[starts]
        rows = kinds == _DATA
        if not bool(rows.all()):
            for i in np.flatnonzero(~rows).tolist():
                self._other(int(kinds[i]), data[int(starts[i]) + _HEADER : int(ends[i])])
            starts, ends = starts[rows], ends[rows]
        return Payloads(data, starts + _HEADER, ends)

    def send(self, payload: bytes) -> None:
        self._write(b"d" + _LENGTH.pack(len(payload) + 4) + payload)

    def flush(self) -> None:
        if self._unsent:
            self._write(b"")

    def close(self) -> None:
        self._socket.close()

    def _write(self, data: bytes) -> None:
        data = self._unsent + data
        try:
            self._unsent = data[self._socket.send(data) :]
        except BlockingIOError:
            self._unsent = data
        except OSError as error:
            self._lost(str(error))

    def _parse(self) -> tuple[Offsets, int]:
        """Where the whole messages in the buffer begin, and where the last one ends. Before the COPY has begun: its
        answer is taken off first."""
        starts, end = message_starts(self._buffer, self.pending)
        if not self._begun and len(starts):
            self._answer([*starts.tolist(), end])
            return starts[:0], end
        return starts, end

    def _answer(self, bounds: list[int]) -> None:
        """Go through the messages up to the one that begins the COPY, or refuses it; drop them."""
        for start, stop in itertools.pairwise(bounds):
            kind = self._buffer[start]
            if kind in (_COPY_OUT, _COPY_BOTH):
                self._begun = True
                self._consume(stop)
                return
            self._other(kind, bytes(memoryview(self._buffer)[start + _HEADER : stop]))
            if self.ended:
                break
        self._consume(bounds[-1])

    def _other(self, kind: int, body: bytes) -> None:
        """A message that is no CopyData."""
        if kind == _ERROR:
            fields = {f[:1]: f[1:].decode("utf-8", "replace") for f in body.split(b"\0") if f}
            self.failure = fields.get(b"C"), one_line(fields.get(b"M", ""))
            self.ended = True
        elif kind == _READY:
            self.ended = True
        elif kind in (_COPY_DONE, _COMPLETE) or kind in _PASSED_OVER:
            return
        else:
            raise DecodeError(f"message 0x{kind:02x} does not belong into a COPY")

    def _consume(self, end: int) -> None:
        rest = self.pending - end
        self._buffer[:rest] = self._buffer[end : self.pending]
        self.pending = rest

    def _grow(self) -> None:
        """Make room for a message that is longer than the buffer, or for more of them."""
        grown = bytearray(2 * len(self._buffer))
        grown[: self.pending] = self._buffer[: self.pending]
        self._buffer = grown

    def _lost(self, why: str) -> None:
        self.failure = None, one_line(why)
        self.ended = True


class LibpqCopy:
    """The same through libpq, which decrypts."""

    def __init__(self, connection: Connection, command: str) -> None:
        self.pending = 0
        self.ended = False
        self.failure: tuple[str | None, str] | None = None
        self._pgconn = connection.pgconn
        self._taken: list[Payload] = []
        result = self._pgconn.exec_(command.encode())
        if result.status not in (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH):
            self.failure = result_fields(result)
            self.ended = True

    @property
    def may_be_complete(self) -> bool:
        return self.ended

    def fileno(self) -> int:
        return self._pgconn.socket

    def fill(self) -> int:
        before = self.pending
        if not self.ended:
            self._pgconn.consume_input()
            self._collect()
        return self.pending - before

    def _collect(self) -> None:
        get, append, size = self._pgconn.get_copy_data, self._taken.append, 0
        while size < _RECEIVE:
            length, data = get(1)
            if length <= 0:
                break
            append(data)
            size += length
        self.pending += size
        if length == -1:
            self._end()

    def _end(self) -> None:
        self.ended = True
        while (result := self._pgconn.get_result()) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                self.failure = result_fields(result)

    def take(self) -> list[Payload]:
        taken, self._taken, self.pending = self._taken, [], 0
        return taken

    def take_together(self) -> Payloads:
        return Payloads.of(self.take())

    def send(self, payload: bytes) -> None:
        self._pgconn.put_copy_data(payload)
        self._pgconn.flush()

    def flush(self) -> None:
        self._pgconn.flush()

    def close(self) -> None:
        self._taken = []
