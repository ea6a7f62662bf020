"""The jobs of change data capture: whether the capture job runs, and how long the clean-up job lets changes live.

A capture job that is stopped looks like a database in which nothing happens: only its scans tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from connectors.sqlserver.capture import last_scan, max_lsn
from connectors.sqlserver.connection import AZURE_EDITIONS, Connection
from connectors.sqlserver.failures import DRIVER_ERRORS, number_of
from engine.source import Check

STALLED = 60.0
"""Seconds without a scan after which the capture job is taken to be stopped (by default it scans every 5)."""
SHORT_RETENTION = 24 * 60
"""Minutes for which changes are kept, below which `check` warns (the default is three days)."""
_AGE = """
SELECT TOP (1) DATEDIFF_BIG(second, s.end_time, GETDATE()) FROM sys.dm_cdc_log_scan_sessions s ORDER BY s.session_id DESC
"""
_START = "Start SQL Server Agent, and: EXEC sys.sp_cdc_start_job @job_type = N'capture';"
_FAILS = "the capture job fails to show what it has read in the log: changes are not seen"
_LOOK = "Look at sys.dm_cdc_errors (`SELECT * FROM sys.dm_cdc_errors ORDER BY entry_time DESC`) and mend what it says."
_FIRST_SCAN, _PAUSE = 6.0, 0.2
"""Seconds for which the first scan is waited for: the capture job may have been made a moment ago."""
_JOB_TYPE, _RETENTION = 1, 7
"""Columns of sp_cdc_help_jobs."""


@dataclass(slots=True)
class JobWatch:
    """Notices, from look to look, that the capture job scans no more."""

    _seen: tuple[object, ...] | None = None
    _since: float = 0.0

    def problems(self, connection: Connection) -> Iterator[Check]:
        """What is wrong with the capture job. Raises the driver's errors."""
        # Whatever the view of scans says: a job that shows new commits runs.
        scan = last_scan(connection)
        seen = scan, max_lsn(connection)
        now = time.monotonic()
        if seen != self._seen or not self._since:
            self._seen, self._since = seen, now
        quiet = now - self._since
        if quiet > STALLED:
            yield Check("capture job", ok=False, detail=_stalled(quiet), remedy=_START)
        elif scan is not None and scan.failed:
            yield Check("capture job", ok=False, detail=_FAILS, remedy=_LOOK)


def _stalled(seconds: float) -> str:
    return f"the capture job has not read the log for {seconds:.0f} s: changes are not seen"


def check_jobs(connection: Connection) -> Iterator[Check]:
    """The capture job and the retention, as far as the user may see them."""
    row = connection.query_one(_AGE)
    deadline = time.monotonic() + _FIRST_SCAN
    while row is None and time.monotonic() < deadline:
        time.sleep(_PAUSE)
        row = connection.query_one(_AGE)
    azure = connection.edition in AZURE_EDITIONS
    if row is None:
        detail = "the capture job has not read the log since the server was started"
        yield Check("capture job", ok=False, detail=detail, remedy=_START, warning=azure)
    elif row[0] is not None and int(row[0]) > STALLED:
        yield Check("capture job", ok=False, detail=_stalled(int(row[0])), remedy=_START, warning=azure)
    elif (scan := last_scan(connection)) is not None and scan.failed:
        yield Check("capture job", ok=False, detail=_FAILS, remedy=_LOOK)
    else:
        yield Check("capture job", ok=True, detail="the capture job reads the log")
    yield from _retention(connection)


def _retention(connection: Connection) -> Iterator[Check]:
    try:
        jobs = connection.query("EXEC sys.sp_cdc_help_jobs")
    except DRIVER_ERRORS as error:
        if number_of(error) is None:
            raise
        detail = "how long changes are kept is told to db_owner only"
        yield Check("retention", ok=True, detail=detail)
        return
    for job in jobs:
        if str(job[_JOB_TYPE]) != "cleanup":
            continue
        minutes = int(job[_RETENTION])
        detail = f"changes are kept for {minutes / 60:g} h"
        if minutes >= SHORT_RETENTION:
            yield Check("retention", ok=True, detail=detail)
            return
        detail += " only: an engine that is away for longer loads everything again"
        remedy = "EXEC sys.sp_cdc_change_job @job_type = N'cleanup', @retention = 4320;"
        yield Check("retention", ok=False, detail=detail, remedy=remedy, warning=True)
        return
