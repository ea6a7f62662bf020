"""Compressed parts of a binary log made plain: MySQL's compressed transactions and MariaDB's compressed events.

Source of the formats: MySQL source documentation, "Transaction_payload_event" (zstd, since 8.0.20), dev.mysql.com;
MariaDB Knowledge Base, "Compressing Events to Reduce Size of the Binary Log" and MariaDB's documentation of
QUERY_COMPRESSED_EVENT and the compressed rows events (zlib), mariadb.com/kb.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from connectors.columnar import Offsets
from connectors.mysql.eventruns import Events, Types, headers
from connectors.mysql.events import (
    DELETE_ROWS,
    DELETE_ROWS_COMPRESSED,
    DELETE_ROWS_COMPRESSED_V1,
    DELETE_ROWS_V1,
    HEADER,
    QUERY,
    QUERY_COMPRESSED,
    TRANSACTION_PAYLOAD,
    UPDATE_ROWS,
    UPDATE_ROWS_COMPRESSED,
    UPDATE_ROWS_COMPRESSED_V1,
    UPDATE_ROWS_V1,
    WRITE_ROWS,
    WRITE_ROWS_COMPRESSED,
    WRITE_ROWS_COMPRESSED_V1,
    WRITE_ROWS_V1,
)
from connectors.mysql.wire import Cursor
from engine.errors import DecodeError

PLAIN = {
    QUERY_COMPRESSED: QUERY,
    WRITE_ROWS_COMPRESSED_V1: WRITE_ROWS_V1,
    UPDATE_ROWS_COMPRESSED_V1: UPDATE_ROWS_V1,
    DELETE_ROWS_COMPRESSED_V1: DELETE_ROWS_V1,
    WRITE_ROWS_COMPRESSED: WRITE_ROWS,
    UPDATE_ROWS_COMPRESSED: UPDATE_ROWS,
    DELETE_ROWS_COMPRESSED: DELETE_ROWS,
}
"""MariaDB's compressed event types, and what each becomes."""
PACKED: Types = np.zeros(256, np.uint8)
"""Nonzero for the event types that this module makes plain."""
PACKED[[TRANSACTION_PAYLOAD, *PLAIN]] = 1

WHOLE = 4 << 20
"""A compressed transaction up to this size is inflated at once; a larger one in pieces of it."""
_LARGEST_EVENT = 1 << 30
_ZSTD = pa.Codec("zstd")
_LENGTH = struct.Struct("<I").unpack_from


class Payload(NamedTuple):
    """A TRANSACTION_PAYLOAD event: the events of one transaction, compressed or not."""

    compressed: bool
    size: int
    """Bytes when inflated."""
    content: bytes


def parse_payload(body: bytes) -> Payload:
    """Parse TRANSACTION_PAYLOAD: fields with a type and a length each, up to an end mark; then the content."""
    cursor = Cursor(body, "a TRANSACTION_PAYLOAD event")
    said: dict[int, int] = {}
    while field := cursor.lenenc():
        value = Cursor(cursor.raw(cursor.lenenc()), cursor.what)
        said[field] = value.lenenc()
    content = cursor.rest()
    algorithm = said.get(2, 0)
    if algorithm not in {0, 255}:
        raise DecodeError(f"a transaction is compressed by an unknown algorithm {algorithm}")
    if said.get(1, len(content)) != len(content):
        raise cursor.malformed()
    size = said.get(3, len(content)) if algorithm == 0 else len(content)
    return Payload(algorithm == 0, size, content)


def inflated(payload: Payload) -> Iterator[bytes]:
    """The content of a payload: at once when it is small, else in pieces of `WHOLE` bytes. DecodeError when damaged."""
    if not payload.compressed:
        yield payload.content
        return
    done = 0
    try:
        if payload.size <= WHOLE:
            yield _ZSTD.decompress(payload.content, decompressed_size=payload.size, asbytes=True)
            return
        with pa.CompressedInputStream(pa.BufferReader(payload.content), "zstd") as stream:
            # One byte more than there should be, so that a longer content is seen.
            while piece := stream.read(min(WHOLE, payload.size - done + 1)):
                done += len(piece)
                if done > payload.size:
                    break
                yield piece
    except (OSError, pa.ArrowException):
        raise DecodeError("a compressed transaction cannot be inflated, or not to the size that it says") from None
    if done != payload.size:
        raise DecodeError("a compressed transaction has another size than it says")


def _frames(data: bytes, base: int, starts: list[int]) -> int:
    """Add where the whole events of a payload begin (from `base` on); returns how far they reach."""
    at, size = 0, len(data)
    while at + HEADER <= size:
        length = _LENGTH(data, at + 9)[0]
        if not HEADER <= length <= _LARGEST_EVENT:
            raise DecodeError("a compressed transaction holds an event of an impossible length")
        if at + length > size:
            break
        starts.append(base + at)
        at += length
    return at


def inflate_event(body: bytes, type: int) -> bytes:
    """The body of the plain event that a MariaDB compressed event stands for.

    Only the statement, or the row images, are compressed; what lies before them is not.
    """
    at = _query_prefix(body) if type == QUERY_COMPRESSED else _rows_prefix(body, type)
    cursor = Cursor(body, "a compressed event")
    prefix = cursor.raw(at)
    head = cursor.number(1)
    width = head & 0x07
    if head & 0xF0 != 0x80 or not 0 < width <= 4:
        raise DecodeError("an event is compressed by an unknown algorithm")
    size = int.from_bytes(cursor.raw(width), "big")
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(cursor.rest(), size + 1)
    except zlib.error:
        raise DecodeError("a compressed event cannot be inflated") from None
    if len(content) != size or not inflater.eof:
        raise DecodeError("a compressed event has another size than it says")
    return prefix + content


def _query_prefix(body: bytes) -> int:
    cursor = Cursor(body, "a compressed QUERY event")
    _thread, _seconds, schema, _error, status = cursor.take("<IIBHH")
    return cursor.at + status + schema + 1


def _rows_prefix(body: bytes, type: int) -> int:
    cursor = Cursor(body, "a compressed rows event")
    cursor.raw(8)
    if type in {WRITE_ROWS_COMPRESSED, UPDATE_ROWS_COMPRESSED, DELETE_ROWS_COMPRESSED}:
        extra = cursor.number(2)
        if extra < 2:
            raise cursor.malformed()
        cursor.raw(extra - 2)
    bitmaps = 2 if type in {UPDATE_ROWS_COMPRESSED, UPDATE_ROWS_COMPRESSED_V1} else 1
    columns = cursor.lenenc()
    cursor.raw(bitmaps * ((columns + 7) // 8))
    return cursor.at


class _Inflating:
    """A run of events with compressed ones, becoming plain runs from its beginning on."""

    def __init__(self, run: Events) -> None:
        self._run = run
        self._done = 0
        self._begin()

    def _begin(self) -> None:
        self._extra: list[bytes] = []
        self._size = len(self._run.data)
        self._heads: list[int] = []
        """Where the headers of inflated events are."""
        self._counts: dict[int, int] = {}
        """Events of the run that became others, and how many of them."""
        self._events: list[tuple[int, int, int, int]] = []
        """Events that became one of another type: index, type, and where the body begins and ends."""

    def _append(self, data: bytes) -> None:
        self._extra.append(data)
        self._size += len(data)

    @property
    def full(self) -> bool:
        """Whether enough is inflated to give it out."""
        return self._size - len(self._run.data) >= WHOLE

    def event(self, index: int, type: int, body: bytes) -> None:
        """One event became another, of this type and body."""
        self._events.append((index, type, self._size, self._size + len(body)))
        self._append(body)

    def transaction(self, index: int, payload: Payload) -> Iterator[Events]:
        """One event became the events of its payload; gives out runs while they are many."""
        waiting: list[bytes] = []
        size, need = 0, HEADER
        for piece in inflated(payload):
            waiting.append(piece)
            size += len(piece)
            if size < need:
                continue  # an event longer than a piece is put together once
            data = b"".join(waiting) if len(waiting) > 1 else piece
            known = len(self._heads)
            reached = _frames(data, self._size, self._heads)
            self._counts[index] = self._counts.get(index, 0) + len(self._heads) - known
            rest = data[reached:]
            self._append(data[:reached] if rest else data)
            waiting, size = [rest], len(rest)
            need = _LENGTH(rest, 9)[0] if size >= HEADER else HEADER
            if self.full:
                yield from self.flush(index + 1)
        if size:
            raise DecodeError("a compressed transaction ends within an event")

    def flush(self, end: int) -> Iterator[Events]:
        """Give out the events up to `end` (excluded) that have not been given out yet, in one run."""
        # After a flush within a transaction its rest belongs to an event that is behind us.
        first = min(self._done, *self._counts) if self._counts else self._done
        origin = np.arange(first, end)
        if self._counts:
            counts = np.ones(len(origin), np.int64)
            counts[np.fromiter(self._counts, np.int64) - first] = list(self._counts.values())
            origin = np.repeat(origin, counts)
        if len(origin):
            yield self._assembled(origin)
        self._done = max(self._done, end)
        self._begin()

    def _assembled(self, origin: Offsets) -> Events:
        """The events whose places in the run are `origin`, with what they became put in."""
        data = b"".join([self._run.data, *self._extra]) if self._extra else self._run.data
        u8 = np.frombuffer(data, np.uint8)
        some = self._run.pick(origin)
        if self._heads:
            heads = np.array(self._heads, np.int64)
            found = headers(u8, heads)
            inner = np.flatnonzero(self._run.types[origin] == TRANSACTION_PAYLOAD)
            some.types[inner], some.timestamps[inner] = found.types, found.timestamps
            some.servers[inner], some.flags[inner] = found.servers, found.flags
            some.body[inner], some.end[inner] = heads + HEADER, heads + found.lengths
            if bool(PACKED[found.types].any()):
                raise DecodeError("a compressed transaction holds another one")
        if self._events:
            index, types, starts, ends = np.array(self._events, np.int64).T
            at = np.searchsorted(origin, index)
            some.types[at], some.body[at], some.end[at] = types, starts, ends
        return replace(some, data=data, u8=u8)


def plain(run: Events) -> Iterator[Events]:
    """The run with everything compressed in it made plain, in order: mostly one run, more where it is large."""
    inflating = _Inflating(run)
    for index in np.flatnonzero(PACKED[run.types]).tolist():
        type = int(run.types[index])
        body = run.body_of(index)
        if type == TRANSACTION_PAYLOAD:
            yield from inflating.transaction(index, parse_payload(body))
        else:
            inflating.event(index, PLAIN[type], inflate_event(body, type))
        if inflating.full:
            yield from inflating.flush(index + 1)
    yield from inflating.flush(len(run))
