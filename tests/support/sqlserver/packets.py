"""TDS 7.4 below the tokens: packets, PRELOGIN, LOGIN7, RPC requests (MS-TDS 2.2)."""

from __future__ import annotations

import select
import socket
import struct
import threading
from dataclasses import dataclass

from tests.support.sqlserver.errors import Cancelled, Disconnected, Unknown

PRELOGIN, LOGIN, BATCH, RPC, ATTENTION, RESPONSE = 0x12, 0x10, 0x01, 0x03, 0x06, 0x04
_HEADER = struct.Struct(">BBHHBB")


class Channel:
    """One client's socket as messages. `write` buffers tokens and sends whole packets as they fill, while the gate is open."""

    def __init__(self, connection: socket.socket, spid: int, gate: threading.Event) -> None:
        self._socket = connection
        self._gate = gate
        self._spid = spid
        self._buffer = bytearray()
        self._number = 0
        self.packet_size = 4096

    def read(self) -> tuple[int, bytes]:
        """The next message: its type and its payload."""
        parts = []
        while True:
            kind, status, length, _, _, _ = _HEADER.unpack(self._exactly(8))
            parts.append(self._exactly(length - 8))
            if status & 1:
                return kind, b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                data = self._socket.recv(size)
            except OSError:
                raise Disconnected from None
            if not data:
                raise Disconnected
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Append to the response; packets that are full are sent."""
        self._buffer += data
        room = self.packet_size - 8
        if len(self._buffer) < room:
            return
        view = bytes(self._buffer)
        end = (len(view) - 1) // room * room
        packets = [self._packet(view[start : start + room], last=False) for start in range(0, end, room)]
        del self._buffer[:end]
        self._send(b"".join(packets))

    def flush(self) -> None:
        """End the response's message."""
        self._send(self._packet(bytes(self._buffer), last=True))
        self._buffer.clear()
        self._number = 0

    def _packet(self, payload: bytes, *, last: bool) -> bytes:
        self._number = (self._number + 1) % 256
        return _HEADER.pack(RESPONSE, int(last), len(payload) + 8, self._spid, self._number, 0) + payload

    def _send(self, data: bytes) -> None:
        self._gate.wait()
        try:
            self._socket.sendall(data)
        except OSError:
            raise Disconnected from None

    def check(self) -> None:
        """Raise when the client cancelled or left while its batch runs."""
        try:
            readable = select.select([self._socket], [], [], 0)[0]
            if not readable:
                return
            if not self._socket.recv(1, socket.MSG_PEEK):
                raise Disconnected
        except (OSError, ValueError):
            raise Disconnected from None
        if self.read()[0] == ATTENTION:
            raise Cancelled
        raise Unknown("a request while another one runs")

    def close(self) -> None:
        """Close the socket; who waits in it is woken."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


def prelogin_response() -> bytes:
    """Version 16.0, no encryption, no MARS."""
    options = [
        (0, struct.pack(">BBHH", 16, 0, 1000, 0)),
        (1, b"\x02"),
        (2, b"\x00"),
        (3, b""),
        (4, b"\x00"),
    ]
    offset = 5 * len(options) + 1
    head, body = b"", b""
    for token, data in options:
        head += struct.pack(">BHH", token, offset + len(body), len(data))
        body += data
    return head + b"\xff" + body


@dataclass(frozen=True, slots=True)
class Login:
    """What LOGIN7 tells."""

    version: int
    packet_size: int
    host: str
    user: str
    password: str
    application: str
    database: str


def read_login(data: bytes) -> Login:
    """Decode LOGIN7; the password is veiled by a nibble swap and XOR."""
    _, version, size = struct.unpack_from("<III", data)

    def field(index: int) -> bytes:
        offset, count = struct.unpack_from("<HH", data, 36 + 4 * index)
        return data[offset : offset + 2 * count]

    veiled = bytes(((byte ^ 0xA5) << 4 & 0xF0) | ((byte ^ 0xA5) >> 4) for byte in field(2))
    # After the library's name and the language comes the database: fields 0..8.
    host, user, application, database = (field(index).decode("utf-16-le") for index in (0, 1, 3, 8))
    return Login(version, size, host, user, veiled.decode("utf-16-le"), application, database)


def without_headers(data: bytes) -> bytes:
    """A request's payload after ALL_HEADERS."""
    (total,) = struct.unpack_from("<I", data)
    return data[total:]


class RpcReader:
    """An RPC request: ``name``, then its parameters as ``(name, T-SQL type name, literal)``."""

    def __init__(self, data: bytes) -> None:
        self._data = without_headers(data)
        self._at = 0
        (length,) = self._unpack("<H")
        if length == 0xFFFF:
            (number,) = self._unpack("<H")
            if number != 10:
                raise Unknown(f"system procedure number {number} by RPC")
            self.name = "sp_executesql"
        else:
            self.name = self._take(2 * length).decode("utf-16-le")
        self._unpack("<H")
        self.parameters: list[tuple[str, object]] = []
        while self._at < len(self._data):
            name = self._take(2 * self._unpack("<B")[0]).decode("utf-16-le")
            (status,) = self._unpack("<B")
            if status & 1:
                raise Unknown("an output parameter by RPC")
            self.parameters.append((name, self._value()))

    def _unpack(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += size
        return data

    def _value(self) -> object:
        (kind,) = self._unpack("<B")
        if kind in (0x26, 0x68, 0x6D):  # INTN, BITN, FLTN
            _, length = self._unpack("<BB")
            data = self._take(length)
            if not data:
                return None
            if kind == 0x6D:
                return struct.unpack("<d" if length == 8 else "<f", data)[0]
            return int.from_bytes(data, "little", signed=length > 1)
        if kind in (0xA7, 0xAF, 0xE7, 0xEF, 0xA5, 0xAD):
            (longest,) = self._unpack("<H")
            if kind not in (0xA5, 0xAD):
                self._take(5)
            raw = self._plp() if longest == 0xFFFF else self._short()
            if raw is None or kind in (0xA5, 0xAD):
                return raw
            return raw.decode("utf-16-le" if kind in (0xE7, 0xEF) else "cp1252")
        raise Unknown(f"a parameter of wire type 0x{kind:02X} by RPC")

    def _short(self) -> bytes | None:
        (length,) = self._unpack("<H")
        return None if length == 0xFFFF else self._take(length)

    def _plp(self) -> bytes | None:
        (total,) = self._unpack("<Q")
        if total == 0xFFFFFFFFFFFFFFFF:
            return None
        parts = []
        while length := self._unpack("<I")[0]:
            parts.append(self._take(length))
        return b"".join(parts)
