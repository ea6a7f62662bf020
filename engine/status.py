"""What the instance knows about itself, published by the pipeline and read by everyone else.

The pipeline replaces an immutable `Status` on a `StatusBoard`; readers (HTTP, terminal) take the current one without
waiting. Rates, ages and lag in milliseconds are derived by the reader from the times in it.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from engine.changes import Position
from engine.schema import TableId


class Phase(enum.StrEnum):
    """What the pipeline is doing."""

    STARTING = "starting"
    SNAPSHOT = "snapshot"
    CATCH_UP = "catch-up"
    STREAMING = "streaming"
    POLLING = "polling"
    PAUSED = "paused"
    RETRYING = "retrying"
    STOPPED = "stopped"


class TableState(enum.StrEnum):
    """Where one table stands."""

    WAITING = "waiting"
    LOADING = "loading"
    LOADED = "loaded"
    LIVE = "live"
    RELOADING = "reloading"


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One table's state; `rows_loaded` of about `rows_expected` while it loads. Times in seconds since the epoch."""

    state: TableState
    rows_loaded: int = 0
    rows_expected: int = 0
    last_change: float | None = None
    skipped_at: float | None = None
    """When the last poll found the table unchanged and left it alone; None where it was read, or is not polled."""
    reason: str | None = None
    nulled: Mapping[str, int] = field(default_factory=dict)
    """Per column, how many values became NULL by its rule since the table was loaded or the process started."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One named check: ``ok``, ``degraded`` or ``failed``; `since` when (epoch seconds) it came to be so."""

    name: str
    status: str
    since: float
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The last error, as shown: its machine word, a message without values, the remedy, and when (epoch seconds)."""

    error: str
    message: str
    remedy: str
    at: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the process started."""

    batches: int = 0
    transactions: int = 0
    row_changes: int = 0
    bytes: int = 0
    swaps: int = 0
    reloads: int = 0
    resyncs: int = 0
    retries: int = 0
    schema_changes: int = 0
    apply_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Status:
    """The instance at one moment. Positions are typed; `*_at` are seconds since the epoch."""

    phase: Phase = Phase.STARTING
    sync_mode: str | None = None
    """The sync mode that was chosen, once it is (`auto` asks the source)."""
    paused: bool = False
    ready: bool = False
    """The first snapshot is complete: queries are served."""
    position: Position | None = None
    """What readers see."""
    source_position: Position | None = None
    """Where the source's log ended at `source_position_at`."""
    source_position_at: float | None = None
    lag_bytes: int | None = None
    commit_time: float | None = None
    """Source clock at the last applied commit."""
    applied_at: float | None = None
    """When the last batch was applied."""
    caught_up_at: float | None = None
    """When the replica was last known to hold everything the source had."""
    source_seen_at: float | None = None
    """When the source last answered."""
    tables: Mapping[TableId, TableStatus] = field(default_factory=dict)
    checks: Mapping[str, HealthCheck] = field(default_factory=dict)
    counters: Counters = Counters()
    last_error: Failure | None = None
    cap_exceeded: bool = False
    started_at: float = field(default_factory=time.time)


class StatusBoard:
    """Holds the current `Status`. Any thread may read, wait, or publish."""

    def __init__(self) -> None:
        self._status = Status()
        self._changed = threading.Condition()

    @property
    def current(self) -> Status:
        return self._status

    def publish(self, **changes: Any) -> None:
        """Replace the named fields."""
        with self._changed:
            self._status = replace(self._status, **changes)
            self._changed.notify_all()

    def count(self, **amounts: float) -> None:
        """Add to the named counters."""
        with self._changed:
            counters = self._status.counters
            added = {name: getattr(counters, name) + amount for name, amount in amounts.items()}
            self._status = replace(self._status, counters=replace(counters, **added))

    def set_table(self, table: TableId, **changes: Any) -> None:
        """Change the named fields of one table's status (added when new)."""
        with self._changed:
            old = self._status.tables.get(table, TableStatus(TableState.WAITING))
            self._status = replace(self._status, tables={**self._status.tables, table: replace(old, **changes)})

    def count_nulled(self, table: TableId, counts: Mapping[str, int]) -> None:
        """Add to how many values of the table's columns became NULL by their rules."""
        with self._changed:
            known = self._status.tables.get(table)
            before = {} if known is None else known.nulled
            self.set_table(table, nulled={n: before.get(n, 0) + counts.get(n, 0) for n in (*before, *counts)})

    def forget_table(self, table: TableId) -> None:
        """Remove one table's status."""
        with self._changed:
            tables = {t: s for t, s in self._status.tables.items() if t != table}
            self._status = replace(self._status, tables=tables)

    def set_check(self, name: str, status: str, detail: str | None = None) -> None:
        """Set a health check; its `since` moves only when the status does."""
        with self._changed:
            old = self._status.checks.get(name)
            since = old.since if old is not None and old.status == status else time.time()
            check = HealthCheck(name, status, since, detail)
            self._status = replace(self._status, checks={**self._status.checks, name: check})

    def wait(self, until: Callable[[Status], bool], timeout: float) -> bool:
        """Wait until the status satisfies `until`, at most `timeout` seconds; returns whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: until(self._status), timeout)


class Commands(Protocol):
    """What may be asked of a running pipeline, from any thread. All are idempotent and return at once."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def reload(self, table: TableId | None) -> None:
        """Load one table (None: all) anew while readers keep the old data. KeyError for an unknown table."""
        ...

    def parse_position(self, text: str) -> Position:
        """Read a position of this instance's source from text; ValueError when it is none."""
        ...
