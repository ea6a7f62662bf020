"""Records as the API shows them: names of the contract, times in UTC with milliseconds, no secret and no reference."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from engine.control.records import Connection, Database

Json = dict[str, Any]


def time_shape(time: datetime) -> str:
    """``2026-01-31T12:00:00.123Z``."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def connection_shape(connection: Connection) -> Json:
    """The contract's `Connection`."""
    return {
        "id": str(connection.id),
        "customerId": str(connection.account_id),
        "name": connection.name,
        "backend": connection.backend.value,
        "mysqlHost": connection.host,
        "mysqlPort": connection.port,
        "availableSchemas": list(connection.available_schemas),
        "mysqlUser": connection.user,
        "allowedSyncModes": [mode.value for mode in connection.allowed_sync_modes],
        "minSyncInterval": connection.min_sync_interval,
        "createdAt": time_shape(connection.created_at),
        "updatedAt": time_shape(connection.updated_at),
    }


def database_shape(database: Database) -> Json:
    """The contract's `Database`. What this deployment has no use for (builds, vanity domains) is null."""
    schedule = database.pause_schedule
    return {
        "id": str(database.id),
        "customerId": str(database.account_id),
        "connectionId": str(database.connection_id),
        "name": database.name,
        "mysqlDb": database.mysql_db,
        "syncMode": database.sync_mode.value,
        "syncInterval": database.sync_interval,
        "taskCpu": database.task_cpu,
        "taskMemoryMb": database.task_memory_mb,
        "logLevel": database.log_level,
        "status": database.status.value,
        "lastError": database.last_error,
        "endpointUrl": database.endpoint_url,
        "healthStatus": None if database.health_status is None else database.health_status.value,
        "buildComputeOverride": None,
        "instanceSize": database.instance_size,
        "region": database.region,
        "binlogServerId": database.binlog_server_id,
        "desiredState": None if database.desired_state is None else database.desired_state.value,
        "reflexdbCustomDomain": None,
        "pauseSchedule": None
        if schedule is None
        else {"pauseAt": schedule.pause_at, "resumeAt": schedule.resume_at, "days": list(schedule.days)},
        "tags": [{"label": tag.label, "color": tag.color.value} for tag in database.tags],
        "createdAt": time_shape(database.created_at),
        "updatedAt": time_shape(database.updated_at),
    }
