"""When a batch of changes is closed: the same for every connector that follows a log."""

from __future__ import annotations

import time
from typing import Protocol

IDLE_BATCH = 0.25
"""Seconds between empty batches at least."""
BACKLOG_LIMIT = 1.0
"""Seconds beyond its window for which a batch stays open while a backlog waits."""
LONGEST_GATHERING = 0.05
"""Seconds for which what arrives may lie undecoded, however long the window: a definition or a position waits for it."""


class Assembling(Protocol):
    """What is known of the batch that is being assembled."""

    @property
    def has_changes(self) -> bool: ...

    @property
    def in_transaction(self) -> bool: ...


class Pace:
    """Decides when a batch is closed. Times are monotonic.

    A batch is closed when `window` has passed since its first change arrived. While a backlog waits, only fullness
    counts (up to a limit): large batches are what makes catching up fast. An idle stream gives empty batches as the
    log moves.
    """

    def __init__(self, window: float, batch_bytes: int) -> None:
        self._window = window
        self._backlog = batch_bytes // 4
        self._first: float | None = None
        self._last_out = 0.0

    def data(self, arrived: float) -> None:
        """Data has arrived."""
        if self._first is None:
            self._first = arrived

    def sent(self, assembler: Assembling) -> None:
        """A batch was closed."""
        self._last_out = time.monotonic()
        if not (assembler.has_changes or assembler.in_transaction):
            self._first = None

    def timeout(self, assembler: Assembling) -> float | None:
        """How long to wait for more: until the open batch's window ends, or until an idle position is due."""
        now = time.monotonic()
        if assembler.has_changes and self._first is not None:
            return max(0.0, self._first + self._window - now)
        return max(0.05, self._last_out + IDLE_BATCH - now)

    def gather(self) -> float:
        """How long what arrives may gather before it is decoded: no batch is closed before its window ends."""
        left = self._window if self._first is None else self._first + self._window - time.monotonic()
        return min(left, LONGEST_GATHERING)

    def due(self, assembler: Assembling, waiting: int) -> bool:
        """Whether to close the batch now; `waiting` bytes have arrived and are not in it."""
        now = time.monotonic()
        if not assembler.has_changes:
            if not assembler.in_transaction:
                self._first = None
            return now >= self._last_out + IDLE_BATCH
        end = (self._first or now) + self._window
        return now >= end and (waiting < self._backlog or now >= end + BACKLOG_LIMIT)
