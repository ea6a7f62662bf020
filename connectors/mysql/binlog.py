"""Framing: the bytes of a dump connection become runs of events in vectors. Pure and incremental.

One Python loop runs over packets; everything else is a few numpy operations per run. What a run holds is plain: packets
over 16 MB are put together, checksums verified and cut off, compressed transactions and events inflated in place
(`connectors.mysql.inflate`), unknown events refused.

Source of the formats: dev.mysql.com, "MySQL Packets", "Binlog Network Stream" and "Binlog Event Header" (source
documentation); mariadb.com/kb, "Replication Protocol: 2-Binlog Event Header".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from connectors.columnar import Mask, Offsets
from connectors.mysql import inflate
from connectors.mysql.eventruns import Events, Types, headers
from connectors.mysql.events import (
    ARTIFICIAL,
    FORMAT_DESCRIPTION,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_V2,
    ROTATE,
    FormatDescription,
    check_known,
    parse_format_description,
    parse_rotate,
)
from connectors.mysql.packetheads import packet_heads
from engine.errors import DecodeError

__all__ = ["Ended", "Events", "Framer", "Refused"]

_WORD = struct.Struct("<I").unpack_from
_FRAGMENT = 0xFFFFFF
_IN_USE = 0x01
_RESIDUE = 0x2144DF1C
"""CRC32 of anything followed by its own CRC32."""
_CUTS = np.zeros(256, bool)
_CUTS[[ROTATE, FORMAT_DESCRIPTION]] = True
_REPEATS = np.zeros(256, bool)
_REPEATS[[FORMAT_DESCRIPTION, HEARTBEAT, HEARTBEAT_V2]] = True


class Refused(NamedTuple):
    """The server ended the dump with an error packet. `message` is the server's own text."""

    number: int
    state: str
    message: str


class Ended(NamedTuple):
    """The server ended the dump in order (a dump that does not wait for more)."""


class Framer:
    """Takes the bytes of a dump connection as they come, and gives out `Events`; `Refused` or `Ended` come last.

    `file`, `offset`: where the dump was asked to begin, as far as known. `checksum`: whether events end with a CRC32
    until the first FORMAT_DESCRIPTION says so itself. `verify`: whether checksums are verified.
    """

    def __init__(self, *, file: str = "", offset: int = 0, checksum: bool = True, verify: bool = True) -> None:
        self.file, self.offset = file, offset
        self.checksum, self.verify = checksum, verify
        self.description: FormatDescription | None = None
        self._waiting: list[bytes] = []
        self._size = 0
        self._need = 4
        self._large: list[bytes] = []
        self._sequence: int | None = None

    @property
    def pending(self) -> int:
        """Bytes held of a packet that is not complete yet."""
        return self._size + sum(map(len, self._large))

    def feed(self, data: bytes) -> Iterator[Events | Refused | Ended]:
        """Take in more bytes; give out what they complete. The iterator must be used up before the next call.

        Raises DecodeError for whatever is no binary log stream; the framer is of no use afterwards.
        """
        self._waiting.append(data)
        self._size += len(data)
        if self._size < self._need:
            return
        buffer = b"".join(self._waiting) if len(self._waiting) > 1 else data
        starts, ends, at = self._packets(buffer)
        rest = buffer[at:]
        self._waiting, self._size = [rest], len(rest)
        self._need = 4 if len(rest) < 4 else 4 + (_WORD(rest, 0)[0] & _FRAGMENT)
        yield from self._events(buffer, starts, ends)
        if self._large and len(self._large[-1]) < _FRAGMENT:
            whole, self._large = b"".join(self._large), []
            yield from self._events(whole, np.zeros(1, np.int64), np.array([len(whole)], np.int64))
            yield from self.feed(b"")

    def _packets(self, buffer: bytes) -> tuple[Offsets, Offsets, int]:
        """Start and end of each packet's payload, and how far the buffer is used.

        A packet of several fragments ends the run: it goes to `_large` once complete, and is dealt with next.
        """
        size = len(buffer)
        first, at = (np.empty(0, np.int64), 0) if self._large else packet_heads(buffer)
        ends = np.append(first[1:], at)[: len(first)]
        stopped = np.flatnonzero((ends > size) | (ends - first == 4 + _FRAGMENT))
        if len(stopped):
            at = int(first[stopped[0]])
            first, ends = first[: stopped[0]], ends[: stopped[0]]
        self._count(buffer, first)
        starts = first + 4
        # A packet of 0xffffff bytes is continued by the next one, until one is shorter.
        while at + 4 <= size:
            length = _WORD(buffer, at)[0] & _FRAGMENT
            if at + 4 + length > size or not (self._large or length == _FRAGMENT):
                break
            self._count(buffer, np.array([at], np.int64))
            self._large.append(buffer[at + 4 : at + 4 + length])
            at += 4 + length
            if length < _FRAGMENT:
                break
        return starts, ends, at

    def _count(self, buffer: bytes, heads: Offsets) -> None:
        """Verify the packets' sequence numbers: they tell when framing has lost its place."""
        if len(heads) == 0:
            return
        numbers = np.frombuffer(buffer, np.uint8)[heads + 3]
        first = int(numbers[0])
        expected = (first + np.arange(len(heads))).astype(np.uint8)
        if (self._sequence is not None and first != self._sequence) or bool((numbers != expected).any()):
            raise DecodeError("the packets of the binary log stream are out of order")
        self._sequence = (first + len(heads)) & 0xFF

    def _events(self, data: bytes, starts: Offsets, ends: Offsets) -> Iterator[Events | Refused | Ended]:
        """Give out the events of whole packets that lie in `data`."""
        if len(starts) == 0:
            return
        if bool((ends == starts).any()):
            raise DecodeError("the binary log stream holds an empty packet")
        u8 = np.frombuffer(data, np.uint8)
        marks = u8[starts]
        events = len(starts)
        if bool(marks.any()):
            events = int(np.flatnonzero(marks)[0])
        heads, bounds = starts[:events] + 1, ends[:events]
        if events:
            _check_lengths(u8, heads, bounds)
            types = u8[heads + 4]
            done = 0
            for cut in np.flatnonzero(_CUTS[types]).tolist():
                if cut > done:
                    yield from self._run(data, u8, heads[done:cut], bounds[done:cut])
                done = cut + 1
                yield from self._control(data, u8, heads[cut:done], bounds[cut:done])
            if done < events:
                yield from self._run(data, u8, heads[done:], bounds[done:])
        if events < len(starts):
            yield _ending(data[int(starts[events]) : int(ends[events])])

    def _control(self, data: bytes, u8: Types, heads: Offsets, ends: Offsets) -> Iterator[Events]:
        """One ROTATE or FORMAT_DESCRIPTION, which change the file or the checksum rule."""
        start, end = int(heads[0]), int(ends[0])
        event = data[start:end]
        if event[4] == FORMAT_DESCRIPTION:
            self.description = parse_format_description(event[HEADER:-4])
            # Without checksums it has the bytes of one, which are not kept right when the server changes the event.
            if self.verify and self.description.checksum:
                _verify_description(event)
            self.checksum = self.description.checksum
            yield self._plain(data, u8, heads, ends - 4)
            return
        if int.from_bytes(event[17:19], "little") & ARTIFICIAL:
            # It comes before the FORMAT_DESCRIPTION that says whether there are checksums: look whether it has one.
            self.checksum = len(event) >= HEADER + 12 and zlib.crc32(event) == _RESIDUE
        for run in self._run(data, u8, heads, ends):
            rotate = parse_rotate(run.body_of(0))
            yield run
            self.file, self.offset = rotate.file, rotate.offset

    def _run(self, data: bytes, u8: Types, heads: Offsets, ends: Offsets) -> Iterator[Events]:
        """Events under one checksum rule and in one file."""
        if self.checksum:
            if self.verify:
                _verify(data, heads, ends)
            ends = ends - 4
            if bool((ends < heads + HEADER).any()):
                raise DecodeError("an event ends before its checksum")
        run = self._plain(data, u8, heads, ends)
        for part in inflate.plain(run) if bool(inflate.PACKED[run.types].any()) else (run,):
            check_known(part.types, part.flags)
            yield part

    def _plain(self, data: bytes, u8: Types, heads: Offsets, ends: Offsets) -> Events:
        """The events with their headers in vectors, and their offsets in 64 bits."""
        found = headers(u8, heads)
        told = (found.positions != 0) & (found.flags & ARTIFICIAL == 0)
        steps = _steps(self.offset, found.positions, told)
        # A heartbeat or FORMAT_DESCRIPTION repeats what was before: when it is not ahead it counts for nothing.
        behind = _REPEATS[found.types] & (steps >= 1 << 31)
        if bool(behind.any()):
            steps = _steps(self.offset, found.positions, told & ~behind)
        ends_at = self.offset + np.cumsum(steps)
        self.offset = int(ends_at[-1])
        return Events(
            *(data, u8, self.file, found.types, found.timestamps, found.servers, found.flags),
            *(ends_at, heads + HEADER, ends),
        )


def _steps(offset: int, positions: Offsets, told: Mask) -> Offsets:
    """How far each event takes the offset on. Headers hold 32 bits of it, and no event is 4 GiB long."""
    chain = np.concatenate([[offset & 0xFFFFFFFF], positions[told]])
    steps = np.zeros(len(positions), np.int64)
    steps[told] = (chain[1:] - chain[:-1]) & 0xFFFFFFFF
    return steps


def _check_lengths(u8: Types, heads: Offsets, ends: Offsets) -> None:
    """Verify that each packet is exactly one event."""
    sizes = ends - heads
    if bool((sizes < HEADER).any()):
        raise DecodeError("an event is shorter than its header")
    if bool((np.ndarray((len(u8) - 3,), "<u4", u8.data, strides=(1,))[heads + 9] != sizes).any()):
        raise DecodeError("an event has another length than its packet")


def _verify(data: bytes, headers: Offsets, ends: Offsets) -> None:
    """Verify the CRC32 at the end of each event."""
    view = memoryview(data)
    crc = zlib.crc32
    for start, end in zip(headers.tolist(), ends.tolist(), strict=True):
        if crc(view[start:end]) != _RESIDUE:
            raise DecodeError("an event of the binary log has a wrong checksum")


def _verify_description(event: bytes) -> None:
    """The CRC32 of a FORMAT_DESCRIPTION is over it as written at the file's end, when it is no longer in use."""
    closed = bytearray(event)
    closed[17] &= ~_IN_USE & 0xFF
    if zlib.crc32(closed) != _RESIDUE and zlib.crc32(event) != _RESIDUE:
        raise DecodeError("the FORMAT_DESCRIPTION event has a wrong checksum")


def _ending(packet: bytes) -> Refused | Ended:
    """What a packet that is no event says: an error (0xff) or the end (0xfe)."""
    if packet[0] == 0xFE and len(packet) < 9:
        return Ended()
    if packet[0] != 0xFF or len(packet) < 3:
        raise DecodeError("the binary log stream holds a packet that is neither an event nor its end")
    number = int.from_bytes(packet[1:3], "little")
    state, message = "", packet[3:]
    if message[:1] == b"#" and len(message) >= 6:
        state, message = message[1:6].decode("ascii", "replace"), message[6:]
    return Refused(number, state, message.decode("utf-8", "replace"))
