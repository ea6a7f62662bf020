"""Pause schedules: which state a schedule last asked for, and when. Pure; times are UTC.

A schedule is a set of moments, not of spans: it wishes at ``pauseAt`` and at ``resumeAt``, on its days, and what a user
wishes in between holds until the next of them. Both moments belong to the listed days, so that Monday to Friday with a
pause at 20:00 and a resume at 06:00 is paused over the week-end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from engine.control.records import DesiredState, PauseSchedule

_DAYS_IN_WEEK = 7


@dataclass(frozen=True, slots=True)
class Edge:
    """A moment of a schedule, and what it wishes."""

    at: datetime
    desired: DesiredState


def last_edge(schedule: PauseSchedule, after: datetime, until: datetime) -> Edge | None:
    """The last moment of the schedule with `after` < moment <= `until`; None when there is none.

    When both fall on one minute, the pause wins.
    """
    pause, resume = _time(schedule.pause_at), _time(schedule.resume_at)
    day = until.astimezone(UTC).date()
    # A week and a day back is enough: each moment returns within a week.
    for back in range(_DAYS_IN_WEEK + 1):
        date = day - timedelta(days=back)
        if schedule.days and date.isoweekday() % _DAYS_IN_WEEK not in schedule.days:
            continue
        edges = [
            Edge(datetime.combine(date, pause, UTC), DesiredState.PAUSED),
            Edge(datetime.combine(date, resume, UTC), DesiredState.RUNNING),
        ]
        due = [edge for edge in edges if after < edge.at <= until]
        if due:
            return max(due, key=lambda edge: (edge.at, edge.desired is DesiredState.PAUSED))
        if datetime.combine(date, time.min, UTC) <= after:
            return None
    return None


def _time(text: str) -> time:
    hour, _, minute = text.partition(":")
    return time(int(hour), int(minute))
