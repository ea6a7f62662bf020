"""The common events of the binary log, a stretch of them at a time: plain transactions with rows. Pure.

What has arrived is kept as raw bytes with vectors of offsets; a table's rows are decoded when a batch is closed, all at
once. Events that are looked at one by one are for `connectors.mysql.assembler`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from connectors.columnar import Offsets
from connectors.mysql import events as kinds
from connectors.mysql.cascades import Cascades
from connectors.mysql.eventruns import Events
from connectors.mysql.events import WRITE_ROWS, WRITE_ROWS_V1, Role
from connectors.mysql.groups import BEGUN, Roles, commit_clock, read_groups
from connectors.mysql.landmark import Landmark
from connectors.mysql.layouts import IGNORED, UNCHECKED, Change, Describe, Tables
from connectors.mysql.mapped import Mapped
from connectors.mysql.pending import Pending, Rows
from connectors.mysql.position import BinlogPosition
from connectors.mysql.prepared import PreparedTransactions
from connectors.mysql.progress import Groups, Progress
from connectors.mysql.tablemap import parse_table_name
from engine.changes import ChangeBatch, SchemaChange, TableChanges
from engine.errors import DecodeError
from engine.schema import TableId, TableSchema
from engine.source import Follow

Output = ChangeBatch | SchemaChange

_INSERTS = (WRITE_ROWS, WRITE_ROWS_V1)


class Stretches:
    """Transactions from their events, and the batches that they make. See `connectors.mysql.assembler.Assembler`."""

    def __init__(
        self,
        start: BinlogPosition,
        follow: Sequence[Follow],
        cuts: Sequence[BinlogPosition],
        batch_bytes: int,
        describe: Describe,
        cascades: Callable[[], Cascades] = Cascades,
        identify: Callable[[Landmark | None], str | None] = lambda _: None,
    ) -> None:
        self._progress = Progress(start)
        self._before = start if start.gtids is None and start.offset >> 32 else None
        self._emitted = start
        self._batch_bytes = batch_bytes
        self._tables = Tables(follow, describe, start)
        self._cuts = [c for c in (*cuts, *self._tables.sinces) if not start.covers(c)]
        self._pending = Pending(self._tables.layouts)
        self._prepared = PreparedTransactions(2 * batch_bytes)
        self._mapped = Mapped()
        self._read_cascades = cascades
        self._cascades = cascades()
        self._open: Groups | None = None
        """The transaction that is being received."""
        self._begun = False
        """Whether it is one of several events, which a COMMIT or XID ends; otherwise one statement is all of it."""
        self._xa = False
        """Whether it is an XA transaction: no rows of it go out before its XA COMMIT."""
        self._lost: dict[TableId, TableSchema] = {}
        """Tables of an XA transaction that is too large to be kept."""
        self._fragmented: dict[TableId, TableSchema] = {}
        """Tables of which the open transaction's rows went out in fragments."""
        self._transactions = 0
        self._clock: float | None = None
        self._identify = identify
        self._landmark: Landmark | None = None
        """The newest transaction that is committed."""
        self._opened_at: Landmark | None = None
        self._out: list[Output] = []

    @property
    def position(self) -> BinlogPosition:
        """Everything committed up to here has been taken in (not necessarily given out yet)."""
        return self._progress.position

    @property
    def pending_bytes(self) -> int:
        """Source bytes that are held for batches to come."""
        return self._pending.size

    @property
    def has_changes(self) -> bool:
        """Whether `flush` would give a batch with changes."""
        return self._pending.committed > 0

    @property
    def in_transaction(self) -> bool:
        """Whether the last event was inside a transaction, whose commit is still to come."""
        return self._open is not None

    def flush(self) -> list[Output]:
        """Close the batch: every whole transaction so far. Nothing when nothing has moved since the last one."""
        self._close_if_due()
        return self._sent()

    def _sent(self) -> list[Output]:
        out, self._out = self._out, []
        return out

    def _behind_start(self, run: Events) -> Events:
        """What lies behind the start. A dump cannot begin behind 4 GiB of a file: then it begins with the file."""
        if self._before is None:
            return run
        if run.file == self._before.file:
            behind = run.ends_at > self._before.offset
            if not bool(behind.any()):
                return run.span(0, 0)
            run = run.pick(behind)
        elif not run.file:
            return run
        self._before = None
        return run

    def _slices(self, run: Events) -> Iterator[Events]:
        """Cut a run of events so that no piece holds much more than a batch's bytes."""
        total = np.cumsum(run.end - run.body)
        if len(run) and int(total[-1]) <= self._batch_bytes:
            yield run
            return
        lo = 0
        while lo < len(run):
            taken = int(total[lo - 1]) if lo else 0
            hi = max(lo + 1, int(np.searchsorted(total, taken + self._batch_bytes)) + 1)
            yield run.pick(slice(lo, hi))
            lo = hi

    # Stretches of the common events

    def _stretch(self, run: Events, roles: Roles) -> None:
        """A run of events of plain transactions."""
        if not len(run):
            return
        begin, commit = roles == Role.BEGIN, roles == Role.COMMIT
        depth = np.cumsum(begin.astype(np.int64) - commit) + (self._open is not None)
        if not bool(((depth == np.where(commit, 0, 1)) | ((roles == Role.NOTHING) & (depth == 0))).all()):
            raise DecodeError("events do not form transactions")
        begins, commits = np.flatnonzero(begin), np.flatnonzero(commit)
        groups = read_groups(run, begins, self._progress)
        lo = done = ended = 0
        while self._cuts:
            ahead = groups.span(done, len(groups))
            ahead = ahead if self._open is None else self._open.then(ahead)
            count = self._next_cut(ahead, run.file, run.ends_at[commits[ended:]])
            if count is None:
                break
            first = done + count - (self._open is not None)
            hi = int(begins[first])
            self._rows(run.pick(slice(lo, hi)), roles[lo:hi], groups.span(done, first))
            lo, done, ended = hi, first, ended + count
            self._reach()
        self._rows(run.pick(slice(lo, None)), roles[lo:], groups.span(done, len(groups)))

    def _next_cut(self, ahead: Groups, file: str, ends: Offsets) -> int | None:
        """After how many of the transactions ahead a boundary is reached before which another one must not begin."""
        complete = ahead.span(0, len(ends))
        found = [self._progress.first_covering(cut, complete, file, ends) for cut in self._cuts]
        least = 0 if self._open is None else 1
        counts = [count for count in found if count is not None and least <= count < len(ahead)]
        return min(counts) if counts else None

    def _reach(self) -> None:
        """A transaction is about to begin, and what came before may have reached boundaries: end a batch there."""
        if not self._cuts:
            return
        position = self._progress.position
        left = [cut for cut in self._cuts if not position.covers(cut)]
        if len(left) < len(self._cuts):
            self._cuts = left
            self._close_if_due()
            self._tables.advance(position)

    def _rows(self, run: Events, roles: Roles, groups: Groups) -> None:
        """Take in events of which no transaction begins behind the next boundary."""
        rows = np.flatnonzero(roles == Role.ROWS)
        bodies, which = self._mapped.look(run, np.flatnonzero(roles == Role.TABLE_MAP), rows)
        if self._cascades:
            self._unfollowed_parents(run, bodies, which, rows)
        begins = np.flatnonzero(roles == Role.BEGIN)
        lo = done = first = 0
        while True:
            states = np.array([*self._tables.states(bodies), IGNORED], np.int64)[which[first:]]
            halts = np.flatnonzero(states == UNCHECKED)
            if not len(halts):
                break
            stop = first + int(halts[0])
            hi = int(rows[stop])
            begun = int(np.searchsorted(begins, hi))
            span = slice(lo, hi)
            self._take(run.pick(span), roles[span], rows[first:stop] - lo, states[: halts[0]], groups.span(done, begun))
            lo, done, first = hi, begun, stop
            body = bodies[int(which[stop])]
            self._changed(self._tables.check(body, touched=self._touched))
        self._take(run.pick(slice(lo, None)), roles[lo:], rows[first:] - lo, states, groups.span(done, len(groups)))

    def _take(self, run: Events, roles: Roles, rows: Offsets, states: Offsets, groups: Groups) -> None:
        """Put rows aside and account for the transactions that begin and commit among them."""
        if not len(run):
            return
        followed = states >= 0
        if not bool(followed.all()):
            rows, states = rows[followed], states[followed]
        self._pending.add(Rows(run.data, run.types[rows], run.body[rows], run.end[rows], states))
        commits = np.flatnonzero(roles == Role.COMMIT)
        begins = np.flatnonzero(roles == Role.BEGIN)
        groups = groups if self._open is None else self._open.then(groups)
        carried = self._open is not None
        if len(commits):
            last = int(commits[-1])
            began = int(np.searchsorted(begins, last)) - 1
            clock = commit_clock(run, int(begins[began]) if began >= 0 else None, last)
            if began >= 0:
                self._opened_at = Landmark.of(run, int(begins[began]))
            self._committed(groups.span(0, len(commits)), clock, behind=int((rows > last).sum()))
            self._progress.move(run.file, int(run.ends_at[last]))
            groups = groups.span(len(commits), len(groups))
            carried = False
        if len(groups):
            if not carried:
                start = int(begins[-1])
                self._opened_at = Landmark.of(run, start)
                self._begun = int(run.types[start]) == kinds.MARIADB_GTID or bool((roles[start:] == BEGUN).any())
            elif bool((roles == BEGUN).any()):
                self._begun = True
            self._open = groups
        else:
            self._open = None
            self._progress.move(run.file, int(run.ends_at[-1]))

    def _committed(self, groups: Groups, clock: float, behind: int = 0) -> None:
        """Transactions are complete; `behind` of the events put aside belong to the next one."""
        self._progress.commit(groups)
        self._pending.commit(behind)
        self._transactions += len(groups)
        self._clock, self._landmark = clock, self._opened_at
        self._open, self._begun, self._xa = None, False, False
        self._fragmented.clear()
        self._lost.clear()

    # What goes out

    def _open_tables(self) -> list[TableSchema]:
        """The tables that the open transaction has changed so far."""
        here = [self._tables.layouts[i].table for i in self._pending.open_layouts()]
        return list({t.id: t for t in (*self._fragmented.values(), *self._lost.values(), *here)}.values())

    def _touched(self, table: TableId) -> bool:
        return any(t.id == table for t in self._open_tables())

    def _reload_open(self, reason: str) -> None:
        for table in self._open_tables():
            self._changed(self._tables.refuse(table, reason))

    def _changed(self, change: Change | None) -> None:
        """Tell of a schema change, behind everything that was committed before it."""
        if change is not None:
            self._close_if_due()
            self._out.append(SchemaChange(self._progress.position, *change))

    def _limit(self) -> None:
        """Give out what exceeds the batch size."""
        if self._pending.size < self._batch_bytes:
            return
        self._close_if_due()
        if self._pending.open_bytes < self._batch_bytes:
            return
        tables = {t.id: t for t in self._open_tables()}
        if self._xa:
            self._lost |= tables
            self._pending.detach()
            return
        self._fragmented |= tables
        changes, size = self._decoded(fragment=True)
        self._out.append(ChangeBatch(self._progress.position, changes, complete=False, size=size))

    def _close_if_due(self) -> None:
        if not (self._pending.committed or self._transactions or self._progress.position != self._emitted):
            return
        changes, size = self._decoded(fragment=False)
        self._emitted = self._progress.position
        identity = self._identify(self._landmark) if self._transactions else None
        self._out.append(
            ChangeBatch(self._emitted, changes, self._clock, self._transactions, size=size, identity=identity)
        )
        self._transactions, self._clock = 0, None

    def _decoded(self, *, fragment: bool) -> tuple[tuple[TableChanges, ...], int]:
        """The changes to go out next. Tables that they change beside the log are told of first."""
        try:
            changes, size = self._pending.take(fragment=fragment)
        except IndexError:
            raise DecodeError("an event refers to bytes beyond its end") from None
        if self._cascades:
            for part in changes:
                self._refuse_cascaded(self._cascades.of_changes(part))
        return changes, size

    def _refuse_cascaded(self, tables: Collection[TableId]) -> None:
        for table in self._tables.open_tables(tables.__contains__):
            change = self._tables.refuse(table, "a foreign key changed rows that the binary log does not have")
            self._out.append(SchemaChange(self._emitted, *change))

    def _unfollowed_parents(self, run: Events, bodies: Sequence[bytes], which: Offsets, rows: Offsets) -> None:
        """Rows of tables that are not followed are not decoded: any update or delete of one may have cascaded."""
        states = self._tables.states(bodies)
        for number, body in enumerate(bodies):
            if states[number] >= 0:
                continue
            name = parse_table_name(body)
            parent = TableId(name.schema, name.table)
            if not self._cascades.concern(parent) or self._tables.is_followed(parent):
                continue
            types = run.types[rows[which == number]]
            if bool(np.isin(types, _INSERTS, invert=True).any()):
                self._close_if_due()
                self._refuse_cascaded(self._cascades.of_any_change(parent))
