"""The catalogue of change data capture as rows: cdc.*, its jobs and the capture job's scans."""

from __future__ import annotations

from typing import Any

from tests.support.sqlserver.capture import datetime_ticks
from tests.support.sqlserver.types import BIGINT, BIT, DATETIME, INT, LSN, NTEXT, SYSNAME, TINYINT, SqlType
from tests.support.sqlserver.views import DESC, view


def _lsn(number: int) -> bytes:
    return number.to_bytes(10, "big")


@view(
    "msdb.dbo.cdc_jobs",
    database_id=INT,
    job_type=SYSNAME,
    maxtrans=INT,
    maxscans=INT,
    continuous=BIT,
    pollinginterval=BIGINT,
    retention=BIGINT,
    threshold=BIGINT,
)
def _jobs(session: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for one in session.server.databases.values():
        if one.cdc is not None and one.cdc.jobs:
            rows.append((one.id, "capture", 500, 10, 1, 5, 0, 0))
            rows.append((one.id, "cleanup", 0, 0, 0, 0, one.cdc.retention, 5000))
    return rows


@view("sys.dm_server_services", servicename=SYSNAME, status=INT, status_desc=SYSNAME)
def _services(session: Any) -> list[tuple[Any, ...]]:
    running = session.server.capture_running
    agent = ("SQL Server Agent (MSSQLSERVER)", 4 if running else 1, "Running" if running else "Stopped")
    return [("SQL Server (MSSQLSERVER)", 4, "Running"), agent]


@view(
    "sys.dm_cdc_log_scan_sessions",
    session_id=INT,
    start_time=DATETIME,
    end_time=DATETIME,
    duration=BIGINT,
    scan_phase=DESC,
    error_count=INT,
    tran_count=BIGINT,
    command_count=BIGINT,
    last_commit_cdc_lsn=SqlType("nvarchar", length=23),
    latency=INT,
    empty_scan_count=INT,
    failed_sessions_count=INT,
)
def _scans(session: Any) -> list[tuple[Any, ...]]:
    cdc = session.database.cdc
    if cdc is None or cdc.scan_started is None:
        return []
    start = datetime_ticks(cdc.scan_started)
    end = None if cdc.scan_ended is None else datetime_ticks(cdc.scan_ended)
    phase = "Done" if cdc.scan_ended is not None and not cdc.scan_errors else "Second scan"
    counts = (cdc.transactions, cdc.commands, None, 0, cdc.empty_scans)
    total = (0, start, end, 0, "Aggregate", cdc.failed, *counts, cdc.failed)
    return [total, (cdc.scans + 1, start, end, 0, phase, cdc.scan_errors, *counts, int(cdc.scan_errors > 0))]


@view("sys.dm_cdc_errors", session_id=INT, phase_number=INT, entry_time=DATETIME, error_number=INT, error_message=NTEXT)
def _errors(session: Any) -> list[tuple[Any, ...]]:
    return []


@view(
    "cdc.change_tables",
    object_id=INT,
    version=INT,
    source_object_id=INT,
    capture_instance=SYSNAME,
    start_lsn=LSN,
    end_lsn=LSN,
    supports_net_changes=BIT,
    has_drop_pending=BIT,
    role_name=SYSNAME,
    index_name=SYSNAME,
    filegroup_name=SYSNAME,
    create_date=DATETIME,
    partition_switch=BIT,
)
def _change_tables(session: Any) -> list[tuple[Any, ...]]:
    return [
        (
            one.table.object_id,
            0,
            one.source.object_id,
            one.name,
            _lsn(one.start_lsn),
            None,
            int(one.net_changes),
            None,
            one.role,
            one.index.name if one.index else None,
            None,
            datetime_ticks(one.created),
            1,
        )
        for one in session.database.cdc.instances
    ]


@view(
    "cdc.captured_columns",
    object_id=INT,
    column_name=SYSNAME,
    column_id=INT,
    column_type=SYSNAME,
    column_ordinal=INT,
    is_computed=BIT,
    masking_function=NTEXT,
)
def _captured(session: Any) -> list[tuple[Any, ...]]:
    return [
        (one.table.object_id, name, column.id, column.kind.name, place, int(column.computed is not None), None)
        for one in session.database.cdc.instances
        for place, (name, column) in enumerate(zip(one.names, one.captured, strict=True), start=1)
    ]


@view("cdc.index_columns", object_id=INT, column_name=SYSNAME, index_ordinal=TINYINT, column_id=INT)
def _cdc_index_columns(session: Any) -> list[tuple[Any, ...]]:
    return [
        (one.table.object_id, one.source.by_id(number).name, place, number)
        for one in session.database.cdc.instances
        if one.index
        for place, number in enumerate(one.index.columns, start=1)
    ]


@view(
    "cdc.ddl_history",
    source_object_id=INT,
    object_id=INT,
    required_column_update=BIT,
    ddl_command=NTEXT,
    ddl_lsn=LSN,
    ddl_time=DATETIME,
)
def _history(session: Any) -> list[tuple[Any, ...]]:
    return [
        (
            one.source.object_id,
            one.instance.table.object_id,
            int(one.required),
            one.command,
            _lsn(one.lsn),
            datetime_ticks(one.time),
        )
        for one in session.database.cdc.history
    ]
