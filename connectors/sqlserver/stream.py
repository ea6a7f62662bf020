"""The stream: change tables read in windows of the log, the same window for all of them.

A round asks where the change tables end. If that has moved, every followed table is read from the stream's position up
to there, bounded in rows: where a table has more, the window ends for all of them with the last transaction that was
read whole. A transaction that is larger than a bound goes out in fragments. So transactions stay whole across tables,
in the order of the log. An idle round is that one query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

from connectors.sqlserver import capture
from connectors.sqlserver.catalog import Catalog
from connectors.sqlserver.changetables import BEFORE, LSN, OPERATION, ChangeTable, Place, Rows
from connectors.sqlserver.connection import Connection, Connections, Row
from connectors.sqlserver.failures import DRIVER_ERRORS, GONE, number_of
from connectors.sqlserver.followed import GAP, Followed, Following, unfollowable
from connectors.sqlserver.instances import Marks, read_ddl, read_marks
from connectors.sqlserver.position import CdcPosition, lsn_of
from connectors.sqlserver.selection import select
from engine.changes import ChangeBatch, SchemaChange, TableChanges
from engine.errors import ResyncRequired, TransientError
from engine.source import SourceOptions

LOOK_EVERY = 2.0
"""Seconds after which an idle stream looks whether definitions have changed."""
SCAN_EVERY = 0.2
"""Seconds between looks at the capture job's scans, while one is waited for."""
_TABLES_AT_ONCE = 8
_SHORTEST, _LONGEST = 0.02, 0.5
_TRIES = 3
_SHARE = 4
"""A table's share of a batch: one in so many parts of its bytes."""

_CLEANED = "a change table was cleaned up, or made anew, while a large transaction was read from it"

Output = ChangeBatch | SchemaChange


@dataclass(slots=True)
class Window:
    """What was read of the log behind `after` and up to `upto`."""

    after: int
    upto: int
    rows: list[tuple[Followed, Rows]] = field(default_factory=list)
    large: int = 0
    """The LSN of a transaction that is too large to be read at once, if one follows."""


class Stream:
    """Follows the change tables from `start`. One thread. `cuts`: LSNs at which a batch has to end.

    `awaited` tells of an LSN that someone waits for: it may lie behind the last change that there is, and is reached when the
    capture job is known to have passed it. `reached` is told every position that a batch had.
    """

    def __init__(
        self,
        connections: Connections,
        options: SourceOptions,
        start: int,
        tables: Sequence[Followed],
        cuts: Sequence[int],
        awaited: Callable[[], int],
        reached: Callable[[int], None],
    ) -> None:
        self._connections = connections
        self._options = options
        self._at = start
        self._following = Following(tables)
        self._boundaries = sorted({*cuts, *(f.since for f in tables)})
        self._awaited = awaited
        self._reached = reached
        self._marks: Marks | None = None
        self._postponed: list[int] = []
        """Where definitions change ahead: until then, tables are read as they were."""
        self._turns: list[int] = []
        """Where newer capture instances begin."""
        self._looked = self._scanned = 0.0
        self._watch: tuple[tuple[int, int], capture.ScanWatch] | None = None
        self._pause = min(max(options.batch_window, _SHORTEST), _LONGEST)
        self._share = max(options.batch_bytes // _SHARE, 1 << 16)

    def run(self) -> Iterator[Output]:
        """Batches and schema changes, until the connections are closed."""
        with self._connections.session("streaming changes") as connection:
            while not self._connections.closed:
                end = capture.max_lsn(connection)
                moved = yield from self._round(connection, end)
                self._connections.closing.wait(_SHORTEST if moved else self._pause)

    def _round(self, connection: Connection, end: int) -> Generator[Output, None, bool]:
        """One round up to `end`; whether it moved (a generator's value)."""
        if end > self._at or time.monotonic() - self._looked > LOOK_EVERY:
            yield from self._look(connection, end)
        if end <= self._at:
            return (yield from self._idle(connection, end))
        while self._at < end and not self._connections.closed:
            places = (*self._boundaries, *self._postponed, *self._turns)
            yield from self._advance(connection, min([end, *(p for p in places if p > self._at)]))
            if self._at >= max([*self._postponed, 0]) and (self._postponed or self._at in self._turns):
                self._postponed = []
                yield from self._following.select(self._at)
        return True

    # Definitions

    def _look(self, connection: Connection, end: int) -> Iterator[Output]:
        """Read the catalog again if definitions or capture instances have changed."""
        marks = read_marks(connection)
        self._looked = time.monotonic()
        before, self._marks = self._marks, marks
        if before is not None and before.definitions == marks.definitions:
            yield from self._drop_lost(marks, self._at)
            return
        first = before is None
        known = [f.table for f in self._following.tables]
        selection = select(Catalog(connection, self._options).candidates(), connection.user, known)
        self._following.learn(selection.tables)
        self._turns = self._following.turns(self._at)
        if not first:
            # What was read so far is read on as it was, up to where the log has the change.
            self._postponed = read_ddl(connection, self._following.object_ids, self._at, end)
        if not self._postponed:
            yield from self._following.select(self._at)

    def _drop_lost(self, marks: Marks, after: int) -> Iterator[Output]:
        for followed in self._following.lost(marks.starts, after):
            yield self._following.reload(followed, self._at, GAP)

    # Windows

    def _advance(self, connection: Connection, upto: int) -> Iterator[Output]:
        """Read one window, at most up to `upto`, and give what is in it."""
        for attempt in range(_TRIES):
            try:
                window = self._read(connection, upto)
                marks = read_marks(connection)
                break
            except DRIVER_ERRORS as error:
                if number_of(error) not in GONE or attempt == _TRIES - 1:
                    raise
            # A change table is gone, or has other columns: see what there is now.
            self._marks, self._postponed = None, []
            yield from self._look(connection, self._at)
        if self._marks is not None and marks.starts.keys() != self._marks.starts.keys():
            self._looked = 0.0
        lost = self._following.lost(marks.starts, window.after)
        window.rows = [(f, rows) for f, rows in window.rows if f not in lost]
        if window.upto > window.after:
            yield from self._emit(connection, window)
        if window.large and not lost:
            yield from self._large(connection, window.large)
        for followed in lost:
            yield self._following.reload(followed, self._at, GAP)

    def _read(self, connection: Connection, upto: int) -> Window:
        window = Window(self._at, upto)
        tables = [f for f in self._following.tables if f.reader is not None and f.since < upto]
        for first in range(0, len(tables), _TABLES_AT_ONCE):
            some = tables[first : first + _TABLES_AT_ONCE]
            statements = [_reader(f).select(f.rows, max(window.after, f.since), window.upto) for f in some]
            for followed, rows in zip(some, connection.results(statements), strict=True):
                if rows:
                    self._take(window, followed, rows)
        trimmed = ((f, [r for r in rows if lsn_of(r[LSN]) <= window.upto]) for f, rows in window.rows)
        window.rows = [(f, rows) for f, rows in trimmed if rows]
        if window.large > window.upto + 1:
            window.large = 0
        return window

    def _take(self, window: Window, followed: Followed, rows: Rows) -> None:
        """Add rows to the window; end it where they end, if there may be more of them."""
        if len(rows) == followed.rows:
            last = lsn_of(rows[-1][LSN])
            if last <= window.upto:
                first = lsn_of(rows[0][LSN])
                if first == last:
                    window.large = last
                window.upto = last - 1
        window.rows.append((followed, rows))

    def _emit(self, connection: Connection, window: Window) -> Iterator[Output]:
        changes: list[TableChanges] = []
        refused: list[SchemaChange] = []
        size = 0
        for followed, rows in window.rows:
            made = self._changes(followed, rows, window.upto)
            if isinstance(made, SchemaChange):
                refused.append(made)
            else:
                size += made.rows.nbytes
                changes.append(made)
        self._at = window.upto
        self._reached(self._at)
        lsns = {row[LSN] for _, rows in window.rows for row in rows}
        yield ChangeBatch(
            CdcPosition(self._at),
            tuple(changes),
            commit_time=capture.commit_time(connection, self._at) if changes else None,
            transactions=len(lsns),
            size=size,
        )
        yield from refused

    def _changes(self, followed: Followed, rows: Rows, at: int) -> TableChanges | SchemaChange:
        """The rows as changes; or, where they cannot be, what asks for a reload."""
        if unfollowable(followed):
            layout = _reader(followed).layout
            return self._following.reload(followed, at, f"it changed, and {layout.unstreamed}")
        try:
            made = _reader(followed).changes(rows)
        except ResyncRequired as error:
            return self._following.reload(followed, at, error.reason)
        followed.measured(len(rows), made.rows.nbytes, self._share)
        return made

    def _large(self, connection: Connection, lsn: int) -> Iterator[Output]:
        """One transaction in fragments, table by table, and then its end."""
        before = CdcPosition(self._at)
        refused: list[SchemaChange] = []
        tables = [f for f in self._following.tables if f.reader is not None and f.since < lsn]
        for followed in tables:
            place: Place | None = None
            sent = False
            while True:
                most = followed.rows
                rows = self._page(connection, _reader(followed).select_transaction(most, lsn, place))
                more = len(rows) == most
                if more and rows[-1][OPERATION] == BEFORE:
                    # The row after it is on the next page: they belong together.
                    rows.pop()
                if not rows:
                    break
                place = Place.of(rows[-1])
                made = self._changes(followed, rows, lsn)
                if isinstance(made, SchemaChange):
                    if sent:
                        # Half of the transaction must not be shown: it is given up, and read again without the table.
                        raise ResyncRequired(made.reason, [followed.table.id])
                    refused.append(made)
                    break
                sent = True
                yield ChangeBatch(before, (made,), complete=False, size=made.rows.nbytes)
                if not more:
                    break
        if self._following.lost(read_marks(connection).starts, self._at):
            # Pages may have lacked rows: what was sent is not to be committed. Begun again, it is a gap.
            raise TransientError(_CLEANED)
        self._at = lsn
        self._reached(lsn)
        yield ChangeBatch(CdcPosition(lsn), commit_time=capture.commit_time(connection, lsn), transactions=1)
        yield from refused

    def _page(self, connection: Connection, statement: str) -> list[Row]:
        try:
            return connection.query(statement)
        except DRIVER_ERRORS as error:
            if number_of(error) in GONE:
                raise TransientError(_CLEANED) from None
            raise

    # Waiting

    def _idle(self, connection: Connection, end: int) -> Generator[Output, None, bool]:
        """Move to what is awaited behind the last change, once the capture job has passed it."""
        wanted = max([self._awaited(), *self._boundaries, *self._turns])
        if wanted <= self._at:
            self._watch = None
            return False
        # A scan ends after so many transactions, too: only one that finds none has read the log to its end.
        if self._watch is None or self._watch[0] != (wanted, end):
            self._watch = ((wanted, end), capture.ScanWatch())
        if time.monotonic() - self._scanned < SCAN_EVERY:
            return False
        self._scanned = time.monotonic()
        if not self._watch[1].passed(connection) or capture.max_lsn(connection) != end:
            return False
        self._watch = None
        self._at = min([wanted, *(p for p in (*self._boundaries, *self._turns) if p > self._at)])
        self._reached(self._at)
        yield ChangeBatch(CdcPosition(self._at))
        if self._at in self._turns:
            yield from self._following.select(self._at)
        return True


def _reader(followed: Followed) -> ChangeTable:
    assert followed.reader is not None
    return followed.reader
