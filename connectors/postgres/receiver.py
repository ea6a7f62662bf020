"""The thread that owns the replication socket: frames in, feedback out, whatever the consumer is doing.

Frames come out of the connection in order and go to a bounded inbox as lists. Feedback is sent on time even while the consumer
is busy or the inbox is full (then nothing is read, and TCP holds the server back): the server ends a connection that
stays silent for `wal_sender_timeout`. What is reported as flushed is what was confirmed, never more.

Source of the formats: PostgreSQL documentation, "Streaming Replication Protocol" (messages ``w``, ``k`` and ``r``).
"""

from __future__ import annotations

import itertools
import os
import select
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from connectors.inbox import Inbox
from connectors.postgres.connection import Connection, Connections
from connectors.postgres.copystream import CopyStream, Payload, begin_copy
from connectors.postgres.failures import SlotInUse, one_line, stream_error
from connectors.postgres.position import Lsn
from connectors.postgres.slot import IN_USE_PATIENCE
from engine.errors import DecodeError, EngineError, TransientError

FEEDBACK_INTERVAL = 1.0
"""Seconds between two reports at most (`wal_sender_timeout` is 60 s by default; 2 s is the least that is supported)."""
IDLE_FIRST, IDLE_INTERVAL = 0.05, 0.25
"""Seconds of silence after which the server is asked where its log ends, and how often then."""
GATHER_BELOW, GATHER_PAUSE = 16384, 0.008
"""When no more than so many bytes came before nothing is left to read, a pause in seconds lets more gather: taking in each
transaction of a steady trickle by itself costs many times the processor time, from the wake-up to the decoder's run."""
FRAME_OVERHEAD = 60
"""Bytes of memory that a frame costs beside its content."""

_EPOCH = 946684800.0
_XLOG_DATA, _KEEPALIVE = ord("w"), ord("k")
_K = struct.Struct(">cQqB")
_R = struct.Struct(">cQQQqB")


@dataclass(frozen=True, slots=True)
class Frames:
    """Whole ``w`` frames, in order, and when the first of them arrived (monotonic clock)."""

    frames: Sequence[Payload]
    size: int
    arrived: float


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The server has sent all that its log holds up to `wal_end`."""

    wal_end: Lsn


Item = Frames | Keepalive


def joined(items: list[Item], most: int) -> Iterator[Item]:
    """Take the items off the list: frames in runs of about `most` bytes, and the keepalive that came after the last of them.

    Decoding has a cost per run, whatever its length, and what is made of a run is in memory at once. A server may send a
    keepalive after every transaction. What one says, the frames behind it say again: their transactions end beyond it.
    """
    last = items.pop() if items and isinstance(items[-1], Keepalive) else None
    items.reverse()
    while items:
        run: list[Frames] = []
        size = 0
        while items and size < most:
            item = items.pop()
            if isinstance(item, Frames):
                run.append(item)
                size += item.size
        if len(run) == 1:
            yield run[0]
        elif run:
            yield Frames(list(itertools.chain.from_iterable(part.frames for part in run)), size, run[0].arrived)
    if last is not None:
        yield last


class Receiver:
    """Streams one slot. `inbox` is for the one consumer; `confirm` and `close` may be called from any thread."""

    def __init__(
        self, connections: Connections, slot: str, publications: Sequence[str], after: Lsn, capacity: int
    ) -> None:
        self._connections = connections
        self._slot = slot
        self.inbox: Inbox[Item] = Inbox(capacity)
        self._confirmed = 0
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_lock = threading.Lock()
        self._asked = self._reported = self._reported_lsn = 0.0
        self._last_data = time.monotonic()
        try:
            self._connection, self._copy = self._start(publications, after)
        except BaseException:
            self._close_pipe()
            raise
        self.backend_pid = self._connection.pgconn.backend_pid
        self._thread = threading.Thread(target=self._main, name=f"receiver {slot}", daemon=True)
        self._thread.start()

    def confirm(self, position: Lsn) -> None:
        """Report everything up to `position` as durable, soon."""
        if position.value > self._confirmed:
            self._confirmed = position.value
            self._wake()

    def resume(self) -> None:
        """The consumer has made room in the inbox."""
        self._wake()

    def close(self, timeout: float = 2.0) -> None:
        """End the stream and wait for the thread."""
        self._stopping = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _wake(self) -> None:
        with self._wake_lock:
            if self._wake_write >= 0:
                try:
                    os.write(self._wake_write, b"\0")
                except BlockingIOError:
                    return

    def _close_pipe(self) -> None:
        with self._wake_lock:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1

    def _start(self, publications: Sequence[str], after: Lsn) -> tuple[Connection, CopyStream]:
        """START_REPLICATION; a slot that is still held (by a connection that has just died) is waited for briefly."""
        names = ",".join('"' + p.replace('"', '""') + '"' for p in publications).replace("'", "''")
        command = (
            f"START_REPLICATION SLOT \"{self._slot}\" LOGICAL {after} (proto_version '1', publication_names '{names}')"
        )
        deadline = time.monotonic() + IN_USE_PATIENCE
        while True:
            connection = self._connections.open(f"streaming from slot {self._slot}", replication=True)
            try:
                copy = begin_copy(connection, command)
            except BaseException:
                self._connections.release(connection)
                raise
            if copy.failure is None:
                return connection, copy
            copy.close()
            self._connections.release(connection)
            error = self._ended(copy)
            if not isinstance(error, SlotInUse) or time.monotonic() > deadline or self._connections.closed:
                raise error
            time.sleep(0.1)

    def _main(self) -> None:
        error: EngineError | None = None
        try:
            self._receive()
            error = None if self._stopping else self._ended(self._copy)
        except EngineError as failure:
            error = failure
        except (psycopg.Error, OSError) as failure:
            error = self._failure(one_line(str(failure)))
        finally:
            if self._stopping or self._connections.closed:
                error = None
            self._copy.close()
            self._connections.release(self._connection)
            self._close_pipe()
            self.inbox.end(error)

    def _receive(self) -> None:
        """Until the stream ends or `close` is called."""
        copy = self._copy
        poll = select.poll()
        poll.register(copy.fileno(), select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        waiting = select.poll()
        waiting.register(self._wake_read, select.POLLIN)
        read = 0
        # What came together with the answer to START_REPLICATION, which may be all that comes: an error, say.
        self._sort(copy.take())
        while not self._stopping and not copy.ended:
            if self.inbox.full:
                self._feedback(idle=False)
                waiting.poll(max(0.0, self._reported + FEEDBACK_INTERVAL / 2 - time.monotonic()) * 1000 + 1)
                self._drain_wake()
                continue
            if count := copy.fill():
                self._sort(copy.take())
                self._feedback(idle=False)
                read += count
                continue
            if 0 < read <= GATHER_BELOW:
                time.sleep(GATHER_PAUSE)
            read = 0
            self._feedback(idle=True)
            copy.flush()
            for fd, _ in poll.poll(self._pause() * 1000):
                if fd == self._wake_read:
                    self._drain_wake()
        self._sort(copy.take())

    def _sort(self, payloads: list[Payload]) -> None:
        """Hand messages over by kind, in order."""
        frames: list[Payload] = []
        for payload in payloads:
            kind = payload[0] if len(payload) else 0
            if kind == _XLOG_DATA:
                frames.append(payload)
            elif kind == _KEEPALIVE and len(payload) == _K.size:
                self._hand_over(frames)
                frames = []
                _, wal_end, _, reply = _K.unpack(payload)
                self.inbox.put(Keepalive(Lsn(wal_end)), 0, instead_of=Keepalive)
                if reply:
                    self._send(ask=False)
            else:
                raise DecodeError(f"unknown replication message 0x{kind:02x}")
        self._hand_over(frames)

    def _hand_over(self, frames: list[Payload]) -> None:
        if frames:
            now = self._last_data = time.monotonic()
            size = sum(map(len, frames)) + FRAME_OVERHEAD * len(frames)
            self.inbox.put(Frames(frames, size, now), size)

    def _ended(self, copy: CopyStream) -> EngineError:
        """Why the server ended the stream."""
        if copy.failure is None:
            return self._failure("the server ended the stream")
        state, primary = copy.failure
        return self._failure(primary) if state is None else stream_error(state, primary, self._slot)

    def _failure(self, message: str) -> EngineError:
        return TransientError(f"streaming from slot {self._slot}: {message or 'connection lost'}")

    def _pause(self) -> float:
        """Seconds until there is something to send."""
        now = time.monotonic()
        first = self._asked <= self._last_data
        ask = self._last_data + IDLE_FIRST if first else self._asked + IDLE_INTERVAL
        return max(0.0, min(ask, self._reported + FEEDBACK_INTERVAL) - now) + 0.001

    def _feedback(self, *, idle: bool) -> None:
        """Report when it is time to, or when more has been confirmed; ask for the end of the log when nothing comes."""
        now = time.monotonic()
        since_data, since_asked = now - self._last_data, now - self._asked
        ask = idle and since_data >= IDLE_FIRST and (self._asked <= self._last_data or since_asked >= IDLE_INTERVAL)
        if ask or now - self._reported >= FEEDBACK_INTERVAL / 2 or self._confirmed > self._reported_lsn:
            self._send(ask=ask)

    def _send(self, *, ask: bool) -> None:
        lsn = self._confirmed
        clock = int((time.time() - _EPOCH) * 1_000_000)
        self._copy.send(_R.pack(b"r", lsn, lsn, lsn, clock, ask))
        self._reported, self._reported_lsn = time.monotonic(), lsn
        if ask:
            self._asked = self._reported

    def _drain_wake(self) -> None:
        try:
            while len(os.read(self._wake_read, 4096)) == 4096:
                pass
        except BlockingIOError:
            return
