"""The health of an instance, derived from its status at the moment it is asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import psutil

from engine.instance.settings import InstanceSettings
from engine.schema import TableId
from engine.status import Phase, Status, TableState

_WORKING = (Phase.CATCH_UP, Phase.STREAMING, Phase.POLLING)


def caught_up_at(status: Status) -> float | None:
    """When (epoch seconds, our clock) the replica was last known to hold everything the source had."""
    known = status.caught_up_at
    position, end, end_at = status.position, status.source_position, status.source_position_at
    if position is not None and end is not None and end_at is not None and position.covers(end):
        return end_at if known is None else max(known, end_at)
    return known


def lag_seconds(status: Status, now: float) -> float | None:
    """How stale the replica is: every commit older than this, at the source, is visible. None while unknown.

    The smaller of two bounds: the time since the replica was known to hold all that the source had (our clock, so clock
    skew plays no part), and the age of the last applied commit (the source's clock, passed over when it is ahead of
    ours). Never negative.
    """
    bounds = []
    known = caught_up_at(status)
    if known is not None:
        bounds.append(now - known)
    if status.commit_time is not None and status.commit_time <= now:
        bounds.append(now - status.commit_time)
    return max(0.0, min(bounds)) if bounds else None


def sync_mode(status: Status, settings: InstanceSettings) -> str:
    """The sync mode that runs, or the configured one while it is not chosen yet."""
    return status.sync_mode or settings.sync_mode


def behind_after(status: Status, settings: InstanceSettings) -> float:
    """Seconds of lag from which the replica is behind. A poll is as old as an interval and a round before the next one
    is in, and a round may take as long as an interval."""
    polls = sync_mode(status, settings) == "poll"
    return settings.behind_after + (2.2 * settings.poll_interval if polls else 0.0)


def status_word(status: Status, settings: InstanceSettings, now: float) -> str:
    """``ok``, ``degraded``, ``unreachable`` or ``cap_exceeded``; the gravest that holds."""
    if status.cap_exceeded:
        return "cap_exceeded"
    seen = status.source_seen_at if status.source_seen_at is not None else status.started_at
    if now - seen > settings.unreachable_after:
        return "unreachable"
    lag = lag_seconds(status, now)
    behind = lag is not None and lag > behind_after(status, settings)
    loading = any(table.state is not TableState.LIVE for table in status.tables.values())
    failing = any(check.status != "ok" for check in status.checks.values())
    serving = status.ready and not status.paused and status.phase in _WORKING
    return "ok" if serving and not (behind or loading or failing) else "degraded"


def memory_mb() -> int:
    """The resident set of this process, in MiB."""
    return int(psutil.Process().memory_info().rss >> 20)


def health(
    status: Status, settings: InstanceSettings, row_counts: Mapping[TableId, int], now: float | None = None
) -> dict[str, Any]:
    """The body of ``GET /health``. `lagMs` as `lag_seconds`; `snapshotAgeMs`: since the last batch was applied."""
    now = time.time() if now is None else now
    lag = lag_seconds(status, now)
    error = status.last_error
    return {
        "status": status_word(status, settings, now),
        "phase": str(status.phase),
        "instance": settings.name,
        "backend": settings.backend,
        "syncMode": sync_mode(status, settings),
        "position": text(status.position),
        "sourcePosition": text(status.source_position),
        "lagBytes": None if status.lag_bytes is None else max(0, status.lag_bytes),
        "lagMs": None if lag is None else round(lag * 1000),
        "snapshotAgeMs": None if status.applied_at is None else max(0, round((now - status.applied_at) * 1000)),
        "swapCount": status.counters.swaps,
        "rowCounts": {str(table): count for table, count in row_counts.items()},
        "memoryMb": memory_mb(),
        "memoryCapMb": settings.memory_cap_mb,
        "checks": [
            {"name": check.name, "status": check.status, "since": iso(check.since), "detail": check.detail}
            for check in status.checks.values()
        ],
        "lastError": None
        if error is None
        else {"error": error.error, "message": error.message, "remedy": error.remedy, "at": iso(error.at)},
    }


def text(position: object) -> str | None:
    """A position as its text, None for none."""
    return None if position is None else str(position)


def iso(at: float | None) -> str | None:
    """Epoch seconds as ISO 8601 in UTC with milliseconds (``2024-01-31T12:00:00.000Z``)."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
