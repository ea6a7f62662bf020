"""Records as rows of the state file, and back. Columns have the records' own names."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from engine.control.records import (
    Account,
    Backend,
    Connection,
    Database,
    DesiredState,
    HealthStatus,
    Key,
    PauseSchedule,
    Status,
    SyncMode,
    Tag,
    TagColor,
)

Values = dict[str, Any]


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def time_text(time: datetime) -> str:
    """A time as the state file has it: UTC, microseconds, sortable as text."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def column_value(value: Any) -> Any:
    """One field of a record as SQLite keeps it."""
    match value:
        case UUID():
            return str(value)
        case datetime():
            return time_text(value)
        case PauseSchedule():
            return json.dumps({"pause_at": value.pause_at, "resume_at": value.resume_at, "days": value.days})
        case tuple() if value and isinstance(value[0], Tag):
            return json.dumps([[tag.label, tag.color] for tag in value])
        case tuple() | Mapping():
            return json.dumps(value)
        case str():
            return str(value)
        case _:
            return value


def values(record: Account | Key | Connection | Database) -> Values:
    """A record as column values."""
    return {name: column_value(getattr(record, name)) for name in type(record).__dataclass_fields__}


def account(row: sqlite3.Row) -> Account:
    """Read an account."""
    return Account(UUID(row["id"]), row["name"], _time(row["created_at"]))


def key(row: sqlite3.Row) -> Key:
    """Read a key."""
    revoked = row["revoked_at"]
    return Key(
        id=row["id"],
        account_id=UUID(row["account_id"]),
        name=row["name"],
        digest=row["digest"],
        created_at=_time(row["created_at"]),
        revoked_at=None if revoked is None else _time(revoked),
    )


def connection(row: sqlite3.Row) -> Connection:
    """Read a connection."""
    return Connection(
        id=UUID(row["id"]),
        account_id=UUID(row["account_id"]),
        name=row["name"],
        backend=Backend(row["backend"]),
        host=row["host"],
        port=row["port"],
        available_schemas=tuple(json.loads(row["available_schemas"])),
        user=row["user"],
        secret_ref=row["secret_ref"],
        sync_mode=SyncMode(row["sync_mode"]),
        min_sync_interval=row["min_sync_interval"],
        created_at=_time(row["created_at"]),
        updated_at=_time(row["updated_at"]),
    )


def database(row: sqlite3.Row) -> Database:
    """Read an instance."""
    schedule = None if row["pause_schedule"] is None else json.loads(row["pause_schedule"])
    desired, health = row["desired_state"], row["health_status"]
    return Database(
        id=UUID(row["id"]),
        account_id=UUID(row["account_id"]),
        connection_id=UUID(row["connection_id"]),
        name=row["name"],
        mysql_db=row["mysql_db"],
        sync_mode=SyncMode(row["sync_mode"]),
        sync_interval=row["sync_interval"],
        instance_size=row["instance_size"],
        log_level=row["log_level"],
        region=row["region"],
        created_at=_time(row["created_at"]),
        updated_at=_time(row["updated_at"]),
        binlog_server_id=row["binlog_server_id"],
        desired_state=None if desired is None else DesiredState(desired),
        replication_paused=bool(row["replication_paused"]),
        pause_schedule=None
        if schedule is None
        else PauseSchedule(schedule["pause_at"], schedule["resume_at"], tuple(schedule["days"])),
        tags=tuple(Tag(label, TagColor(color)) for label, color in json.loads(row["tags"])),
        status=Status(row["status"]),
        last_error=row["last_error"],
        endpoint_url=row["endpoint_url"],
        health_status=None if health is None else HealthStatus(health),
        runtime=json.loads(row["runtime"]),
    )
