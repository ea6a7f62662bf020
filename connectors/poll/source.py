"""The Source protocol over a reader: rounds, when they are due, and what is skipped."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from connectors.poll.position import Round
from connectors.poll.reader import Reader
from connectors.poll.reading import Reading, as_changes, emptied
from connectors.poll.views import Mark, OpenView, PollSnapshot, as_transient
from engine.changes import ChangeBatch, Position, SchemaChange, TableChanges
from engine.errors import EngineError, PreconditionError, ResyncRequired, TransientError
from engine.schema import TableId, TableSchema
from engine.source import Check, Follow, SourceOptions, SourceStatus, StreamState

JITTER: Final = 0.1
"""Part of the interval by which each round comes earlier or later, so that engines do not poll in step."""
REST: Final = 1.0
"""Seconds between the end of a round and the next one, however long it took."""
TRIES: Final = 3
"""How often a round begins again at once when a table was altered under it."""
PING_EVERY: Final = 5.0
"""Seconds after which a server that was not spoken to is asked for a sign of life."""
AHEAD: Final = 2
"""Batches' worth of bytes that are read ahead."""


class NothingTaken(TransientError):
    """A round was given up before anything of it was handed on: it can begin again as if it had not begun."""


class PollSource:
    """A source that is read whole every `SourceOptions.poll_interval` seconds. See `engine.source.Source`.

    Nothing is made at the source, and nothing is kept open there between rounds but one idle session. A round is one
    transaction: fragments first, and one complete batch at its end. `inspect` finds nothing: what is new, gone or
    altered is told by the round itself, before it reads (a table that is gone: after it, when the others are as new).
    """

    def __init__(self, reader: Reader, options: SourceOptions) -> None:
        self._reader = reader
        self._options = options
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._last = 0
        """The largest number of a round so far."""
        self._held: OpenView | None = None
        self._loaded: dict[TableId, tuple[Round, Mark]] = {}
        self._left_out: Mapping[TableId, Check] = {}
        self._contact = float("-inf")

    # What is there

    def check(self) -> Sequence[Check]:
        return self._reader.check()

    def discover(self, known: Sequence[TableSchema] = ()) -> Sequence[TableSchema]:
        del known
        found = self._reader.discover()
        self._heard(found.left_out)
        return found.tables

    def prepare(self, tables: Sequence[TableSchema], after: Position | None, identity: str | None) -> StreamState:
        del tables
        if identity is None:
            # A first start replicates all that is chosen, or says why it does not.
            _refuse(self._left_out.values())
        if after is None:
            if identity is not None:
                # Later than every round that was counted from 1.
                self._reach(int(time.time()))
            return StreamState(None, "nothing is loaded yet")
        position = _round(after)
        self._reach(position.number)
        if identity != self.identity():
            return StreamState(None, "what is polled is another database than before")
        return StreamState(position)

    def identity(self) -> str:
        return self._reader.identity()

    def inspect(self, known: Sequence[TableSchema]) -> Sequence[SchemaChange]:
        del known
        return []

    def status(self) -> SourceStatus:
        """No position: between rounds nothing is known of what the source holds. Raises TransientError without it."""
        if self._closing.is_set():
            raise TransientError("asking for a sign of life: the source was closed")
        if time.monotonic() - self._contact > PING_EVERY:
            self._reader.ping()
            self._contact = time.monotonic()
        return SourceStatus(None, None, tuple(self._left_out.values()))

    def parse_position(self, text: str) -> Round:
        return Round.parse(text)

    def confirm(self, position: Position) -> None:
        _round(position)

    def teardown(self) -> Sequence[str]:
        return []

    def close(self) -> None:
        self._closing.set()
        self._reader.close()
        self._let_go()

    # Loading

    @contextmanager
    def snapshot(self, tables: Sequence[TableSchema], *, start: bool) -> Iterator[PollSnapshot]:
        """A view of a round of its own. Unless streaming starts with it, the stream's next round is of this same view."""
        opened = self._open(self._next())
        try:
            if not start:
                self._hold(opened)
            snapshot = PollSnapshot(opened, {t.id for t in tables})
            yield snapshot
            self._loaded.update({table: (opened.position, mark) for table, mark in snapshot.marks().items()})
        except EngineError as error:
            # Resynchronising is for streams that have lost their thread: here the next view will do.
            raise as_transient(error) from error
        finally:
            opened.release()

    def _hold(self, opened: OpenView) -> None:
        self._let_go()
        opened.use()
        with self._lock:
            self._held = opened

    def _take_held(self, least: int) -> OpenView | None:
        """The view that is kept for the stream's next round, if it is of round `least` or later."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None and held.position.number < least:
            held.release()
            return None
        return held

    def _let_go(self) -> None:
        held = self._take_held(0)
        if held is not None:
            held.release()

    def _open(self, number: int) -> OpenView:
        began = time.monotonic()
        opened = OpenView(self._reader.view(), number)
        self._contact = max(self._contact, began)
        self._heard(opened.view.left_out)
        return opened

    # Rounds

    def stream(
        self, after: Position, follow: Sequence[Follow], cuts: Sequence[Position] = ()
    ) -> Iterator[ChangeBatch | SchemaChange]:
        position = _round(after)
        self._reach(position.number)
        followed = {f.table.id: f for f in follow}
        marks = self._marks_at(position, follow)
        boundaries = [_round(p) for p in (*cuts, *(f.since for f in follow if f.since is not None))]
        wanted = max((b.number for b in boundaries if not position.covers(b)), default=0)
        tries = 0
        due = time.monotonic() + (0.0 if wanted else self._first_pause(position))
        while not self._closing.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            try:
                position = yield from self._round(position, wanted, followed, marks)
                due = max(began + self._interval(), time.monotonic() + REST)
                tries = 0
            except NothingTaken as error:
                # A table was altered or truncated just now: another view will do.
                tries += 1
                if tries > TRIES:
                    raise TransientError(str(error)) from error
                due = time.monotonic() + tries * REST / TRIES
            except EngineError as error:
                if self._closing.is_set():
                    return
                raise as_transient(error) from error

    def _interval(self) -> float:
        return self._options.poll_interval * random.uniform(1 - JITTER, 1 + JITTER)

    def _first_pause(self, after: Round) -> float:
        """Seconds until what is stored is as old as an interval; clocks that disagree make it no longer than that."""
        age = max(0.0, time.time() - after.seconds)
        at_once = random.uniform(0.0, min(1.0, JITTER * self._options.poll_interval))
        return max(at_once, self._interval() - age)

    def _round(
        self, after: Round, wanted: int, followed: Mapping[TableId, Follow], marks: dict[TableId, Mark]
    ) -> Generator[ChangeBatch | SchemaChange, None, Round]:
        """One round; returns its position (a generator's value). `marks` become those of what it has handed on."""
        held = self._take_held(after.number + 1)
        opened = held or self._open(max(self._next(), wanted))
        shared = held is not None
        try:
            self._reach(opened.position.number)
            there = {t.id: t for t in opened.view.tables}
            _refuse_left_out(followed, opened.view.left_out)
            yield from _told_before(after, followed, there)
            same = [t for t in there.values() if (f := followed.get(t.id)) is not None and f.table == t]
            # Loaded from this very view already.
            due = [t for t in same if not (shared and followed[t.id].since == opened.position)]
            skipped = tuple(t.id for t in due if self._unchanged(opened, t, marks))
            read = [t for t in due if t.id not in skipped]
            for table in read:
                marks.pop(table.id, None)
            opened.use()
            reading = Reading(
                opened.view,
                read,
                workers=self._options.snapshot_workers,
                capacity=AHEAD * self._options.batch_bytes,
                done=opened.release,
            )
        except ResyncRequired as error:
            opened.release()
            raise NothingTaken(f"the round is given up: {error.reason}") from error
        except BaseException:
            opened.release()
            raise
        # The last worker leaves the view when all is read, whoever takes the rows when.
        opened.release()
        last: list[TableChanges] = []
        size, first, taken_before = 0, {t.id for t in read}, False
        try:
            for taken in reading:
                if last:
                    taken_before = True
                    yield ChangeBatch(after, tuple(last), complete=False, size=size)
                last = as_changes(taken, first)
                size = sum(c.rows.nbytes for c in last)
        except ResyncRequired as error:
            raise (TransientError if taken_before else NothingTaken)(
                f"the round is given up: {error.reason}"
            ) from error
        finally:
            reading.close()
        self._contact = time.monotonic()
        last += [emptied(t) for t in read if t.id in first]
        for table in read:
            seen = opened.view.mark(table)
            if seen is not None:
                marks[table.id] = Mark(seen, reading.rows[table.id])
        yield ChangeBatch(
            opened.position,
            tuple(last),
            commit_time=min(opened.view.at, opened.asked),
            transactions=1,
            size=size,
            skipped=skipped,
        )
        for table_id, was in followed.items():
            if table_id not in there:
                reason = "the table is gone, or is replicated no more"
                yield SchemaChange(opened.position, was.table, None, reason=reason)
        return opened.position

    def _unchanged(self, opened: OpenView, table: TableSchema, marks: Mapping[TableId, Mark]) -> bool:
        mark = marks.get(table.id)
        return mark is not None and opened.view.unchanged(table, mark.seen, mark.rows)

    def _marks_at(self, after: Round, follow: Sequence[Follow]) -> dict[TableId, Mark]:
        """The marks of tables whose copy is what a snapshot of this source has loaded, as of where they are followed from."""
        marks = {}
        for each in follow:
            loaded = self._loaded.get(each.table.id)
            if loaded is not None and loaded[0] == (after if each.since is None else each.since):
                marks[each.table.id] = loaded[1]
        return marks

    def _reach(self, number: int) -> None:
        with self._lock:
            self._last = max(self._last, number)

    def _next(self) -> int:
        with self._lock:
            self._last += 1
            return self._last

    def _heard(self, left_out: Mapping[TableId, Check]) -> None:
        self._left_out = left_out
        self._contact = time.monotonic()


def _refuse(left_out: Iterable[Check]) -> None:
    failed = list(left_out)
    if failed:
        remedy = " ".join(dict.fromkeys(each.remedy for each in failed if each.remedy))
        raise PreconditionError(f"not every chosen table can be read: {'; '.join(c.detail for c in failed)}.", remedy)


def _refuse_left_out(followed: Mapping[TableId, Follow], left_out: Mapping[TableId, Check]) -> None:
    """What is followed stays, all of it as of one round: no table is left behind, and none dropped for want of a right."""
    _refuse(check for table, check in left_out.items() if table in followed)


def _told_before(
    after: Round, followed: Mapping[TableId, Follow], there: Mapping[TableId, TableSchema]
) -> Iterator[SchemaChange]:
    """The tables that must be loaded anew, or for the first time. Told every round until they are followed as they are."""
    for table in there.values():
        known = followed.get(table.id)
        if known is None:
            yield SchemaChange(after, None, table, reason="a new table")
        elif known.table != table:
            yield SchemaChange(after, known.table, table, reload=True, reason="the table's definition changed")


def _round(position: Position) -> Round:
    if not isinstance(position, Round):
        raise TypeError("a position of a polled source is one of its rounds")
    return position
