"""Result sets of prepared statements (the binary protocol): bytes in, Arrow out.

Rows of the binary protocol hold numbers and times as such, at fixed widths: nothing has to be parsed or cast, floats are
exact, and the server spends less on them than on text. A run of rows is one buffer and a vector of offsets; each column
is a few operations over all of them.

Source: MySQL source documentation, "Binary Protocol Resultset", "Protocol Basics: Packets" (dev.mysql.com), and
MariaDB Knowledge Base, "Result Set Packets" (mariadb.com/kb).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.columnar import Mask, Offsets, Raw
from connectors.mysql import resultvalues
from connectors.mysql.cellvalues import Values
from connectors.mysql.columnvalues import Unfit
from connectors.mysql.packetheads import packet_heads
from connectors.mysql.types import Definition
from engine.changes import with_nulled
from engine.errors import DecodeError, UnsupportedValue
from engine.schema import TableSchema

_HEADER = 4
_LONGEST = 0xFFFFFF
_ROW, _EOF, _ERROR = 0x00, 0xFE, 0xFF
_LENGTH = struct.Struct("<I")
_TAIL = struct.Struct("<BHIBHBH")
"""The end of a column definition: length of what follows, character set, length, type, flags, decimals, filler."""
_NULL_BITS = 2
_PADDING = bytes(16)
"""Behind the last row, so that a short value can be read at full width and masked."""
_UNSIGNED = 0x20
_SHORT_LENGTH = 251
_LONG_LENGTHS = ((252, 2), (253, 3), (254, 8))


@dataclass(frozen=True, slots=True)
class Failure:
    """The error packet that ended a result: the server's number and text."""

    number: int
    message: str


class Mismatch(Exception):
    """The result's columns are not those that the definitions describe: the table was altered since."""


class ResultReader:
    """Takes the bytes of one answer to COM_STMT_EXECUTE as they arrive, cut anywhere, and gives the rows.

    `feed` adds bytes, `take` gives the rows that are whole; `ended` says that nothing more comes, because of `failure`
    or because the result is complete. DecodeError for what is no result.
    """

    def __init__(self, table: TableSchema, definitions: Sequence[Definition]) -> None:
        self._table = table
        self._definitions = definitions
        self._buffer = bytearray()
        self._columns: list[resultvalues.WireType] = []
        self._expected = -1
        self._in_rows = False
        self._sequence = 1
        self.ended = False
        self.failure: Failure | None = None

    @property
    def pending(self) -> int:
        """Bytes that have arrived and were not taken."""
        return len(self._buffer)

    @property
    def may_be_complete(self) -> bool:
        """Whether what has arrived seems to end with the result: then there is no use in waiting for more."""
        return self.ended or (self.pending >= 9 and self._buffer[-9:-6] == b"\5\0\0" and self._buffer[-5] == _EOF)

    def feed(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._buffer += data

    def take(self) -> pa.RecordBatch | None:
        """The rows that are whole; None when there are none. Raises UnsupportedValue for what the replica cannot hold."""
        while not self._in_rows and not self.ended:
            packet = self._packet()
            if packet is None:
                return None
            self._head(packet)
        if self.ended or not self._buffer:
            return None
        heads = self._heads()
        if len(heads) < 2:
            return self._long_row() if self._begins_long_body() else None
        at = int(heads[-1])
        with memoryview(self._buffer) as view:
            data = b"".join((view[:at], _PADDING))
        raw = Raw(data)
        first, last = heads[:-1] + _HEADER, heads[1:]
        self._check_sequence(raw.u8[first - 1])
        kinds = raw.u8[first]
        count = len(first)
        if bool((kinds != _ROW).any()):
            count = int((kinds != _ROW).argmax())
            whole = at == len(self._buffer) and count == len(first) - 1
            self._end(data[first[count] : last[count]], whole)
        del self._buffer[:at]
        return self._decode(raw, first[:count], last[:count]) if count else None

    def _heads(self) -> Offsets:
        """Where the whole packets begin, and where the last one ends; up to one whose body goes on in another packet."""
        heads, at = packet_heads(self._buffer)
        if at <= len(self._buffer):
            heads = np.append(heads, at)
        sizes = np.diff(heads)
        if len(sizes) and int(sizes.max()) == _HEADER + _LONGEST:
            whole = int((sizes == _HEADER + _LONGEST).argmax())
            heads, sizes = heads[: whole + 1], sizes[:whole]
        if len(sizes) and int(sizes.min()) == _HEADER:
            raise DecodeError("an empty packet in a result")
        return heads

    def _begins_long_body(self) -> bool:
        buffer = self._buffer
        return len(buffer) >= _HEADER and _LENGTH.unpack_from(buffer, 0)[0] & _LONGEST == _LONGEST

    def _long_row(self) -> pa.RecordBatch | None:
        packet = self._packet()
        if packet is None:
            return None
        if packet[:1] != b"\0":
            raise DecodeError("a packet of 16 MiB and more is no row")
        raw = Raw(packet + _PADDING)
        return self._decode(raw, np.zeros(1, np.int64), np.full(1, len(packet), np.int64))

    def _packet(self) -> bytes | None:
        """The body of the first packet, joined where it comes in several; None while it is not whole."""
        buffer, at, parts = self._buffer, 0, []
        count = 0
        while True:
            if at + _HEADER > len(buffer):
                return None
            length = _LENGTH.unpack_from(buffer, at)[0] & _LONGEST
            if at + _HEADER + length > len(buffer):
                return None
            parts.append((at + _HEADER, at + _HEADER + length))
            at += _HEADER + length
            count += 1
            if length < _LONGEST:
                break
        view = memoryview(buffer)
        packet = b"".join(bytes(view[a:b]) for a, b in parts)
        numbers = np.array([buffer[a - 1] for a, _ in parts], np.uint8)
        view.release()
        self._check_sequence(numbers)
        del buffer[:at]
        return packet

    def _check_sequence(self, numbers: npt.NDArray[np.uint8]) -> None:
        expected = (np.arange(self._sequence, self._sequence + len(numbers)) & 0xFF).astype(np.uint8)
        if bool((numbers != expected).any()):
            raise DecodeError("packets of a result are out of order")
        self._sequence = (self._sequence + len(numbers)) & 0xFF

    def _head(self, packet: bytes) -> None:
        """What comes before the rows: the number of columns, a definition of each, and an EOF."""
        if not packet:
            raise DecodeError("an empty packet in a result")
        if packet[0] == _ERROR:
            self._end(packet, last=True)
        elif self._expected < 0:
            if len(packet) > 3 or packet[0] in (0, 251):
                raise DecodeError("a statement has no result")
            self._expected = packet[0] if packet[0] < _SHORT_LENGTH else int.from_bytes(packet[1:], "little")
            if self._expected != len(self._definitions):
                raise DecodeError("a result has another number of columns than was asked for")
        elif len(self._columns) < self._expected:
            if len(packet) < _TAIL.size + 6:
                raise DecodeError("a column definition ends too early")
            _, _, _, kind, flags, _, _ = _TAIL.unpack_from(packet, len(packet) - _TAIL.size)
            self._columns.append(resultvalues.WireType(kind, bool(flags & _UNSIGNED)))
        elif packet[0] == _EOF and len(packet) < 9:
            if not all(wire.fits(d) for wire, d in zip(self._columns, self._definitions, strict=True)):
                raise Mismatch
            self._in_rows = True
        else:
            raise DecodeError("a result's head does not end")

    def _end(self, packet: bytes, last: bool) -> None:
        """The packet behind the last row."""
        if packet[0] == _ERROR and len(packet) >= 3:
            text = packet[3:].decode("utf-8", "replace")
            self.failure = Failure(int.from_bytes(packet[1:3], "little"), text[6:] if text[:1] == "#" else text)
        elif packet[0] != _EOF or len(packet) >= 9:
            raise DecodeError("a packet of a result is no row")
        if not last:
            raise DecodeError("a result goes on behind its end")
        self.ended = True

    def _decode(self, raw: Raw, starts: Offsets, ends: Offsets) -> pa.RecordBatch:
        try:
            arrays, counts = self._arrays(raw, starts, ends)
        except (IndexError, ValueError, OverflowError, pa.ArrowInvalid):
            raise DecodeError("a row of a result is malformed") from None
        return with_nulled(pa.RecordBatch.from_arrays(arrays, names=list(self._table.column_names)), counts)

    def _arrays(self, raw: Raw, starts: Offsets, ends: Offsets) -> tuple[list[pa.Array], dict[str, int]]:
        """The columns, and of how many of their values the rule makes NULL."""
        columns = self._columns
        nulls = _nulls(raw, starts, len(columns))
        at = starts + (1 + (len(columns) + _NULL_BITS + 7) // 8)
        arrays: list[pa.Array] = []
        counts: dict[str, int] = {}
        shift = 0
        for wire, definition, column, null in zip(columns, self._definitions, self._table.columns, nulls, strict=True):
            valid = None if null is None else ~null
            width = wire.width
            if width:
                start, length = (at + shift if shift else at), width
                values = Values(raw, start, np.full(len(start), length, np.int64), valid)
                if valid is None:
                    shift += width
                else:
                    at = start + np.where(valid, width, 0)
                    shift = 0
            else:
                start, lengths = _lengths(raw, at + shift if shift else at, valid)
                values = Values(raw, start, lengths, valid)
                at = start + lengths
                shift = 0
            try:
                arrays.append(resultvalues.decode_values(wire, definition, column, values))
            except Unfit as reason:
                raise UnsupportedValue(self._table.id, [column.name], str(reason)) from None
            if arrays[-1].null_count > values.absent:
                counts[column.name] = arrays[-1].null_count - values.absent
        if bool((at + shift != ends).any()):
            raise DecodeError("a row of a result has another length than its values")
        return arrays, counts


def _nulls(raw: Raw, starts: Offsets, columns: int) -> list[Mask | None]:
    """Per column: which rows hold NULL in it; None when none does."""
    nulls: list[Mask | None] = []
    for byte in range((columns + _NULL_BITS + 7) // 8):
        bits = raw.u8[starts + 1 + byte]
        used = int(np.bitwise_or.reduce(bits)) if len(bits) else 0
        nulls += [(bits >> i & 1).astype(np.bool_) if used >> i & 1 else None for i in range(8)]
    return nulls[_NULL_BITS : _NULL_BITS + columns]


def _lengths(raw: Raw, at: Offsets, valid: Mask | None) -> tuple[Offsets, Offsets]:
    """Where length-encoded values begin, and how long they are (0, without a prefix, where not `valid`)."""
    first = raw.u8[at].astype(np.int64)
    if valid is not None:
        first[~valid] = 0
    start = at + 1 if valid is None else at + valid
    if not len(first) or int(first.max()) < _SHORT_LENGTH:
        return start, first
    if bool((first == _SHORT_LENGTH).any()) or bool((first == 255).any()):
        raise DecodeError("a value's length is malformed")
    for marker, width in _LONG_LENGTHS:
        places = np.flatnonzero(first == marker)
        if len(places):
            where = at[places] + 1
            number = sum(raw.u8[where + i].astype(np.int64) << 8 * i for i in range(width))
            if int(np.min(number)) < 0 or int(np.max(number)) > raw.size:
                raise DecodeError("a value is longer than its row")
            first[places] = number
            start[places] += width
    return start, first
