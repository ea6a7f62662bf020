"""Row counts that are cheap to ask for: counted at most once per change of the replica, and never all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Mapping

import structlog

from engine.errors import EngineError
from engine.replica.reads import ReplicaReads
from engine.schema import TableId
from engine.status import StatusBoard

log = structlog.get_logger(__name__)

_SHARE = 0.05
"""Counting may take this part of the time, unless the counts would be older than `_LONGEST_PAUSE`."""
_LONGEST = 5.0
"""Seconds after which a count is given up; the last one is shown on."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class RowCounts:
    """The number of rows of each table, as of the last time it was worth counting. Safe from any thread."""

    def __init__(self, reads: ReplicaReads, board: StatusBoard) -> None:
        self._reads = reads
        self._board = board
        self._counting = threading.Lock()
        self._counts: Mapping[TableId, int] = {}
        self._seen: Hashable = None
        self._next = 0.0
        self._failing = False

    def current(self) -> Mapping[TableId, int]:
        """The counts; those of a moment ago while another thread counts, or when counting again is not due yet."""
        status = self._board.current
        seen = (str(status.position), status.counters.swaps, status.counters.schema_changes)
        if status.position is None or seen == self._seen or time.monotonic() < self._next:
            return self._counts
        if not self._counting.acquire(blocking=False):
            return self._counts
        try:
            started = time.monotonic()
            if self._count():
                self._seen = seen
            seconds = time.monotonic() - started
            pause = min(max(_SHORTEST_PAUSE, seconds / _SHARE), max(_LONGEST_PAUSE, 2 * seconds))
            self._next = time.monotonic() + pause
        finally:
            self._counting.release()
        return self._counts

    def _count(self) -> bool:
        try:
            with self._reads.session() as session:
                timer = threading.Timer(_LONGEST, session.interrupt)
                timer.start()
                try:
                    self._counts = session.row_counts()
                finally:
                    timer.cancel()
        except EngineError as error:
            if not self._failing:
                log.warning("row_counts_failed", error=error.word)
            self._failing = True
            return False
        self._failing = False
        return True
