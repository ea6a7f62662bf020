"""Shows a snapshot's progress: a bar per table on a terminal, a log line now and then otherwise."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

import structlog

from engine.schema import TableId
from engine.status import Phase, Status, StatusBoard, TableState, TableStatus

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = structlog.get_logger(__name__)

MOST_BARS = 12
"""Tables shown beside each other; the others are in the total."""
LINE_EVERY = 5.0

_LOADING = {TableState.WAITING, TableState.LOADING, TableState.LOADED, TableState.RELOADING}


class SnapshotProgress:
    """Follows the board in a thread of its own until stopped."""

    def __init__(self, board: StatusBoard, *, terminal: bool | None = None) -> None:
        self._board = board
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._ending.is_set():
            if self._board.wait(lambda s: s.phase is Phase.SNAPSHOT, timeout=0.5):
                if self._terminal:
                    self._bars()
                else:
                    self._lines()

    def _lines(self) -> None:
        said = time.monotonic()
        while not self._ending.wait(0.2):
            status = self._board.current
            if status.phase is not Phase.SNAPSHOT:
                return
            if time.monotonic() - said >= LINE_EVERY:
                said = time.monotonic()
                loaded, expected = totals(status)
                log.info("snapshot_progress", rows_loaded=loaded, rows_expected=expected, tables=len(status.tables))

    def _bars(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            total = progress.add_task("snapshot", total=None)
            bars: dict[TableId, TaskID] = {}
            while not self._ending.wait(0.1):
                status = self._board.current
                if status.phase is not Phase.SNAPSHOT:
                    return
                loaded, expected = totals(status)
                progress.update(total, completed=loaded, total=max(expected, loaded) or None)
                self._draw(progress, bars, status)

    def _draw(self, progress: Progress, bars: dict[TableId, TaskID], status: Status) -> None:
        for table, now in status.tables.items():
            if now.state is not TableState.LOADING:
                if table in bars:
                    progress.remove_task(bars.pop(table))
            elif table in bars:
                progress.update(bars[table], completed=now.rows_loaded, total=_expected(now))
            elif len(bars) < MOST_BARS:
                bars[table] = progress.add_task(str(table), completed=now.rows_loaded, total=_expected(now))


def totals(status: Status) -> tuple[int, int]:
    """Rows loaded, and rows expected, of all tables that are being loaded."""
    tables = [t for t in status.tables.values() if t.state in _LOADING]
    return sum(t.rows_loaded for t in tables), sum(max(t.rows_expected, t.rows_loaded) for t in tables)


def _expected(table: TableStatus) -> int | None:
    return max(table.rows_expected, table.rows_loaded) or None
