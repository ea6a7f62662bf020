"""From replication frames to change batches: transactions, boundaries, schema changes. Pure: no sockets, no clock.

The assembler keeps what has arrived as raw bytes with vectors of offsets and decodes a table's rows when a batch is
closed, all at once. It looks at single messages only where they are rare (relations, truncates, streamed blocks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from connectors.columnar import Offsets
from connectors.postgres import pgoutput
from connectors.postgres.landmark import Landmark, Trail
from connectors.postgres.layouts import UNCHECKED, Describe, Relations
from connectors.postgres.pending import Pending
from connectors.postgres.pgoutput import Commits, Kinds, Messages, StreamCommit, Truncate
from connectors.postgres.position import Lsn
from connectors.postgres.streamed import StreamedTransactions
from engine.changes import ChangeBatch, SchemaChange
from engine.errors import DecodeError, ResyncRequired
from engine.source import Follow

Output = ChangeBatch | SchemaChange


class Assembler:
    """Turns frames, in the order in which they arrive, into batches and schema changes, in commit order.

    One thread. `start` is the position behind which the stream began: transactions that committed at or before it are
    passed over. `follow` names the tables; one whose `since` lies ahead is passed over until then. No batch crosses
    a `since` or one of `cuts`: the batch before it has a position that covers it (it may be empty).
    `batch_bytes` bounds the source bytes of one batch: more whole transactions make a batch of their own, and a
    single larger transaction goes out in fragments. `describe` looks a relation up in the catalog of now: None when
    it is not to be replicated; it is asked when rows of a relation arrive in a layout not seen before in this stream.
    `trail` verifies the log and knows its landmarks; `identify` puts one into the text that a batch carries.

    Every method raises DecodeError for bytes that are not valid, ResyncRequired or UnsupportedValue where rows cannot
    be given exactly; the assembler is of no use after that (continue with a new one at the last position).
    """

    def __init__(
        self,
        start: Lsn,
        follow: Sequence[Follow],
        cuts: Sequence[Lsn],
        batch_bytes: int,
        describe: Describe,
        trail: Trail | None = None,
        identify: Callable[[Landmark], str] | None = None,
    ) -> None:
        self._position = self._emitted = start.value
        self._batch_bytes = batch_bytes
        self._start = start.value
        self._trail = trail or Trail(None, start, start)
        self._identify = identify
        self._relations = Relations(follow, describe, start.value)
        self._sinces = list(self._relations.sinces)
        later = {c.value for c in cuts if c > start}
        self._cuts = sorted(later.union(self._sinces))
        self._pending = Pending(self._relations.layouts)
        self._streamed = StreamedTransactions()
        self._open: int | None = None
        """The commit record's LSN of the transaction that is being received."""
        self._fragmented: set[int] = set()
        """Relations of which the open transaction's rows went out in fragments."""
        self._last_lsn = self._last_end = 0
        self._transactions = 0
        self._clock: int | None = None
        self._out: list[Output] = []

    @property
    def position(self) -> Lsn:
        """Everything committed up to here has been taken in (not necessarily given out yet)."""
        return Lsn(self._position)

    @property
    def pending_bytes(self) -> int:
        """Source bytes that are held for batches to come."""
        return self._pending.size + self._streamed.size

    @property
    def has_changes(self) -> bool:
        """Whether `flush` would give a batch with changes."""
        return self._pending.committed > 0

    @property
    def in_transaction(self) -> bool:
        """Whether the last frame was inside a transaction, whose commit is still to come."""
        return self._open is not None or self._streamed.current is not None

    def feed(self, frames: Sequence[bytes | memoryview]) -> list[Output]:
        """Take in ``w`` frames, whole CopyData payloads; returns what must go out now, in order.

        That is: full batches, fragments of a large transaction, batches that end at a `since` or cut, schema changes
        (after the batch with everything before them). The frames are copied.
        """
        for part in self._slices(frames):
            try:
                self._messages(pgoutput.messages(part))
                self._limit()
            except IndexError:
                raise DecodeError("a message refers to bytes beyond its end") from None
        out, self._out = self._out, []
        return out

    def flush(self) -> ChangeBatch | None:
        """Close the batch: every whole transaction so far. None when nothing has moved since the last one."""
        if self._pending.committed or self._transactions or self._position > self._emitted:
            try:
                return self._close()
            except IndexError:
                raise DecodeError("a message refers to bytes beyond its end") from None
        return None

    def keepalive(self, wal_end: Lsn) -> None:
        """The server has sent everything up to `wal_end`: outside a transaction, that is our position too.

        Raises ResyncRequired when the log turns out to be another than the one that was followed.
        """
        if not self.in_transaction:
            self._trail.passed(wal_end.value)
            self._position = max(self._position, wal_end.value)

    def _slices(self, frames: Sequence[bytes | memoryview]) -> Iterator[Sequence[bytes | memoryview]]:
        """Cut a run of frames so that no piece holds much more than a batch's bytes."""
        total, lo = 0, 0
        if sum(map(len, frames)) <= self._batch_bytes:
            if frames:
                yield frames
            return
        for i, frame in enumerate(frames):
            total += len(frame)
            if total >= self._batch_bytes:
                yield frames[lo : i + 1]
                total, lo = 0, i + 1
        if lo < len(frames):
            yield frames[lo:]

    def _messages(self, run: Messages) -> None:
        lo = 0
        for i in run.rare():
            self._stretch(run.span(lo, i))
            self._rare(run, i)
            lo = i + 1
        self._stretch(run.span(lo, len(run)))

    def _rare(self, run: Messages, index: int) -> None:
        kind = int(run.kinds[index])
        if self._streamed.current is not None and kind != pgoutput.STREAM_STOP:
            self._streamed.add(run.span(index, index + 1))
            return
        match kind:
            case pgoutput.STREAM_START:
                self._outside("Stream Start")
                self._streamed.start(pgoutput.parse_stream_start(run.bytes_of(index)))
            case pgoutput.STREAM_STOP:
                if run.bytes_of(index):
                    raise DecodeError("a Stream Stop message is malformed")
                self._streamed.stop()
            case pgoutput.STREAM_ABORT:
                self._outside("Stream Abort")
                self._streamed.abort(pgoutput.parse_stream_abort(run.bytes_of(index)))
            case pgoutput.STREAM_COMMIT:
                self._outside("Stream Commit")
                self._stream_commit(pgoutput.parse_stream_commit(run.bytes_of(index)))
            case _:
                self._single(run, index)

    def _single(self, run: Messages, index: int) -> None:
        kind = int(run.kinds[index])
        if kind == pgoutput.MESSAGE:
            pgoutput.parse_message(run.bytes_of(index))
            return
        if self._open is None:
            raise DecodeError(f"a {chr(kind)!r} message lies outside of a transaction")
        match kind:
            case pgoutput.RELATION:
                self._relations.announce(pgoutput.parse_relation(run.bytes_of(index)))
            case pgoutput.TYPE:
                pgoutput.check_type(run.bytes_of(index))
            case pgoutput.TRUNCATE:
                self._truncate(pgoutput.parse_truncate(run.bytes_of(index)))

    def _outside(self, what: str) -> None:
        if self._open is not None:
            raise DecodeError(f"a {what} message lies inside a transaction")

    def _stretch(self, run: Messages) -> None:
        """A run of Begin, Commit, Origin and row messages."""
        if not len(run):
            return
        if self._streamed.current is not None:
            self._streamed.add(run)
            return
        self._check_structure(run)
        starts = np.flatnonzero(run.kinds == pgoutput.BEGIN)
        lsns = pgoutput.begins(run.pick(starts))
        lo = 0
        # While a transaction runs, only its commit record's LSN is known: before a boundary means begun before it.
        while self._cuts and len(lsns) and int(lsns[-1]) >= self._cuts[0]:
            first = int(np.searchsorted(lsns, np.uint64(self._cuts[0])))
            self._rows(run.span(lo, int(starts[first])))
            lo = int(starts[first])
            self._reach_cuts(int(lsns[first]))
        self._rows(run.span(lo, len(run)))

    def _check_structure(self, run: Messages) -> None:
        begin, commit = run.kinds == pgoutput.BEGIN, run.kinds == pgoutput.COMMIT
        depth = np.cumsum(begin.astype(np.int64) - commit) + (self._open is not None)
        if not bool((depth == np.where(commit, 0, 1)).all()):
            raise DecodeError("messages do not form transactions")
        pgoutput.check_origins(run.pick(run.kinds == pgoutput.ORIGIN))

    def _reach_cuts(self, lsn: int) -> None:
        """A transaction begins whose commit record is at `lsn`: end a batch at the boundaries before it."""
        reached = 0
        while self._cuts and self._cuts[0] <= lsn:
            reached = self._cuts.pop(0)
        self._position = max(self._position, reached)
        self._close_if_due()
        self._relations.advance(reached)

    def _rows(self, run: Messages) -> None:
        """Take in messages none of which begins behind the next boundary."""
        rows = run.rows()
        oids, codes = _encode(run.relation_ids(rows))
        lo, done = 0, 0
        while True:
            states = np.array([self._relations.state(oid) for oid in oids], np.int64)
            layouts = states[codes[done:]]
            stop = self._first_stop(oids, codes[done:], layouts, run.kinds[rows[done:]])
            upto = len(run) if stop is None else int(rows[done + stop])
            self._take(run.span(lo, upto), rows[done : len(rows) if stop is None else done + stop] - lo, layouts[:stop])
            if stop is None:
                return
            done += stop
            lo = upto
            self._settle(oids[int(codes[done])])

    def _first_stop(self, oids: list[int], codes: Offsets, layouts: Offsets, kinds: Kinds) -> int | None:
        """The first row whose relation must be looked at before it can be taken in."""
        halts = layouts == UNCHECKED
        limited = np.array([self._relations.inserts_only(oid) for oid in oids], bool)
        if limited.any():
            halts |= limited[codes] & (layouts >= 0) & (kinds != pgoutput.INSERT)
        return int(np.argmax(halts)) if bool(halts.any()) else None

    def _settle(self, oid: int) -> None:
        """Check a relation before its next row, or refuse a row that its table cannot take."""
        if self._relations.state(oid) == UNCHECKED:
            change = self._relations.check(oid, touched=self._touched(oid))
        else:
            change = self._relations.refuse(oid, "rows without a key were updated or deleted")
        if change is not None:
            self._close_if_due()
            self._out.append(SchemaChange(Lsn(self._position), *change))

    def _touched(self, oid: int) -> bool:
        open_oids = {self._relations.layouts[i].info.oid for i in self._pending.open_layouts()}
        return oid in open_oids or oid in self._fragmented

    def _take(self, run: Messages, rows: Offsets, layouts: Offsets) -> None:
        """Put rows aside and account for the transactions that begin and commit among them."""
        followed = layouts >= 0
        if not bool(followed.all()):
            rows, layouts = rows[followed], layouts[followed]
        self._pending.add(run.pick(rows), layouts)
        begin = np.flatnonzero(run.kinds == pgoutput.BEGIN)
        commit = np.flatnonzero(run.kinds == pgoutput.COMMIT)
        announced = pgoutput.begins(run.pick(begin))
        if len(announced):
            ahead = np.concatenate((np.array([self._last_lsn], np.uint64), announced))
            if bool((ahead[1:] < ahead[:-1]).any()):
                raise DecodeError("transactions do not come in commit order")
            self._last_lsn = int(announced[-1])
        if self._open is not None:
            announced = np.concatenate((np.array([self._open], np.uint64), announced))
        if len(commit):
            commits = pgoutput.commits(run.pick(commit))
            if bool((commits.lsn != announced[: len(commit)]).any()):
                raise DecodeError("a transaction commits elsewhere than it announced")
            self._committed(commits, behind=int((rows > commit[-1]).sum()))
        self._open = int(announced[-1]) if len(announced) > len(commit) else None

    def _committed(self, commits: Commits, behind: int) -> None:
        """Transactions are complete; `behind` of the rows put aside belong to the next one."""
        ends = commits.end_lsn
        if bool((ends[1:] < ends[:-1]).any()) or int(ends[0]) < self._last_end:
            raise DecodeError("transactions do not come in commit order")
        self._trail.committed(commits)
        self._check_sinces(commits)
        self._last_end = int(ends[-1])
        self._transactions += int((ends > self._start).sum())
        self._clock = int(commits.clock[-1])
        self._position = max(self._position, self._last_end)
        self._pending.commit(behind)
        self._fragmented.clear()

    def _check_sinces(self, commits: Commits) -> None:
        """No `since` may lie within a commit record: which side of it the transaction is on could not be told."""
        while self._sinces and self._sinces[0] < int(commits.end_lsn[-1]):
            since = self._sinces.pop(0)
            first = int(np.searchsorted(commits.end_lsn, np.uint64(since), side="right"))
            if int(commits.lsn[first]) < since:
                tables = None if since == self._start else [t.id for t in self._relations.tables_since(since)]
                raise ResyncRequired("a table's position lies inside a transaction's commit record", tables)

    def _truncate(self, message: Truncate) -> None:
        layouts = []
        for oid in message.relations:
            if self._relations.state(oid) == UNCHECKED:
                self._settle(oid)
            state = self._relations.state(oid)
            if state >= 0:
                layouts.append(state)
        self._pending.add_truncates(layouts)

    def _stream_commit(self, message: StreamCommit) -> None:
        runs = self._streamed.commit(message.xid)
        if message.lsn < self._last_lsn:
            raise DecodeError("transactions do not come in commit order")
        if self._cuts and self._cuts[0] <= message.lsn:
            self._reach_cuts(message.lsn)
        self._last_lsn = self._open = message.lsn
        for run in runs:
            self._messages(run)
            self._limit()
        lsn, end_lsn = np.array([message.lsn], np.uint64), np.array([message.end_lsn], np.uint64)
        self._committed(Commits(lsn, end_lsn, np.array([message.clock], np.int64)), behind=0)
        self._open = None

    def _limit(self) -> None:
        """Give out what exceeds the batch size."""
        if self._pending.size < self._batch_bytes:
            return
        self._close_if_due()
        if self._pending.open_bytes >= self._batch_bytes:
            self._fragmented |= {self._relations.layouts[i].info.oid for i in self._pending.open_layouts()}
            changes, size = self._pending.take(fragment=True)
            self._out.append(ChangeBatch(Lsn(self._position), changes, complete=False, size=size))

    def _close_if_due(self) -> None:
        batch = self.flush()
        if batch is not None:
            self._out.append(batch)

    def _close(self) -> ChangeBatch:
        changes, size = self._pending.take(fragment=False)
        time = None if self._clock is None else self._clock / 1e6 + pgoutput.EPOCH
        landmark = self._trail.at(self._position)
        identity = None if landmark is None or self._identify is None else self._identify(landmark)
        batch = ChangeBatch(Lsn(self._position), changes, time, self._transactions, size=size, identity=identity)
        self._emitted, self._transactions, self._clock = self._position, 0, None
        return batch


def _encode(oids: Offsets) -> tuple[list[int], Offsets]:
    """The distinct relation oids, and for each row which of them it is."""
    if not len(oids):
        return [], oids
    if bool((oids == oids[0]).all()):
        return [int(oids[0])], np.zeros(len(oids), np.int64)
    encoded = pa.array(oids).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
