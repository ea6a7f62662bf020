"""What the control API keeps: accounts, keys, connections, and the database instances on them.

Values are immutable and plain; their JSON form (`mysqlHost`, `taskCpu`, ...) is made in `engine.control.shapes`. Times
are aware, in UTC. The source's password is in none of them: `Connection.secret_ref` says where the secret store has it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from engine.config.model import CDC_MODES
from engine.sizes import SIZES


class Backend(enum.StrEnum):
    """Engine of a source database."""

    MYSQL = "mysql"
    POSTGRES = "postgres"
    MSSQL = "mssql"


class SyncMode(enum.StrEnum):
    """How an instance follows its source."""

    POLL = "poll"
    BINLOG = "binlog"
    LOGICAL = "logical"
    CDC = "cdc"


class Status(enum.StrEnum):
    """Where an instance is in its life. Written by the reconciler only (a new record is `REGISTERED`)."""

    REGISTERED = "registered"
    BUILDING = "building"
    DEPLOYING = "deploying"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    FAILED = "failed"
    STOPPED = "stopped"


class DesiredState(enum.StrEnum):
    """What an instance is driven towards. Written by users (and pause schedules); it stays when it is reached."""

    RUNNING = "running"
    PAUSED = "paused"
    TERMINATED = "terminated"


class HealthStatus(enum.StrEnum):
    """What a running instance says of itself (``GET /health``)."""

    OK = "ok"
    DEGRADED = "degraded"
    UNREACHABLE = "unreachable"
    CAP_EXCEEDED = "cap_exceeded"


class TagColor(enum.StrEnum):
    """Colours of tags."""

    GRAY = "gray"
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    TEAL = "teal"
    BLUE = "blue"
    PURPLE = "purple"


@dataclass(frozen=True, slots=True)
class Account:
    """Who owns keys, connections and instances: the `customerId` of the API."""

    id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """A bearer token's record. `digest` is the SHA-256 of its secret part, which is kept nowhere."""

    id: str
    account_id: UUID
    name: str
    digest: bytes = field(repr=False)
    created_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """A source database server, shared by the instances on it."""

    id: UUID
    account_id: UUID
    name: str
    backend: Backend
    host: str
    port: int
    available_schemas: tuple[str, ...]
    user: str
    secret_ref: str
    """Where the secret store keeps the password. Another value means that the password was changed."""
    sync_mode: SyncMode
    min_sync_interval: int
    """Seconds; the instances' intervals are at least this."""
    created_at: datetime
    updated_at: datetime

    @property
    def allowed_sync_modes(self) -> tuple[SyncMode, ...]:
        """The modes that instances may use: poll, and the connection's own."""
        return (SyncMode.POLL,) if self.sync_mode is SyncMode.POLL else (SyncMode.POLL, self.sync_mode)


@dataclass(frozen=True, slots=True)
class Tag:
    """A label on an instance."""

    label: str
    color: TagColor


@dataclass(frozen=True, slots=True)
class PauseSchedule:
    """A recurring pause. Times are ``HH:MM`` in UTC; days count from Sunday (0) to Saturday (6), none means every day."""

    pause_at: str
    resume_at: str
    days: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Database:
    """A database instance: what was asked for, and what the reconciler last saw of it."""

    id: UUID
    account_id: UUID
    connection_id: UUID
    name: str
    mysql_db: str
    """The schema that is replicated: one of the connection's `available_schemas`."""
    sync_mode: SyncMode
    sync_interval: int
    instance_size: str
    """A name of `engine.sizes.SIZES`."""
    log_level: str
    region: str
    created_at: datetime
    updated_at: datetime
    binlog_server_id: int | None = None
    desired_state: DesiredState | None = None
    """None until the instance is provisioned for the first time."""
    replication_paused: bool = False
    """The instance shall serve what it has and follow its source no further."""
    pause_schedule: PauseSchedule | None = None
    tags: tuple[Tag, ...] = ()
    status: Status = Status.REGISTERED
    last_error: str | None = None
    endpoint_url: str | None = None
    health_status: HealthStatus | None = None
    runtime: Mapping[str, Any] = field(default_factory=dict)
    """The reconciler's own notes (JSON values): handles, attempts, times. The API shows none of them."""

    @property
    def task_cpu(self) -> int:
        """CPU units (1024 to a CPU)."""
        return SIZES[self.instance_size].cpu_units

    @property
    def task_memory_mb(self) -> int:
        """Memory in MiB."""
        return SIZES[self.instance_size].memory_mb


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance with the connection that it is on: all that a reconciler needs to know."""

    database: Database
    connection: Connection


def sync_modes_of(backend: Backend) -> tuple[SyncMode, ...]:
    """The modes that a backend knows: poll, and its change data capture."""
    return (SyncMode.POLL, SyncMode(CDC_MODES[backend]))
