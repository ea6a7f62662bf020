"""The messages of PostgreSQL's `pgoutput` plugin, protocol versions 1 and 2. Pure: bytes in, values out.

Source of the formats: PostgreSQL documentation, "Logical Replication Message Formats" and "Streaming Replication
Protocol" (XLogData). Messages arrive as whole CopyData payloads (``w`` frames): the byte ``w``, three 64-bit numbers
(start of WAL, end of WAL, clock), then the pgoutput message. A run of frames becomes one buffer with vectors of
offsets; what comes once per row or per transaction is looked at only in vectors, what comes rarely is parsed one by
one. Whatever is not exactly a message raises DecodeError.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from connectors.columnar import Mask, Offsets, Raw
from engine.errors import DecodeError

HEADER = 25
"""Bytes of a ``w`` frame before the pgoutput message."""

EPOCH = 946684800.0
"""2000-01-01 UTC, PostgreSQL's epoch, in Unix seconds."""

Kinds = npt.NDArray[np.uint8]

_FRAME = ord("w")
BEGIN, COMMIT, ORIGIN = ord("B"), ord("C"), ord("O")
INSERT, UPDATE, DELETE = ord("I"), ord("U"), ord("D")
RELATION, TYPE, TRUNCATE, MESSAGE = ord("R"), ord("Y"), ord("T"), ord("M")
STREAM_START, STREAM_STOP, STREAM_COMMIT, STREAM_ABORT = ord("S"), ord("E"), ord("c"), ord("A")

_KNOWN = np.zeros(256, bool)
_KNOWN[[BEGIN, COMMIT, ORIGIN, INSERT, UPDATE, DELETE, RELATION, TYPE, TRUNCATE, MESSAGE]] = True
_KNOWN[[STREAM_START, STREAM_STOP, STREAM_COMMIT, STREAM_ABORT]] = True
_RARE = _KNOWN.copy()
_RARE[[BEGIN, COMMIT, ORIGIN, INSERT, UPDATE, DELETE]] = False
_ROW = np.zeros(256, bool)
_ROW[[INSERT, UPDATE, DELETE]] = True
_WITH_XID = np.zeros(256, bool)
_WITH_XID[[INSERT, UPDATE, DELETE, RELATION, TYPE, TRUNCATE, MESSAGE]] = True
_TWO_PHASE = frozenset(b"bPKrp")


@dataclass(frozen=True, slots=True)
class Messages:
    """A run of messages in one buffer: per message its kind byte, where its body begins (behind the kind byte, and
    behind the transaction id inside a streamed block), and where it ends."""

    raw: Raw
    kinds: Kinds
    body: Offsets
    end: Offsets

    def __len__(self) -> int:
        return len(self.kinds)

    def span(self, lo: int, hi: int) -> Messages:
        """The messages `lo` (included) to `hi` (excluded), without copying."""
        return Messages(self.raw, self.kinds[lo:hi], self.body[lo:hi], self.end[lo:hi])

    def pick(self, which: Offsets | Mask) -> Messages:
        """The chosen messages, sharing the buffer."""
        return Messages(self.raw, self.kinds[which], self.body[which], self.end[which])

    def bytes_of(self, index: int) -> bytes:
        """The body of one message."""
        return self.raw.u8[self.body[index] : self.end[index]].tobytes()

    def rare(self) -> list[int]:
        """Indexes of the messages that are handled one by one (all but Begin, Commit, Origin and rows)."""
        return [int(i) for i in np.flatnonzero(_RARE[self.kinds])]

    def rows(self) -> Offsets:
        """Indexes of the inserts, updates and deletes."""
        return np.flatnonzero(_ROW[self.kinds])

    def relation_ids(self, rows: Offsets) -> Offsets:
        """The relation oid of each of these row messages."""
        body = self.body[rows]
        if bool((body + 5 > self.end[rows]).any()):
            raise DecodeError("a row message ends before its tuple")
        return self.raw.at(">u4", body).astype(np.int64)

    def with_xid(self) -> tuple[Offsets, Messages]:
        """Inside a streamed block: the (sub)transaction id of each message (0: it has none), and the messages behind it."""
        has = _WITH_XID[self.kinds]
        shift = np.where(has, 4, 0)
        if bool((self.body + shift > self.end).any()):
            raise DecodeError("a streamed message ends before its transaction id")
        xids = np.zeros(len(self), np.int64)
        xids[has] = self.raw.at(">u4", self.body[has]).astype(np.int64)
        return xids, Messages(self.raw, self.kinds, self.body + shift, self.end)


def messages(frames: Sequence[bytes | memoryview]) -> Messages:
    """Lay whole ``w`` frames side by side. Raises DecodeError for another frame or an unknown message kind."""
    lengths = np.fromiter(map(len, frames), np.int64, len(frames))
    raw = Raw(b"".join(frames))
    end = np.cumsum(lengths)
    start = end - lengths
    if len(frames) and lengths.min() <= HEADER:
        raise DecodeError("a replication frame is too short to hold a message")
    if bool((raw.u8[start] != _FRAME).any()):
        raise DecodeError("a replication frame is not XLogData")
    kinds = raw.u8[start + HEADER]
    if not bool(_KNOWN[kinds].all()):
        kind = int(kinds[~_KNOWN[kinds]][0])
        if kind in _TWO_PHASE:
            raise DecodeError(f"message {chr(kind)!r} belongs to two-phase transactions, which are not requested")
        raise DecodeError(f"unknown message kind 0x{kind:02x}")
    return Messages(raw, kinds, start + HEADER + 1, end)


class Commits(NamedTuple):
    """Commit messages in vectors: the commit record's LSN, the end of the transaction, the server's clock (µs)."""

    lsn: npt.NDArray[np.uint64]
    end_lsn: npt.NDArray[np.uint64]
    clock: Offsets


def commits(run: Messages) -> Commits:
    """Decode a run that holds nothing but Commit messages."""
    if bool((run.end - run.body != 25).any()) or bool((run.raw.u8[run.body] != 0).any()):
        raise DecodeError("a Commit message has the wrong length or unknown flags")
    lsn, end_lsn = run.raw.u64(run.body + 1), run.raw.u64(run.body + 9)
    if bool((end_lsn < lsn).any()):
        raise DecodeError("a Commit message ends before it begins")
    return Commits(lsn, end_lsn, run.raw.i64(run.body + 17))


def begins(run: Messages) -> npt.NDArray[np.uint64]:
    """The LSN of the commit record that each of these Begin messages announces."""
    if bool((run.end - run.body != 20).any()):
        raise DecodeError("a Begin message has the wrong length")
    return run.raw.u64(run.body)


def check_origins(run: Messages) -> None:
    """Verify Origin messages (an LSN and a name), which say nothing that is needed."""
    if bool((run.end - run.body < 9).any()) or bool((run.raw.u8[run.end - 1] != 0).any()):
        raise DecodeError("an Origin message is malformed")


class RelationColumn(NamedTuple):
    """A column as a Relation message describes it."""

    name: str
    type_oid: int
    typmod: int
    key: bool


@dataclass(frozen=True, slots=True)
class RelationInfo:
    """A Relation message: the layout in which the following rows of this relation are sent.

    `replica_identity` is pg_class.relreplident (``d``, ``n``, ``f``, ``i``); `RelationColumn.key` marks the columns
    of the replica identity, with ``f`` all of them.
    """

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]

    @property
    def layout(self) -> tuple[tuple[str, int, int], ...]:
        """Name, type oid and typmod of each column, for comparison with the catalog."""
        return tuple((c.name, c.type_oid, c.typmod) for c in self.columns)


class Truncate(NamedTuple):
    """A Truncate message: the truncated relations, and whether CASCADE and RESTART IDENTITY were said."""

    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class StreamStart(NamedTuple):
    """The beginning of a streamed block of transaction `xid`; `first`: its first block."""

    xid: int
    first: bool


class StreamCommit(NamedTuple):
    """The commit of a streamed transaction; fields as in `Commits`."""

    xid: int
    lsn: int
    end_lsn: int
    clock: int


class StreamAbort(NamedTuple):
    """The abort of subtransaction `subxid` of streamed transaction `xid` (of all of it when both are equal)."""

    xid: int
    subxid: int


class LogicalMessage(NamedTuple):
    """A logical decoding message (pg_logical_emit_message)."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class _Reader:
    """A bounds-checked cursor over one rare message."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[int, ...]:
        end = self.at + struct.calcsize(layout)
        if end > len(self.data):
            raise DecodeError("a message ends too early")
        values = struct.unpack_from(layout, self.data, self.at)
        self.at = end
        return values

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise DecodeError("a name in a message has no end")
        try:
            value = self.data[self.at : end].decode()
        except UnicodeDecodeError:
            raise DecodeError("a name in a message is not UTF-8") from None
        self.at = end + 1
        return value

    def finish(self) -> None:
        if self.at != len(self.data):
            raise DecodeError("a message is longer than its content")


def parse_relation(body: bytes) -> RelationInfo:
    """Parse a Relation message (an empty namespace means pg_catalog)."""
    reader = _Reader(body)
    (oid,) = reader.take(">I")
    schema, name = reader.text() or "pg_catalog", reader.text()
    identity, count = reader.take(">bh")
    if chr(identity & 0xFF) not in "dnfi" or count < 0:
        raise DecodeError("a Relation message has an unknown replica identity or column count")
    columns = []
    for _ in range(count):
        (flags,) = reader.take(">B")
        column = reader.text()
        type_oid, typmod = reader.take(">Ii")
        if flags > 1:
            raise DecodeError("a Relation message has unknown column flags")
        columns.append(RelationColumn(column, type_oid, typmod, flags == 1))
    reader.finish()
    if len({c.name for c in columns}) != count:
        raise DecodeError("a Relation message names a column twice")
    return RelationInfo(oid, schema, name, chr(identity), tuple(columns))


def parse_truncate(body: bytes) -> Truncate:
    """Parse a Truncate message."""
    reader = _Reader(body)
    count, flags = reader.take(">iB")
    if count < 0 or flags > 3 or len(body) != 5 + 4 * count:
        raise DecodeError("a Truncate message is malformed")
    relations = reader.take(f">{count}I")
    return Truncate(tuple(relations), bool(flags & 1), bool(flags & 2))


def parse_message(body: bytes) -> LogicalMessage:
    """Parse a logical decoding message."""
    reader = _Reader(body)
    flags, lsn = reader.take(">BQ")
    prefix = reader.text()
    (length,) = reader.take(">I")
    if flags > 1 or length != len(body) - reader.at:
        raise DecodeError("a logical decoding message is malformed")
    return LogicalMessage(flags == 1, lsn, prefix, body[reader.at :])


def check_type(body: bytes) -> None:
    """Verify a Type message (oid, schema, name): types are looked up in the catalog instead."""
    reader = _Reader(body)
    reader.take(">I")
    reader.text()
    reader.text()
    reader.finish()


def parse_stream_start(body: bytes) -> StreamStart:
    """Parse Stream Start."""
    reader = _Reader(body)
    xid, first = reader.take(">IB")
    reader.finish()
    if first > 1:
        raise DecodeError("a Stream Start message has unknown flags")
    return StreamStart(xid, first == 1)


def parse_stream_commit(body: bytes) -> StreamCommit:
    """Parse Stream Commit."""
    reader = _Reader(body)
    xid, flags, lsn, end_lsn, clock = reader.take(">IBQQq")
    reader.finish()
    if flags or end_lsn < lsn:
        raise DecodeError("a Stream Commit message is malformed")
    return StreamCommit(xid, lsn, end_lsn, clock)


def parse_stream_abort(body: bytes) -> StreamAbort:
    """Parse Stream Abort (protocol 2: without the LSN and clock that parallel streaming adds)."""
    reader = _Reader(body)
    xid, subxid = reader.take(">II")
    reader.finish()
    return StreamAbort(xid, subxid)
