"""Loading tables from one snapshot into their load copies, with a few workers side by side."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import structlog

from engine.changes import nulled
from engine.destination import Loader, Replica
from engine.errors import ResyncRequired, UnsupportedValue
from engine.schema import TableSchema
from engine.source import Part, Snapshot
from engine.status import StatusBoard, TableState

log = structlog.get_logger(__name__)


PARTS_TOGETHER = 16
"""Parts of a table that one transaction loads at the most: while it is open, DuckDB keeps what it replaces."""


class _GivenUp(Exception):
    """This part is not needed any more: its table, or the whole load, has failed elsewhere."""


@dataclass(slots=True)
class _Table:
    """One table being loaded: how many of its parts are still out, and whether it failed by itself."""

    schema: TableSchema
    loader: Loader
    parts: int
    rows: int = 0
    failed: ResyncRequired | UnsupportedValue | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class TableLoad:
    """Loads `tables` from an open snapshot. `run` blocks; it may run in a thread of its own.

    A table that fails by itself (rewritten under the snapshot, a value that does not fit) leaves the others to
    complete; its error is raised at the end. Any other error ends the load at once. Complete tables are kept anyway.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        tables: Sequence[TableSchema],
        replica: Replica,
        board: StatusBoard,
        *,
        workers: int,
        heed: Callable[[], None],
    ) -> None:
        """`heed` waits while replication is paused, and raises Stopped when the load must end."""
        self._snapshot = snapshot
        self._replica = replica
        self._board = board
        self._workers = workers
        self._heed = heed
        self._tables = sorted(tables, key=lambda t: t.estimated_bytes, reverse=True)
        self._work: deque[tuple[_Table, Part]] = deque()
        self._work_lock = threading.Lock()
        self._error: Exception | None = None
        self._error_lock = threading.Lock()

    def run(self) -> None:
        """Load every table; returns when all their load copies are complete."""
        started = time.monotonic()
        states = [self._begin(table) for table in self._tables]
        threads = [
            threading.Thread(target=self._worker, name=f"load-{n}", daemon=True)
            for n in range(max(1, min(self._workers, len(self._work))))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            self._abandon(states)
            raise self._error
        for state in states:
            if state.failed is not None:
                raise state.failed
        seconds = time.monotonic() - started
        rows = sum(s.rows for s in states)
        log.info("tables_loaded", tables=len(states), rows=rows, seconds=round(seconds, 3))

    def _begin(self, table: TableSchema) -> _Table:
        parts = self._snapshot.split(table)
        loader = self._replica.load(table)
        state = _Table(table, loader, len(parts))
        self._board.set_table(
            table.id, state=TableState.LOADING, rows_loaded=0, rows_expected=max(0, table.estimated_rows), nulled={}
        )
        if not parts:
            self._finish(state)
        self._work.extend((state, part) for part in parts)
        return state

    def _worker(self) -> None:
        while self._error is None:
            taken = self._take(None)
            if taken is None:
                return
            state, part = taken
            try:
                self._load_parts(state, part)
            except _GivenUp:
                continue
            except (ResyncRequired, UnsupportedValue) as error:
                state.failed = error
                state.loader.abandon()
            except Exception as error:  # noqa: BLE001 (raised by run, in the caller's thread)
                with self._error_lock:
                    self._error = self._error or error

    def _take(self, table: _Table | None) -> tuple[_Table, Part] | None:
        """The next part; None when there is none, or when it is not of this table."""
        with self._work_lock:
            if self._work and (table is None or self._work[0][0] is table):
                return self._work.popleft()
            return None

    def _load_parts(self, state: _Table, part: Part) -> None:
        """Load a part, and further ones of its table, in one transaction: a commit costs as much as many rows."""
        if state.failed is not None:
            return
        failure: list[BaseException] = []
        done: list[Part] = []
        try:
            state.loader.append(self._counted(state, part, done, failure))
        except Exception:
            # The replica reads through C interfaces, which keep an exception's text but not its type.
            if failure:
                raise failure[0] from None
            if state.failed is not None:
                # Another part's failure has dropped the load copy under this one.
                raise _GivenUp from None
            raise
        if failure:
            raise failure[0]
        with state.lock:
            state.parts -= len(done)
            last = state.parts == 0 and state.failed is None
        if last:
            self._finish(state)

    def _counted(
        self, state: _Table, part: Part, done: list[Part], failure: list[BaseException]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a part and of those that follow; each is put into `done` at its end, an error into `failure`."""
        try:
            while True:
                for batch in self._snapshot.read(part):
                    self._heed()
                    if self._error is not None or state.failed is not None:
                        raise _GivenUp
                    yield batch
                    with state.lock:
                        state.rows += batch.num_rows
                        rows = state.rows
                    self._board.set_table(state.schema.id, rows_loaded=rows)
                    self._board.publish(source_seen_at=time.time())
                    counts = nulled(batch)
                    if counts:
                        self._board.count_nulled(state.schema.id, counts)
                done.append(part)
                following = self._take(state) if len(done) < PARTS_TOGETHER else None
                if following is None:
                    return
                part = following[1]
        except Exception as error:
            failure.append(error)
            raise

    def _finish(self, state: _Table) -> None:
        state.loader.finish(str(self._snapshot.position), str(self._snapshot.settled()))
        self._board.set_table(state.schema.id, state=TableState.LOADED, rows_expected=state.rows)
        log.info("table_loaded", table=str(state.schema.id), rows=state.rows)

    def _abandon(self, states: Sequence[_Table]) -> None:
        for state in states:
            if state.parts > 0 and state.failed is None:
                state.loader.abandon()
