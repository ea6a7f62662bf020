"""How far the capture job has come: the end of what change data capture shows, and of the log itself.

Commits are in the tables before they are in the change tables: the capture job reads the log some time later (every
five seconds by default). `log_end` says where the log ends now; once the job has scanned the log after that, whatever
it had to show up to there is shown, even where that was nothing. learn.microsoft.com: "sys.dm_cdc_log_scan_sessions",
"sys.dm_db_log_stats", "cdc.lsn_time_mapping".
"""

from __future__ import annotations

from dataclasses import dataclass

from connectors.sqlserver.connection import Connection
from connectors.sqlserver.position import literal, lsn_of, lsn_of_text
from engine.errors import PreconditionError

_MAX_LSN = "SELECT sys.fn_cdc_get_max_lsn()"
_LOG_END = "SELECT s.log_end_lsn FROM sys.dm_db_log_stats(DB_ID()) s"
_SCAN = """
SELECT TOP (1) s.session_id, s.empty_scan_count, CONVERT(varchar(23), s.end_time, 121), s.scan_phase, s.error_count,
    a.error_count, a.failed_sessions_count
FROM sys.dm_cdc_log_scan_sessions s LEFT JOIN sys.dm_cdc_log_scan_sessions a ON a.session_id = 0
ORDER BY s.session_id DESC
"""
_CLOCK = """
SELECT TOP (1) DATEDIFF_BIG(millisecond, '1970-01-01', SYSUTCDATETIME())
    - DATEDIFF_BIG(millisecond, m.tran_end_time, GETDATE())
FROM cdc.lsn_time_mapping m WHERE m.start_lsn <= {lsn} ORDER BY m.start_lsn DESC
"""
_DONE = "Done"
_A_WHOLE_SCAN = 2
"""Ends of scans within which a whole one lies: the first may have begun before, the second began behind the first."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The newest session in which the capture job scans, or has scanned, the log.

    Sessions that find nothing may share a row, which counts them. `ended` is None while one is under way. `failures` are
    the errors and the failed sessions of this one and of all together.
    """

    session: int
    empty: int
    ended: str | None
    phase: str
    failures: tuple[int, ...]

    @property
    def failed(self) -> bool:
        """Whether this very session met an error."""
        return self.failures[0] > 0


def max_lsn(connection: Connection) -> int:
    """The last commit that the change tables show; 0 while there is none."""
    row = connection.query_one(_MAX_LSN)
    return lsn_of(row[0] if row else None)


def log_end(connection: Connection) -> int:
    """An LSN at or behind every commit that any reader of the tables can have seen."""
    row = connection.query_one(_LOG_END)
    try:
        return lsn_of_text(str(row[0] if row else ""))
    except ValueError:
        raise PreconditionError(
            "the server does not say where its log ends (sys.dm_db_log_stats)",
            "SQL Server 2016 SP2 or later is needed, and: GRANT VIEW DATABASE STATE TO ...;",
        ) from None


def commit_time(connection: Connection, lsn: int) -> float | None:
    """When the last commit up to `lsn` was, in seconds since the epoch by the source's clock; None if unknown."""
    row = connection.query_one(_CLOCK.format(lsn=literal(lsn)))
    return None if row is None or row[0] is None else int(row[0]) / 1000


def last_scan(connection: Connection) -> Scan | None:
    """The newest scan of the log by the capture job; None if there was none since the server was started."""
    row = connection.query_one(_SCAN)
    if row is None:
        return None
    session, empty, ended, phase, *failures = row
    return Scan(int(session), int(empty or 0), ended, str(phase), tuple(int(n or 0) for n in failures))


class ScanWatch:
    """Waits for the capture job to scan the log once more, from its beginning to its end, without an error.

    Every scan moves the number of its session or the count of empty ones by one, once, and ends at a time of its own; which
    of these a server shows, and when, does not matter: two steps of any one of them hold a whole scan.
    """

    def __init__(self) -> None:
        self._first: Scan | None = None
        self._ended: str | None = None
        self._ends = 0
        self._counted = (0, 0)
        """The newest session, and the count of empty scans when it was first seen."""

    def passed(self, connection: Connection) -> bool:
        """Whether a whole scan of the log lies between the first call and this one. To be called again and again."""
        scan = last_scan(connection)
        first = self._first
        if scan is None or first is None or scan.failed or _begun_anew(first, scan):
            # What a scan that failed has read is not shown: count from here.
            self._first, self._ends = scan, 0
            if scan is not None:
                self._ended, self._counted = scan.ended, (scan.session, scan.empty)
            return False
        if scan.ended is not None and scan.ended != self._ended:
            self._ended = scan.ended
            self._ends += 1
        if scan.session != self._counted[0]:
            self._counted = scan.session, scan.empty
        steps = max(self._ends, scan.empty - self._counted[1], scan.session - first.session)
        return scan.phase == _DONE and steps >= _A_WHOLE_SCAN


def _begun_anew(first: Scan, scan: Scan) -> bool:
    """Whether scans failed meanwhile, or are counted from 1 again (as the server does when it is started)."""
    return scan.failures[1:] != first.failures[1:] or scan.session < first.session
