"""Keeps an eye on the process's memory, and stops reading changes before a cap becomes an out-of-memory kill."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Protocol

import psutil
import structlog

from engine.status import Phase, StatusBoard

log = structlog.get_logger(__name__)

RELEASE_AT = 0.80
"""Of the cap: give unused memory back to the system from here on."""
WARN_AT = 0.92
"""Of the cap: say so in health."""
RESUME_BELOW = 0.85
"""Of the cap: sync goes on below this, once it was stopped."""
PATIENCE = 3
"""Samples in a row over the cap before sync is stopped: a commit's peak passes by itself."""
CALM = 10
"""Samples in a row within the cap after which sync that was stopped is tried again: a cache that is full stays so."""


class Pausable(Protocol):
    """The part of a pipeline that is needed here."""

    def hold(self) -> None: ...

    def release(self) -> None: ...


class MemoryWatch:
    """Compares the resident set with the cap, once per `interval` seconds, in a thread of its own.

    Over the cap for `PATIENCE` samples: sync is held and health says ``cap_exceeded``; what is there is served on.
    When the memory falls again, or has kept within the cap for `CALM` samples, sync goes on. An operator who resumes it
    before that may find it held again.
    """

    def __init__(
        self,
        cap: int,
        board: StatusBoard,
        pipeline: Pausable,
        *,
        rss: Callable[[], int] | None = None,
        interval: float = 1.0,
    ) -> None:
        self._cap = cap
        self._board = board
        self._pipeline = pipeline
        self._rss = rss or _resident_set
        self._interval = interval
        self._over = 0
        self._within = 0
        self._stopped_sync = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(timeout=2)

    def sample(self) -> None:
        """Look once, and act."""
        used = self._rss()
        if used > RELEASE_AT * self._cap:
            release_unused()
            used = self._rss()
        self._over = self._over + 1 if used > self._cap else 0
        self._within = 0 if used > self._cap else self._within + 1
        if self._stopped_sync and not self._board.current.paused:
            self._resumed()
        elif self._over >= PATIENCE and not self._stopped_sync:
            self._stop_sync(used)
        elif self._stopped_sync and (used < RESUME_BELOW * self._cap or self._within >= CALM):
            self._resume_sync()
        if self._stopped_sync:
            self._board.set_check("memory", "failed", f"{used >> 20} MB used of {self._cap >> 20} MB: sync is stopped")
        elif used > WARN_AT * self._cap:
            self._board.set_check("memory", "degraded", f"{used >> 20} MB used of {self._cap >> 20} MB")
        else:
            self._board.set_check("memory", "ok")

    def _stop_sync(self, used: int) -> None:
        if self._board.current.paused:
            return
        self._stopped_sync, self._within = True, 0
        self._pipeline.hold()
        self._board.publish(cap_exceeded=True)
        log.error("memory_cap_exceeded", memory_mb=used >> 20, cap_mb=self._cap >> 20)

    def _resume_sync(self) -> None:
        self._resumed()
        self._pipeline.release()
        log.info("memory_below_cap", cap_mb=self._cap >> 20)

    def _resumed(self) -> None:
        self._stopped_sync, self._over = False, 0
        # A pipeline that has ended for want of memory does not come back by itself.
        if self._board.current.phase is not Phase.STOPPED:
            self._board.publish(cap_exceeded=False)

    def _run(self) -> None:
        while not self._ending.wait(self._interval):
            self.sample()


def release_unused() -> None:
    """Return memory that Arrow and the C library hold but do not use."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _resident_set() -> int:
    return int(psutil.Process().memory_info().rss)
