"""The bodies of requests and answers: names, types, defaults and bounds as the API's contract states them.

The ``mysql*`` names serve every backend. Unknown fields are refused, and so is ``null`` where the contract does not
allow it. What does not fit *between* fields (a schema that is not available, a mode that the backend lacks) is decided
in `engine.control.requests`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

BackendName = Literal["mysql", "postgres", "mssql"]
SyncModeName = Literal["poll", "binlog", "logical", "cdc"]
SizeName = Literal["nano", "small", "medium", "large", "xlarge", "2xlarge"]
LogLevel = Literal["info", "debug", "warn", "error"]
StatusName = Literal[
    "registered",
    "building",
    "deploying",
    "running",
    "pausing",
    "paused",
    "resuming",
    "terminating",
    "terminated",
    "failed",
    "stopped",
]
HealthName = Literal["ok", "degraded", "unreachable", "cap_exceeded"]
ColorName = Literal["gray", "red", "orange", "yellow", "green", "teal", "blue", "purple"]


def _whole(value: object) -> object:
    """Whole numbers as JSON Schema has them: 30 and 30.0, neither "30" nor true."""
    if isinstance(value, (bool, str)) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("not a whole number")
    return value


def _not_null(value: object) -> object:
    if value is None:
        raise ValueError("must not be null: leave the field out")
    return value


def _without_default(schema: dict[str, Any]) -> None:
    """A field that may be left out has no default of null."""
    if schema.get("default", 0) is None:
        del schema["default"]


def _never_null(schema: dict[str, Any]) -> None:
    """None stands for a field that was left out, and is no value that may be sent."""
    _without_default(schema)
    [kind] = [choice for choice in schema.pop("anyOf") if choice != {"type": "null"}]
    schema.update(kind)


IsWhole = BeforeValidator(_whole)
NotNull = BeforeValidator(_not_null)
Name = Annotated[str, Field(min_length=1, max_length=100)]
Text = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535), IsWhole]
Interval = Annotated[int, Field(ge=5, le=3600), IsWhole]
ServerId = Annotated[int, Field(ge=1), IsWhole]
Schemas = Annotated[list[str], Field(min_length=1)]
TimeOfDay = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Day = Annotated[int, Field(ge=0, le=6), IsWhole]


def left_out(description: str | None = None, *, repr: bool = True) -> Any:
    """A field that may be left out, and is None then; it is never null (together with `NotNull`)."""
    return Field(default=None, description=description, repr=repr, json_schema_extra=_never_null)


def nullable(description: str | None = None) -> Any:
    """A field that may be null, or be left out."""
    return Field(default=None, description=description, json_schema_extra=_without_default)


class Body(BaseModel):
    """Base of everything that a request may hold. No error or repr carries an input value."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, hide_input_in_errors=True, validate_by_name=False
    )


class Tag(Body):
    """A label attached to a database for organisation"""

    label: Annotated[str, Field(max_length=30)]
    color: ColorName


class PauseSchedule(Body):
    """Recurring pause/resume schedule (UTC)."""

    pause_at: TimeOfDay = Field(description="HH:MM UTC")
    resume_at: TimeOfDay = Field(description="HH:MM UTC")
    days: list[Day] = Field(description="0=Sun…6=Sat; empty = every day")


class CreateInstanceBody(Body):
    """Optional: create a first database instance as part of this request"""

    name: Name
    mysql_db: Text = Field(description="Schema to use — must be one of availableSchemas")
    instance_size: SizeName = "nano"
    log_level: LogLevel = "info"
    binlog_server_id: Annotated[ServerId | None, NotNull] = left_out()


class CreateConnectionBody(Body):
    """Parameters for creating a new source database connection"""

    backend: BackendName = Field(default="mysql", description="Source database engine")
    name: Name = Field(description="Display name — must be unique per account")
    mysql_host: Text = Field(description="Hostname or IP of the source database server")
    mysql_port: Port = 3306
    available_schemas: Schemas = Field(description="MySQL database names to expose to instances")
    mysql_user: Text
    mysql_password: Text = Field(
        description="Stored in SSM Parameter Store (or the secret store configured) — never written to the database",
        repr=False,
    )
    sync_mode: SyncModeName = Field(
        default="poll",
        description="Poll: periodic full reload; binlog: MySQL CDC; logical: PostgreSQL CDC; cdc: SQL Server CDC",
    )
    sync_interval: Interval = Field(default=30, description="Polling interval in seconds (poll mode only)")
    instance: Annotated[CreateInstanceBody | None, NotNull] = left_out(
        "Optional: create a first database instance as part of this request"
    )


class ChangeConnectionBody(Body):
    """What is to change of a connection; fields that are left out stay."""

    name: Annotated[Name | None, NotNull] = left_out("Display name — must be unique per account")
    mysql_host: Annotated[Text | None, NotNull] = left_out()
    mysql_port: Annotated[Port | None, NotNull] = left_out()
    available_schemas: Annotated[Schemas | None, NotNull] = left_out()
    mysql_user: Annotated[Text | None, NotNull] = left_out()
    mysql_password: Annotated[Text | None, NotNull] = left_out(repr=False)
    sync_mode: Annotated[SyncModeName | None, NotNull] = left_out()
    sync_interval: Annotated[Interval | None, NotNull] = left_out()


class TestConnectionBody(Body):
    """A source to try, before anything is kept of it."""

    __test__ = False

    backend: BackendName = "mysql"
    mysql_host: Text
    mysql_port: Port = 3306
    mysql_user: Text
    mysql_password: Text = Field(repr=False)
    available_schemas: Annotated[list[str] | None, NotNull] = left_out(
        "What is to be looked at; default: what the user may see"
    )
    sync_mode: SyncModeName = "poll"


class CreateDatabaseBody(Body):
    """Parameters for creating a database instance on a connection"""

    connection_id: UUID
    name: Name
    mysql_db: Text = Field(description="Schema to use — must be one of the connection's availableSchemas")
    sync_mode: Annotated[SyncModeName | None, NotNull] = left_out(
        "One of the connection's allowedSyncModes; default: the connection's own"
    )
    sync_interval: Annotated[Interval | None, NotNull] = left_out(
        "Polling interval in seconds; default, and at least: the connection's minSyncInterval"
    )
    instance_size: SizeName = "nano"
    log_level: LogLevel = "info"
    binlog_server_id: Annotated[ServerId | None, NotNull] = left_out()
    pause_schedule: PauseSchedule | None = None
    tags: list[Tag] = []


class ChangeDatabaseBody(Body):
    """What is to change of an instance; fields that are left out stay."""

    name: Annotated[Name | None, NotNull] = left_out()
    sync_mode: Annotated[SyncModeName | None, NotNull] = left_out()
    sync_interval: Annotated[Interval | None, NotNull] = left_out()
    instance_size: Annotated[SizeName | None, NotNull] = left_out("Another size: the instance restarts")
    log_level: Annotated[LogLevel | None, NotNull] = left_out()
    binlog_server_id: ServerId | None = nullable("null: chosen by the instance")
    pause_schedule: PauseSchedule | None = nullable("null: no schedule")
    tags: Annotated[list[Tag] | None, NotNull] = left_out("All of the tags there shall be")


class ReloadBody(Body):
    """What to load anew."""

    table: Annotated[Text | None, NotNull] = left_out("schema.table; left out: every table")


class Answer(BaseModel):
    """Base of what the API answers."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True, validate_by_name=False)


class Connection(Answer):
    """A source database connection shared by one or more database instances"""

    id: UUID
    customer_id: UUID
    name: str
    backend: BackendName = Field(description="Source database engine")
    mysql_host: str
    mysql_port: Port
    available_schemas: list[str] = Field(description="MySQL database names available to instances on this connection")
    mysql_user: str
    allowed_sync_modes: list[SyncModeName] = Field(description="Sync modes available to instances")
    min_sync_interval: int = Field(description="Minimum polling interval in seconds — instances may use a higher value")
    created_at: AwareDatetime
    updated_at: AwareDatetime


class Database(Answer):
    """A database instance config and its current lifecycle status"""

    id: UUID
    customer_id: UUID
    connection_id: UUID = Field(description="The connection that provides source MySQL credentials")
    name: str
    mysql_db: str = Field(description="The MySQL schema on the source server for this instance")
    sync_mode: SyncModeName = Field(description="Sync mode for this instance")
    sync_interval: int = Field(description="Polling interval in seconds (>= connection minSyncInterval)")
    task_cpu: int = Field(description="ECS task vCPU units (256 = 0.25 vCPU)")
    task_memory_mb: int = Field(description="ECS task memory in MiB")
    log_level: LogLevel
    status: StatusName
    last_error: str | None = nullable()
    endpoint_url: str | None = nullable("HTTPS base URL of the running instance")
    health_status: HealthName | None = nullable()
    build_compute_override: str | None = nullable(
        "Forced CodeBuild compute tier for this instance's builds; null = auto-select"
    )
    instance_size: SizeName
    region: str = Field(description="AWS region this instance is deployed to")
    binlog_server_id: int | None = nullable()
    desired_state: str | None = nullable("Queued goal — reconciler drives the instance toward this state")
    reflexdb_custom_domain: str | None = nullable(
        "Vanity subdomain (Teams+ plan). When set, <value>.reflexdb.cloud resolves to this instance."
    )
    pause_schedule: PauseSchedule | None = nullable(
        "Recurring pause/resume schedule (UTC). null when no schedule is configured."
    )
    tags: list[Tag]
    created_at: AwareDatetime
    updated_at: AwareDatetime


class ConnectionAnswer(Answer):
    """One connection."""

    connection: Connection


class CreateConnectionAnswer(Answer):
    """The new connection, and its first instance if one was asked for."""

    connection: Connection
    database: Annotated[Database | None, NotNull] = left_out()


class ConnectionsAnswer(Answer):
    """Every connection of the account."""

    connections: list[Connection]


class DatabaseAnswer(Answer):
    """One instance."""

    database: Database


class DatabasesAnswer(Answer):
    """Every instance of the account."""

    databases: list[Database]


class Issue(Answer):
    """Something that a sync mode needs of the source and does not find, or that is worth knowing."""

    name: str
    severity: Literal["error", "warning"]
    message: str
    remedy: str | None = Field(description="The statement that mends it")


class Readiness(Answer):
    """Whether the source can be followed in this mode."""

    sync_mode: SyncModeName
    ready: bool
    issues: list[Issue]


class TestConnectionAnswer(Answer):
    """What was found at a source."""

    __test__ = False

    ok: bool
    error: Annotated[str | None, NotNull] = left_out(
        "Why not: dns, refused, timeout, unreachable, tls, auth, database, rights, not_ready, unsupported"
    )
    message: Annotated[str | None, NotNull] = left_out("The same for a person")
    latency_ms: float | None = Field(description="Time to open a TCP connection, in milliseconds")
    estimated_size_gb: float | None = Field(description="Size of the schemas looked at, by the server's own estimate")
    available_schemas: list[str] = Field(description="Databases that the user may see")
    readiness: Readiness | None


class InstanceAnswer(Answer):
    """A running instance, as it is now."""

    status: StatusName
    desired_state: str | None
    endpoint_url: str | None
    health_status: HealthName | None
    health: dict[str, Any] | None = Field(description="The instance's own GET /health; null while it does not answer")
    row_counts: dict[str, int] = Field(description="Rows by table")
    available_actions: list[str] = Field(description="What can be asked of it now: POST /databases/{id}/<action>")
    last_error: str | None


class Error(BaseModel):
    """Every answer other than the one asked for."""

    error: str
    message: Annotated[str | None, NotNull] = left_out()
